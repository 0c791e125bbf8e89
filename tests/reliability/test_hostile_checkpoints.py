"""Checkpoints that an enemy made: refused through every way in, unrun, and without their memory.

The sums in their manifests are right: whoever changes a file can change those too.
"""

from __future__ import annotations

import io
import json
import os
import pickle
import tarfile
import zipfile
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest
import torch
from forked import command, in_fork, resident_bytes
from hostile_files import (
    MANIFESTS,
    MODELS,
    OTHER_KINDS,
    RECIPES,
    RUNNING,
    TRAIN_STATES,
    copied,
    match_manifest,
    saved,
)
from safetensors.torch import load_file

import moco
from moco.checkpoint import load_checkpoint, load_newest
from moco.checkpoint_reading import read_weights
from moco.errors import CheckpointError

pytestmark = pytest.mark.skipif(not hasattr(os, "fork"), reason="measured in forked processes")
FILES = ("train_state.pt", "model.safetensors", "recipe.json", "manifest.json")
SPARE = 32 << 20
"""Bytes that reading takes beside the file: what is imported on first use, parsers."""


@pytest.fixture(scope="module")
def words(tiny_settings: list[str]) -> list[str]:
    settings = [word for setting in tiny_settings for word in ("--set", setting)]
    return ["--device", "cpu", "--workers", "0", "--epochs", "1", *settings]


