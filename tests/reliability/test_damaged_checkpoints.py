"""One flipped bit, or a cut, anywhere in a checkpoint is found, and never loaded (R11)."""

from __future__ import annotations

import random
import shutil
import time
from collections import Counter
from pathlib import Path

import pytest
import torch
from killing import state_bytes, tell

from moco.checkpoint import Checkpoint, Identity, load_newest, save_checkpoint
from moco.errors import CheckpointError
from moco.recipes import MOCO_V2

FLIPS, CUTS = 100, 20
OLDER, NEWER = 1, 2
DATA_FILES = ["model.safetensors", "train_state.pt", "recipe.json"]


@pytest.fixture(scope="module")
def saved(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a run of two checkpoints."""
    run = tmp_path_factory.mktemp("saved") / "run"
    run.mkdir()
    for step in (OLDER, NEWER):
        draw = torch.Generator().manual_seed(step)
        model = {"encoder.weight": torch.randn(60, 40, generator=draw)}
        optimizer = {"state": {0: {"exp_avg": torch.randn(60, 40, generator=draw)}}}
        identity = Identity(MOCO_V2, 0, 64, "0" * 64)
        save_checkpoint(run, Checkpoint(step, model, {"optimizer": optimizer}, identity))
    return run


def damages(content: bytes, seed: str) -> list[bytes]:
    """Return the content with one bit flipped, so many times, and cut to so many lengths."""
    draw, damaged = random.Random(seed), []
    for place in draw.sample(range(8 * len(content)), FLIPS):
        flipped = bytearray(content)
        flipped[place // 8] ^= 1 << place % 8
        damaged.append(bytes(flipped))
    lengths = [0, 10, len(content) - 1]
    lengths += draw.sample(range(11, len(content) - 1), CUTS - len(lengths))
    return damaged + [content[:length] for length in lengths]


@pytest.mark.parametrize("name", DATA_FILES)
def test_damage_to_a_file_is_found_named_and_passed_over(
    name: str, saved: Path, tmp_path: Path
) -> None:
    run, began = shutil.copytree(saved, tmp_path / "run"), time.monotonic()
    path, found = run / "checkpoints" / f"step_{NEWER:08d}" / name, 0
    damaged = damages(path.read_bytes(), name)
    for content in damaged:
        path.write_bytes(content)
        lines: list[str] = []
        checkpoint = load_newest(run, named=lines)
        assert checkpoint is not None
        assert checkpoint.step == OLDER
        (line,) = lines
        assert str(path) in line
        found += 1
    seconds = time.monotonic() - began
    tell(f"R11 {name}: {found} of {len(damaged)} damages found and named, {seconds:.1f} s")
    assert found == FLIPS + CUTS


def test_damage_to_the_manifest_is_found_or_changes_nothing(saved: Path, tmp_path: Path) -> None:
    run, whole = shutil.copytree(saved, tmp_path / "run"), load_newest(saved)
    assert whole is not None
    path = run / "checkpoints" / f"step_{NEWER:08d}" / "manifest.json"
    content = path.read_bytes()
    version = content.index(b'"format_version": 1') + len('"format_version": ')
    other_versions = [
        content[:version] + bytes([content[version] ^ 1 << bit]) + content[version + 1 :]
        for bit in range(8)
    ]
    outcomes: Counter[str] = Counter()
    for damaged in [*damages(content, path.name), *other_versions]:
        path.write_bytes(damaged)
        outcomes[outcome(run, path.parent, whole)] += 1
    counts = ", ".join(f"{count} {what}" for what, count in outcomes.most_common())
    tell(f"R11 manifest.json, and each bit of its version: {counts}, 0 loaded wrong")
    assert outcomes.keys() <= {"passed over", "refused", "without consequence"}
    assert outcomes["passed over"] >= 115
    assert outcomes.total() == FLIPS + CUTS + 8


def outcome(run: Path, newest: Path, whole: Checkpoint) -> str:
    """Return what comes of loading; the manifest alone holds a few things that nothing reads."""
    lines: list[str] = []
    try:
        checkpoint = load_newest(run, named=lines)
    except CheckpointError as error:  # it reads as the format of a later release
        return "refused" if str(newest) in str(error) else str(error)
    if checkpoint is not None and checkpoint.step == OLDER:
        return "passed over" if str(newest) in lines[0] else lines[0]
    if checkpoint is not None and state_bytes(checkpoint) == state_bytes(whole):
        return "without consequence"
    return "loaded wrong"
