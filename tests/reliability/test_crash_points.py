"""A crash right after any call that writes a checkpoint loses one save at the most (R8)."""

from __future__ import annotations

import builtins
import importlib
import io
import os
import shutil
import threading
import time
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any

import killed_runs
import pytest
from killed_runs import Job, drawing_monitor, pretraining, train_job
from killing import (
    PATIENCE_SECONDS,
    differing_bytes,
    kill_group,
    metrics_of,
    save_marks,
    start_process,
    tell,
)

from moco.checkpoint import Checkpoint, load_newest, save_checkpoint, verify
from moco.errors import InterruptedRunError
from moco.plan import make_plan
from moco.recipe import Recipe
from moco.recipe_files import set_fields
from moco.recipes import MOCO_V2

pytestmark = [
    pytest.mark.skipif(not hasattr(os, "fork"), reason="processes are forked"),
    pytest.mark.timeout(240),
]
CRASHED = 9
BEFORE = 6
"""Steps that the run has done, and saved, when it goes on to the save that crashes."""
CALLS = [
    (os, "mkdir"),
    (os, "fsync"),
    (os, "rename"),
    (os, "replace"),
    (os, "unlink"),
    (os, "rmdir"),
    (shutil, "rmtree"),
    (builtins, "open"),
    (io, "open"),
]
"""The calls by which files are made, brought to the disk, named and removed; open for writing."""


class CrashAfter:
    """Ends the process at once after the `last`-th call, of those counted once a save began."""

    def __init__(self, last: int, log: Path) -> None:
        self.left, self.log = last, open(log, "a", buffering=1)  # noqa: SIM115
        self.thread = 0
        """That of the save, once it began: training goes on beside it."""

    def watch(self, home: Any, name: str) -> None:
        plain = getattr(home, name)

        def call(*arguments: Any, **options: Any) -> Any:
            counts = self.thread == threading.get_ident() and (
                name != "open" or str([*arguments[1:2], options.get("mode", "")]).count("w")
            )
            result = plain(*arguments, **options)
            if counts:
                self.count(f"{name} {arguments[0]}")
            return result

        setattr(home, name, call)

    def count(self, call: str) -> None:
        self.log.write(f"{call}\n")
        self.left -= 1
        if self.left == 0:
            os._exit(CRASHED)

    def during(self, save: Callable[..., Path]) -> Callable[..., None]:
        """Return `save`, such that the calls in it count."""

        def watched(run: Path, checkpoint: Checkpoint) -> None:
            self.thread = threading.get_ident()
            save(run, checkpoint)
            os._exit(0)  # there are no more calls

        return watched


def train_and_crash(job: Job, last: int, log: Path) -> None:
    """Go on with the run, and crash in its first save."""
    crash = CrashAfter(last, log)
    killed_runs.replace_everywhere(save_checkpoint, crash.during(save_checkpoint))
    module = importlib.import_module("moco.checkpoint")

    def save_file(*arguments: Any) -> None:
        plain(*arguments)
        crash.count(f"write {arguments[1]}")

    plain, module.save_file = module.save_file, save_file
    for home, name in CALLS:
        crash.watch(home, name)
    train_job(job)


@pytest.fixture(scope="module")
def recipe(tiny_settings: list[str]) -> Recipe:
    fewer = ["views.order=[crop, horizontal_flip]", "epochs=2", "algorithm=adamw"]
    return set_fields(MOCO_V2, [*tiny_settings, *fewer, "learning_rate=1e-3"])


def train_in_here(photos: Path, recipe: Recipe, run: Path, stop_after: int = 0) -> None:
    """Train, with the monitor of the other runs; stop after so many steps, 0 for at the end."""
    answers = iter([None] * (stop_after - 1) + [75] if stop_after else [])
    plan = make_plan(photos, recipe=recipe, run=run, device="cpu", workers=0)
    with suppress(InterruptedRunError):
        pretraining.train(plan, monitor=drawing_monitor, stop=lambda: next(answers, None))


@pytest.fixture(scope="module")
def runs(photos: Path, recipe: Recipe, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a folder with a run that came to its end, and one that was stopped on its way."""
    folder = tmp_path_factory.mktemp("runs")
    train_in_here(photos, recipe, folder / "unbroken")
    train_in_here(photos, recipe, folder / "stopped", stop_after=BEFORE)
    return folder


def test_a_crash_after_any_call_of_a_save_loses_no_more_than_that_save(
    runs: Path, photos: Path, recipe: Recipe, tmp_path: Path
) -> None:
    unbroken, began, found, last = load_newest(runs / "unbroken"), time.monotonic(), [], 0
    assert unbroken is not None
    while last == len(found):
        last += 1
        run = shutil.copytree(runs / "stopped", tmp_path / str(last))
        job, log = Job(photos, recipe, run), tmp_path / f"{last}.calls"
        process = start_process(train_and_crash, job, last, log)
        process.join(PATIENCE_SECONDS)
        kill_group(process)
        calls = log.read_text().splitlines()
        if process.exitcode == CRASHED:
            found.append(calls[-1].partition(" ")[0])
        else:
            assert process.exitcode == 0, killed_runs.log_of(job).read_text()
        check_after_crash(run, calls[-1])
        train_in_here(photos, recipe, run)
        checkpoint = load_newest(run)
        assert checkpoint is not None
        assert differing_bytes(checkpoint, unbroken) == 0, calls[-1]
        assert metrics_of(run) == metrics_of(runs / "unbroken"), calls[-1]
        assert not save_marks(run), calls[-1]  # what the crash left is collected
        shutil.rmtree(run)
    counts = ", ".join(f"{found.count(name)} {name}" for name in dict.fromkeys(found))
    tell(
        f"R8: {len(found)} crash points ({counts}), a verified checkpoint after each, "
        f"{time.monotonic() - began:.1f} s"
    )
    assert len(found) >= 12
    assert {"write", "fsync", "rename", "replace", "rmtree"} <= set(found)


def check_after_crash(run: Path, call: str) -> None:
    """The newest checkpoint is that of the save or the one before, and the pointer names one."""
    checkpoint = load_newest(run)
    assert checkpoint is not None
    assert checkpoint.step in (BEFORE, BEFORE + 1), call
    verify(run / "checkpoints" / (run / "latest").read_text())
