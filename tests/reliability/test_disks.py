"""R9, R10: disks that are full, read-only, gone or failing: exit code 5, no false "saved"."""

from __future__ import annotations

import errno
import importlib
import json
import os
import shutil
import subprocess
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest

from moco.checkpoint import load_newest, verify
from moco.cli.main import main
from moco.errors import DivergedError, StorageError
from moco.plan import Plan, make_plan
from moco.recipe import Recipe
from moco.recipe_files import set_fields
from moco.recipes import MOCO_V2
from moco.run_lock import RunLock
from moco.run_records import read_lines
from moco.session import Session

pretraining = importlib.import_module("moco.pretraining")
checkpoint_module = importlib.import_module("moco.checkpoint")
STEPS = 12
ROOM = 8 << 20


@pytest.fixture(scope="module")
def recipe(tiny_settings: list[str]) -> Recipe:
    return set_fields(MOCO_V2, [*tiny_settings, "views.order=[crop]", "epochs=3"])


def plan_of(photos: Path, recipe: Recipe, run: Path) -> Plan:
    return make_plan(photos, recipe=recipe, run=run, device="cpu", workers=0)


@pytest.fixture
def save_at(monkeypatch: pytest.MonkeyPatch) -> Callable[..., None]:
    """Let runs save after these steps alone, and wait for it."""

    def set_steps(*steps: int) -> None:
        plain = Session.save

        def save(session: Session) -> None:
            plain(session)
            session.finish_saving()

        monkeypatch.setattr(Session, "is_save_due", lambda session: session.step in {*steps, STEPS})
        monkeypatch.setattr(Session, "save", save)

    return set_steps


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """Return a disk of 8 MiB."""
    place = tmp_path / "disk"
    place.mkdir()
    command = ["mount", "-t", "tmpfs", "-o", f"size={ROOM}", "tmpfs", str(place)]
    if shutil.which("mount") is None or subprocess.run(command, capture_output=True).returncode:
        pytest.skip("cannot mount a disk here; run as root")
    yield place
    subprocess.run(["umount", "-l", str(place)], check=True)


class After:
    """Does something once so many steps were taken."""

    def __init__(self, steps: int, work: Callable[[], object]) -> None:
        self.steps, self.work, self.taken = steps, work, 0

    def __call__(self) -> None:
        self.taken += 1
        if self.taken == self.steps:
            self.work()


def status_of(run: Path) -> dict[str, Any]:
    return dict(json.loads((run / "status.json").read_text()))


def steps_kept(run: Path) -> list[int]:
    """Return the steps of the checkpoints that are there, each of which must verify."""
    folders = sorted((run / "checkpoints").glob("*"))
    for folder in folders:
        verify(folder)  # no partial file is left under any name
    return [int(folder.name.removeprefix("step_")) for folder in folders]


def fill(disk: Path) -> None:
    """Leave not a byte free."""
    with open(disk / "other", "ab", buffering=0) as file, suppress(OSError):
        while True:
            file.write(bytes(4096))


@pytest.mark.parametrize("saved_before", [0, 2])
def test_a_full_disk_ends_the_run_and_keeps_what_was_saved(
    saved_before: int,
    small_disk: Path,
    photos: Path,
    recipe: Recipe,
    save_at: Callable[..., None],
    capfd: pytest.CaptureFixture[str],
) -> None:
    run = small_disk / "run"
    save_at(2, 4, 6)
    began = time.monotonic()
    with pytest.raises(StorageError) as caught:
        pretraining.train(
            plan_of(photos, recipe, run),
            stop=After(2 * saved_before + 1, lambda: fill(small_disk)),
        )
    assert time.monotonic() - began < 10
    assert caught.value.exit_code == 5
    for told in (str(run), "No space left on device", "make room"):
        assert told in str(caught.value)
    assert steps_kept(run) == [2, 4][:saved_before]
    (small_disk / "other").unlink()
    pretraining.train(plan_of(photos, recipe, run))
    assert status_of(run)["state"] == "done"


def test_too_little_room_is_said_in_figures_before_anything_is_written(
    small_disk: Path, photos: Path, recipe: Recipe, save_at: Callable[..., None]
) -> None:
    run, written = small_disk / "run", list[str]()

    def take_room() -> None:
        free = shutil.disk_usage(small_disk).free
        (small_disk / "other").write_bytes(bytes(free - (300 << 10)))

    save_at(4)
    with pytest.raises(StorageError, match=r"\d+ MB are needed and 0 MB are free") as caught:
        pretraining.train(plan_of(photos, recipe, run), stop=After(1, take_room))
    assert "step_00000004" in str(caught.value)
    assert steps_kept(run) == written
    assert (status_of(run)["state"], status_of(run)["code"]) == ("failed", 5)


