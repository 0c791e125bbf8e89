"""Files of weights as an enemy would make them: nothing runs, memory and time stay small."""

from __future__ import annotations

import io
import pickle
import struct
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from forked import in_fork
from hostile_files import MODELS, OTHER_KINDS, RUNNING, TRAIN_STATES, Make, Runs, saved

from moco.errors import CheckpointError
from moco.foreign import read_foreign

MOST_SECONDS, MOST_BYTES = 15, 400 << 20
"""A million names in a file take more than its size; a claim of 4 TB takes nothing."""


def old(state: Any) -> bytes:
    return saved(state, _use_new_zipfile_serialization=False)


def old_with_count(count: int) -> bytes:
    """Return a file of torch before 1.6 whose only storage claims so many numbers."""
    content = old({"x": torch.zeros(4)})
    place = content.rindex(struct.pack("<q", 4))
    return content[:place] + struct.pack("<q", count) + content[place + 8 :]


def old_with_shape(shape: bytes) -> bytes:
    """Return one whose pickle claims another shape: K\\4\\x85, one side of 4, in its place."""
    content = old({"x": torch.zeros(4)})
    assert content.count(b"K\x04\x85") == 1
    return content.replace(b"K\x04\x85", shape)


def arrays(before: bytes, after: bytes) -> bytes:
    content = pickle.dumps({"model": {"x": np.zeros(4, np.float32)}}, 4)
    assert before in content
    return content.replace(before, after)


WEIGHTS: dict[str, Make] = {
    "numpy objects": lambda canary: pickle.dumps({"model": np.array([Runs(canary)], object)}),
    "call among arrays": lambda canary: pickle.dumps({"model": Runs(canary)}, 5),
    "array of 4 TB": lambda _: arrays(b"K\x04\x85", b"\x8a\x06\0\0\0\0\0\1\x85"),
    "array of text": lambda _: arrays(b"\x8c\x02f4", b"\x8c\x02U4"),
    "old, more numbers than there are": lambda _: old_with_count(2**40),
    "old, fewer than none": lambda _: old_with_count(-1),
    "old, shape beyond the storage": lambda _: old_with_shape(b"\x8a\x06\0\0\0\0\0\1\x85"),
    "old, cut": lambda _: old({"x": torch.zeros(4)})[:-8],
    "old, magic alone": lambda _: old({})[:15],
    "a module": lambda _: saved(torch.nn.Linear(2, 2)),
    "getattr": lambda _: b"\x80\x02cbuiltins\ngetattr\n(X\1\0\0\0aX\1\0\0\0btR.",
    "known package, deeper": lambda _: b"\x80\x04\x8c\x09mmengine2\x8c\x04evil\x93)R.",
    "call of a call": lambda _: b"\x80\x02}X\1\0\0\0xctorch\nSize\n)R)Rs.",
    "marks without end": lambda _: b"\x80\x02" + b"(" * 1_000_000,
    "claims 2 GB of text": lambda _: b"\x80\x02}X\xff\xff\xff\x7fabc",
    "empty": lambda _: b"",
    "web page": lambda _: b"<!DOCTYPE html><html>",
    "pointer": lambda _: b"version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 1\n",
    "noise": lambda _: bytes(range(256)) * 40,
    "zeros": lambda _: bytes(4096),
}
EVERY = {
    **{f"state, {name}": make for name, make in TRAIN_STATES.items()},
    **{f"safetensors, {name}": make for name, make in MODELS.items()},
    **WEIGHTS,
}


@pytest.mark.parametrize("name", EVERY)
def test_hostile_weights_are_refused(name: str, tmp_path: Path) -> None:
    canary, file = tmp_path / "canary", tmp_path / "weights.pth"
    file.write_bytes(EVERY[name](canary))

    def work() -> str:
        try:
            read_foreign(file)
        except CheckpointError as error:
            return str(error)
        return ""

    done = in_fork(work)
    assert str(file) in done.value
    assert "\n" not in done.value
    assert len(done.value) < 1000
    assert done.seconds < MOST_SECONDS
    assert done.grown < MOST_BYTES
    assert not canary.exists()


def test_those_payloads_run_in_a_reader_that_trusts_them(tmp_path: Path) -> None:
    for number, name in enumerate((*RUNNING[:2], "call among arrays")):
        canary = tmp_path / str(number)
        content = {**TRAIN_STATES, **WEIGHTS}[name](canary)
        if name in WEIGHTS:
            pickle.loads(content)
        else:
            torch.load(io.BytesIO(content), weights_only=False)
        assert canary.exists(), name


@pytest.mark.parametrize("kind", OTHER_KINDS)
def test_what_is_no_file_of_weights_is_refused(kind: str, tmp_path: Path) -> None:
    OTHER_KINDS[kind](tmp_path / "weights.pth")
    with pytest.raises(CheckpointError, match=r"weights\.pth cannot be read"):
        read_foreign(tmp_path / "weights.pth")


@pytest.mark.parametrize(
    ("name", "reason"),
    [
        ("state, call", "it asks for posix.mkdir"),
        ("a module", "it asks for torch.nn.modules.linear.Linear"),
        ("old, more numbers than there are", "claims more numbers than it holds"),
        ("state, one number as 4 TB", "claims more numbers than it holds"),
        ("state, storage of 4 TB", "claims more numbers than it holds"),
        ("old, shape beyond the storage", "claims more numbers than it holds"),
        ("array of 4 TB", "claims more numbers than it holds"),
        ("empty", "it is empty"),
        ("web page", "it is a web page"),
        ("pointer", "Git LFS pointer"),
    ],
)
def test_the_reason_is_exact(name: str, reason: str, tmp_path: Path) -> None:
    file = tmp_path / "weights.pth"
    file.write_bytes(EVERY[name](tmp_path / "canary"))
    with pytest.raises(CheckpointError, match=reason):
        read_foreign(file)
