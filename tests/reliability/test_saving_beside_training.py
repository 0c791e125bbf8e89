"""Checkpoints are written while training goes on, and hold the step that they were begun at."""

from __future__ import annotations

import importlib
import json
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
import torch

from moco.checkpoint import Checkpoint, load_checkpoint, load_newest
from moco.errors import StorageError
from moco.plan import Plan, make_plan
from moco.recipe import Recipe
from moco.recipe_files import set_fields
from moco.recipes import MOCO_V2
from moco.saving import Saver, copied
from moco.session import Session

saving = importlib.import_module("moco.saving")
pretraining = importlib.import_module("moco.pretraining")
STEPS = 12


@pytest.fixture(scope="module")
def recipe(tiny_settings: list[str]) -> Recipe:
    return set_fields(MOCO_V2, [*tiny_settings, "views.order=[crop]", "epochs=3"])


def plan_of(photos: Path, recipe: Recipe, run: Path) -> Plan:
    return make_plan(photos, recipe=recipe, run=run, device="cpu", workers=0)


class SlowDisk:
    """Holds every write back until it is let go."""

    def __init__(self, patch: pytest.MonkeyPatch, error: Exception | None = None) -> None:
        self.begun, self.go, self.error = threading.Event(), threading.Event(), error
        self.plain, self.steps = saving.save_checkpoint, list[int]()
        patch.setattr(saving, "save_checkpoint", self.write)

    def write(self, run: Path, checkpoint: Checkpoint) -> Path:
        self.begun.set()
        assert self.go.wait(60)
        if self.error is not None:
            raise self.error
        self.steps.append(checkpoint.step)
        return Path(self.plain(run, checkpoint))


def made(step: int) -> Checkpoint:
    weight = torch.full((4,), float(step))
    return Checkpoint(step, {"weight": weight}, {"optimizer": {"state": [weight]}}, None)  # type: ignore[arg-type]


def test_what_is_written_is_the_state_as_it_was_begun(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen: list[Checkpoint] = []
    go = threading.Event()

    def write(_: Path, checkpoint: Checkpoint) -> None:
        assert go.wait(60)
        seen.append(checkpoint)

    monkeypatch.setattr(saving, "save_checkpoint", write)
    saver, checkpoint = Saver(tmp_path), made(3)
    saver.begin(checkpoint)
    assert saver.is_busy()
    checkpoint.model["weight"].zero_()  # both are the same tensor
    go.set()
    saver.wait()
    assert not saver.is_busy()
    assert seen[0].model["weight"].tolist() == [3.0] * 4
    assert seen[0].train_state["optimizer"]["state"][0].tolist() == [3.0] * 4


def test_one_is_written_after_the_other(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    now, most = 0, 0

    def write(_: Path, checkpoint: Checkpoint) -> None:
        nonlocal now, most
        now += 1
        most = max(most, now)
        time.sleep(0.02)
        now -= 1

    monkeypatch.setattr(saving, "save_checkpoint", write)
    saver = Saver(tmp_path)
    for step in range(5):
        saver.begin(made(step))
    saver.wait()
    assert most == 1
    assert saver.seconds >= 0.02


def test_a_failure_is_told_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def write(*_: Any) -> None:
        raise StorageError("the disk is full")

    monkeypatch.setattr(saving, "save_checkpoint", write)
    saver = Saver(tmp_path)
    saver.begin(made(1))
    with pytest.raises(StorageError, match="the disk is full"):
        saver.wait()
    saver.wait()
    assert not saver.has_failed()
    saver.begin(made(2))
    with pytest.raises(StorageError):
        saver.begin(made(3))


def test_a_copy_shares_no_memory_and_keeps_kinds() -> None:
    state = {"a": torch.ones(2), "b": [torch.zeros(1), 3, "x"], "c": (1.5, None), "d": {"e": True}}
    copy = copied(state)
    assert copy["a"].data_ptr() != state["a"].data_ptr()  # type: ignore[union-attr]
    assert copy["b"][1:] == [3, "x"]
    assert copy["c"] == (1.5, None)
    assert copy["d"] == {"e": True}


@contextmanager
def watchdog(disk: SlowDisk) -> Iterator[None]:
    try:
        yield
    finally:
        disk.go.set()


def test_training_goes_on_while_the_disk_does_not(
    photos: Path, recipe: Recipe, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = tmp_path / "run"
    disk = SlowDisk(monkeypatch)
    steps: list[int] = []

    def look() -> None:
        steps.append(len(steps) + 1)
        if steps[-1] == 10:  # six steps were taken since the save of step 4 was begun
            assert disk.begun.is_set()
            assert load_newest(run) is None
            assert "checkpoint" in {thread.name for thread in threading.enumerate()}
            disk.go.set()

    with watchdog(disk):
        pretraining.train(plan_of(photos, recipe, run), stop=look)
    assert disk.steps[0] == 4
    assert disk.steps[-1] == STEPS
    newest = load_newest(run)
    assert newest is not None
    assert newest.step == STEPS
    assert "checkpoint" not in {thread.name for thread in threading.enumerate()}


def test_saved_beside_training_equals_saved_in_its_way(
    photos: Path, recipe: Recipe, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Every step is saved; the copy of each must be of that step, not of the next."""
    kept: dict[int, dict[str, torch.Tensor]] = {}
    plain, after_step = saving.save_checkpoint, pretraining.after_step

    def write(run: Path, checkpoint: Checkpoint) -> Path:
        time.sleep(0.05)  # the next steps run meanwhile
        path = Path(plain(run, checkpoint))
        loaded = load_checkpoint(path)
        assert loaded.train_state["step"] == checkpoint.step
        for name, value in kept[checkpoint.step].items():
            assert torch.equal(loaded.model[name], value), (checkpoint.step, name)
        checked.append(checkpoint.step)
        return path

    def note(session: Session, *rest: Any) -> None:
        state = session.contrast.state_dict()
        kept[session.step] = {name: value.clone() for name, value in state.items()}
        after_step(session, *rest)

    checked: list[int] = []
    monkeypatch.setattr(pretraining, "after_step", note)
    monkeypatch.setattr(Session, "is_save_due", lambda _: True)
    monkeypatch.setattr(saving, "save_checkpoint", write)
    pretraining.train(plan_of(photos, recipe, tmp_path / "run"))
    assert checked == list(range(1, STEPS + 1))


def test_a_save_that_fails_beside_ends_the_run_and_is_never_called_saved(
    photos: Path, recipe: Recipe, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = tmp_path / "run"
    disk = SlowDisk(monkeypatch, StorageError("cannot write checkpoint: no room"))
    disk.go.set()
    with pytest.raises(StorageError, match="no room"):
        pretraining.train(plan_of(photos, recipe, run), stop=lambda: time.sleep(0.1))
    status = json.loads((run / "status.json").read_text())
    assert (status["state"], status["code"]) == ("failed", 5)
    assert 4 < status["step"] < 8  # it was noticed by itself, not by the next save
    assert "no room" in status["reason"]


def test_a_failure_at_the_very_last_save_is_no_done(
    photos: Path, recipe: Recipe, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run, plain = tmp_path / "run", saving.save_checkpoint

    def write(place: Path, checkpoint: Checkpoint) -> Path:
        if checkpoint.step == STEPS:
            raise StorageError("cannot write checkpoint: no room")
        return Path(plain(place, checkpoint))

    monkeypatch.setattr(saving, "save_checkpoint", write)
    with pytest.raises(StorageError, match="no room"):
        pretraining.train(plan_of(photos, recipe, run))
    assert json.loads((run / "status.json").read_text())["state"] == "failed"