@pytest.fixture(scope="module")
def true_run(words: list[str], photos: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    run = tmp_path_factory.mktemp("true") / "run"
    code, _, errors = command("pretrain", photos, *words, "--run", run)
    assert code == 0, errors
    moco.load(run)  # so that what is imported on first use is there in every child
    state_file = copied(run, run.parent / "begun") / "train_state.pt"
    state_file.write_bytes(saved({**torch.load(state_file), "step": 1}))  # so that it is resumed
    match_manifest(state_file.parent)
    return run.parent / "begun"


class Attack:
    """A copy of the run in which files are changed, and every way to have it read."""

    def __init__(self, run: Path, words: list[str], photos: Path, classes: Path, at: Path) -> None:
        self.run, self.canary = at / "run", at / "canary"
        self.step = copied(run, self.run)
        folders = ["--train", classes / "train", "--test", classes / "test"]
        self.commands: dict[str, list[object]] = {
            "pretrain --run": ["pretrain", photos, *words, "--run", self.run],
            "evaluate RUN": ["evaluate", "knn", self.run, *folders],
            "evaluate CHECKPOINT": ["evaluate", "knn", self.step, *folders],
        }

    def outcome(self, *, seconds: float = 60) -> dict[str, Any]:
        """Return what loading says and takes in bytes, and each command's code and lines."""

        def work() -> dict[str, Any]:
            told: dict[str, Any] = {}
            for name, path in (("load RUN", self.run), ("load CHECKPOINT", self.step)):
                try:
                    moco.load(path)
                    told[name] = [0, "", ""]
                except CheckpointError as error:
                    told[name] = [error.exit_code, "", f"moco: error: {error}\n"]
            # the peak is read before the commands, which hold images too
            told["peak"] = Path("/proc/self/status").read_text().partition("VmHWM:")[2].split()[0]
            for name, given in self.commands.items():
                told[name] = command(*given)
            return told

        before = resident_bytes()
        told = dict(in_fork(work, seconds=seconds).value)
        told["grown"] = int(told.pop("peak")) * 1024 - before
        return told

    def assert_refused(self, *, also_usage: bool = False) -> None:
        """Check exit code 6 and one line from every way in, no canary, and the memory."""
        size = sum(path.stat().st_size for path in self.step.iterdir() if path.is_file())
        told = self.outcome()
        grown = told.pop("grown")
        for name, (code, _, errors) in told.items():
            allowed = (2, 6) if also_usage and name == "pretrain --run" else (6,)
            assert code in allowed, (name, code, errors)
            assert errors.startswith("moco: error: "), (name, errors)
            assert len(errors) < 1000, (name, errors)
            assert "\n" not in errors.rstrip("\n") or name.startswith("load"), (name, errors)
        assert not self.canary.exists()
        assert grown <= 2 * min(size, 1 << 30) + SPARE, (grown, size)


@pytest.fixture
def attack(
    true_run: Path, words: list[str], photos: Path, class_folders: Path, tmp_path: Path
) -> Attack:
    return Attack(true_run, words, photos, class_folders, tmp_path)


def test_the_true_run_is_read_through_every_way_in(attack: Attack) -> None:
    resumed = attack.commands.pop("pretrain --run")
    told = attack.outcome()
    assert told.pop("grown") < SPARE
    assert {name: code for name, (code, _, _) in told.items()} == dict.fromkeys(told, 0)
    code, output, errors = command(*resumed)  # not in a fork, since torch has trained here before
    assert (code, errors) == (0, "")
    assert "going on from step 1 of 4" in output


def trusting(content: bytes) -> None:
    """Unpickle as a reader that trusts does."""
    if content[:2] == b"PK":
        with zipfile.ZipFile(io.BytesIO(content)) as archive:
            pickle.loads(archive.read(archive.namelist()[0]))
    elif content[257:262] == b"ustar":
        with tarfile.open(fileobj=io.BytesIO(content)) as archive:
            pickle.load(archive.extractfile("pickle") or io.BytesIO())
    else:
        torch.load(io.BytesIO(content), weights_only=False)


@pytest.mark.parametrize("case", RUNNING)
def test_the_payloads_are_working_ones(case: str, tmp_path: Path) -> None:
    content = TRAIN_STATES[case](tmp_path / "canary")
    with suppress(Exception):  # the canary is what counts, not what else the file lacks
        trusting(content)
    assert (tmp_path / "canary").exists()


@pytest.mark.parametrize("case", TRAIN_STATES)
def test_a_hostile_train_state_is_refused(case: str, attack: Attack) -> None:
    (attack.step / "train_state.pt").write_bytes(TRAIN_STATES[case](attack.canary))
    match_manifest(attack.step)
    attack.assert_refused()


@pytest.mark.parametrize("case", MODELS)
def test_hostile_weights_are_refused(case: str, attack: Attack) -> None:
    (attack.step / "model.safetensors").write_bytes(MODELS[case](attack.canary))
    match_manifest(attack.step)
    attack.assert_refused()


@pytest.mark.parametrize("case", RECIPES)
def test_a_hostile_recipe_json_is_refused(case: str, attack: Attack) -> None:
    path = attack.step / "recipe.json"
    path.write_bytes(RECIPES[case](json.loads(path.read_text())))
    match_manifest(attack.step)
    attack.assert_refused(also_usage=True)


@pytest.mark.parametrize("case", MANIFESTS)
def test_a_hostile_manifest_is_refused(case: str, attack: Attack) -> None:
    path = attack.step / "manifest.json"
    path.write_bytes(MANIFESTS[case](json.loads(path.read_text())))
    attack.assert_refused()


@pytest.mark.parametrize("kind", OTHER_KINDS)
@pytest.mark.parametrize("name", FILES)
def test_what_is_no_file_is_refused_and_nothing_waits(name: str, kind: str, attack: Attack) -> None:
    (attack.step / name).unlink()
    OTHER_KINDS[kind](attack.step / name)
    if name != "manifest.json":
        match_manifest(attack.step)
    attack.assert_refused()


def test_an_optimizer_of_another_network_is_refused_when_resumed(attack: Attack) -> None:
    path = attack.step / "train_state.pt"
    true = torch.load(path)
    for state in (
        {**true, "optimizer": {"state": 5}},
        {**true, "optimizer": {**true["optimizer"], "param_groups": []}},
        {**true, "cpu_random_state": torch.zeros(1, 7, dtype=torch.uint8)},
        {**true, "cpu_random_state": "x"},
        {name: value for name, value in true.items() if name != "optimizer"},
        {**true, "step": 1, "left_out": [1]},
    ):
        path.write_bytes(saved({**state, "step": 1}))
        match_manifest(attack.step)
        words = attack.commands["pretrain --run"]
        code, _, errors = in_fork(lambda words=words: command(*words)).value
        assert (code, errors.count("\n")) == (6, 1), errors


def make_what_is_no_run(kind: str, path: Path) -> None:
    match kind:
        case ".pkl":
            path.write_bytes(pickle.dumps({"a": 1}))
        case "pipe":
            os.mkfifo(path)
        case "device":
            path.symlink_to("/dev/zero")
        case "link to itself":
            path.symlink_to(path.name)
        case "folder of pickles":
            path.mkdir()
            (path / "x.pkl").write_bytes(pickle.dumps({"a": 1}))
        case "checkpoints is a pipe":
            path.mkdir()
            os.mkfifo(path / "checkpoints")


NO_RUNS = (
    *(".pkl", "pipe", "device", "link to itself"),
    *("folder of pickles", "checkpoints is a pipe"),
)


@pytest.mark.parametrize("kind", NO_RUNS)
def test_what_is_no_run_is_refused_unread(kind: str, attack: Attack, tmp_path: Path) -> None:
    make_what_is_no_run(kind, tmp_path / "other")
    attack.run = attack.step = tmp_path / "other"
    words = [tmp_path / "other", *attack.commands["evaluate RUN"][3:]]
    attack.commands = {"evaluate": ["evaluate", "knn", *words]}
    told = attack.outcome()
    assert told.pop("grown") < SPARE
    assert {name: code for name, (code, _, _) in told.items()} == dict.fromkeys(told, 6)


def test_a_hostile_newest_checkpoint_is_passed_over_for_a_true_one(
    true_run: Path, attack: Attack
) -> None:
    newer = attack.run / "checkpoints" / "step_99999999"
    os.rename(attack.step, newer)
    content = TRAIN_STATES["call"](attack.canary)
    copied_step = copied(true_run, attack.run.parent / "other")
    os.rename(copied_step, attack.step)
    (newer / "train_state.pt").write_bytes(content)
    match_manifest(newer)
    named: list[str] = []
    found = load_newest(attack.run, named=named)
    assert found is not None
    assert found.step == load_checkpoint(attack.step).step
    assert len(named) == 1
    assert "asks for posix.mkdir" in named[0]
    assert not attack.canary.exists()


def test_a_name_given_twice_is_refused_though_both_fit(tmp_path: Path) -> None:
    path = tmp_path / "model.safetensors"
    path.write_bytes(MODELS["one name twice"](tmp_path))
    assert list(load_file(path)) == ["a"]  # its own reader takes one of them
    with pytest.raises(ValueError, match=r"model\.safetensors: a name is given twice"):
        read_weights(path)