def test_a_disk_that_becomes_read_only_ends_the_run(
    small_disk: Path,
    photos: Path,
    recipe: Recipe,
    save_at: Callable[..., None],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    run = small_disk / "run"
    # what a failing disk does by itself, a command may only do to one that nobody writes
    monkeypatch.setattr(RunLock, "acquire", lambda _: None)
    plain = pretraining.watch_over
    monkeypatch.setattr(pretraining, "watch_over", lambda plan, _: plain(plan))  # no stacks' file

    def protect() -> None:
        subprocess.run(["mount", "-o", "remount,ro", str(small_disk)], check=True)

    save_at(4, 8)
    with pytest.raises(StorageError, match="Read-only file system") as caught:
        pretraining.train(plan_of(photos, recipe, run), stop=After(5, protect))
    assert caught.value.exit_code == 5
    assert steps_kept(run) == [4]
    with pytest.raises(StorageError, match="Read-only file system"):  # nor does it begin
        pretraining.train(plan_of(photos, recipe, run))
    subprocess.run(["mount", "-o", "remount,rw", str(small_disk)], check=True)
    pretraining.train(plan_of(photos, recipe, run))
    subprocess.run(["mount", "-o", "remount,ro", str(small_disk)], check=True)
    pretraining.train(plan_of(photos, recipe, run))  # a finished one needs no disk
    assert status_of(run)["state"] == "done"


@pytest.mark.parametrize("step", [1, 5, 9])
def test_a_directory_that_is_taken_away_ends_the_run_and_stays_away(
    step: int, photos: Path, recipe: Recipe, tmp_path: Path, save_at: Callable[..., None]
) -> None:
    run = tmp_path / "run"
    save_at(4, 8)
    with pytest.raises(StorageError) as caught:
        pretraining.train(
            plan_of(photos, recipe, run), stop=After(step, lambda: shutil.rmtree(run))
        )
    assert str(run) in str(caught.value)
    assert not run.exists()


@pytest.mark.parametrize("call", range(1, 9))
def test_a_disk_that_fails_to_write_is_no_saved(
    call: int,
    photos: Path,
    recipe: Recipe,
    tmp_path: Path,
    save_at: Callable[..., None],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    run, calls, plain = tmp_path / "run", 0, os.fsync

    def fail(descriptor: int) -> None:
        nonlocal calls
        calls += 1
        if calls == call:
            raise OSError(errno.EIO, os.strerror(errno.EIO))
        plain(descriptor)

    save_at(4, 8)

    def begin_to_fail() -> None:
        monkeypatch.setattr(os, "fsync", fail)

    with pytest.raises(StorageError, match="Input/output error"):
        pretraining.train(plan_of(photos, recipe, run), stop=After(5, begin_to_fail))
    monkeypatch.setattr(os, "fsync", plain)
    assert status_of(run)["code"] == 5
    newest = load_newest(run)
    assert newest is not None
    assert newest.step in (4, 8)
    pretraining.train(plan_of(photos, recipe, run))
    assert [row["step"] for row in read_lines(run / "metrics.jsonl")] == list(range(STEPS))


def test_metrics_that_cannot_be_written_end_the_run(
    photos: Path, recipe: Recipe, tmp_path: Path, save_at: Callable[..., None]
) -> None:
    resource = pytest.importorskip("resource")
    run, before = tmp_path / "run", resource.getrlimit(resource.RLIMIT_FSIZE)

    def let_no_file_grow() -> None:
        most = (run / "metrics.jsonl").stat().st_size + 10  # within the next line
        resource.setrlimit(resource.RLIMIT_FSIZE, (most, before[1]))

    save_at(4, 8)
    try:
        with pytest.raises(StorageError, match=r"metrics\.jsonl: File too large"):
            pretraining.train(plan_of(photos, recipe, run), stop=After(5, let_no_file_grow))
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
    assert steps_kept(run) == [4]
    pretraining.train(plan_of(photos, recipe, run))
    assert [row["step"] for row in read_lines(run / "metrics.jsonl")] == list(range(STEPS))


def test_a_status_that_cannot_be_written_hides_no_other_failure(
    photos: Path, recipe: Recipe, tmp_path: Path
) -> None:
    run = tmp_path / "run"

    def fail() -> None:
        (run / "status.json").unlink()
        (run / "status.json").mkdir()
        raise DivergedError("the loss is gone")

    with pytest.raises(DivergedError, match="the loss is gone"):
        pretraining.train(plan_of(photos, recipe, run), stop=fail)


def test_the_command_ends_with_code_5_and_one_line(
    small_disk: Path, photos: Path, tiny_settings: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    fill(small_disk)
    settings = [word for setting in tiny_settings for word in ("--set", setting)]
    options = ["--recipe", "moco-v2", "--epochs", "1", "--workers", "0", *settings]
    code = main(["pretrain", str(photos), "--run", str(small_disk / "run"), *options])
    error = capsys.readouterr().err
    assert code == 5
    assert error.count("moco: error:") == 1
    assert len(error.strip().splitlines()) == 1
    assert "No space left on device" in error
