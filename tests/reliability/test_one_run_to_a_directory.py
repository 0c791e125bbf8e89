"""R25: two runs never share a directory, and a killed one does not keep it."""

from __future__ import annotations

import importlib
import json
import multiprocessing
import os
import signal
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from multiprocessing.process import BaseProcess
from pathlib import Path
from typing import Any

import pytest

from moco.errors import MocoError, UsageError
from moco.plan import make_plan
from moco.recipe import Recipe
from moco.recipe_files import set_fields
from moco.recipes import MOCO_V2
from moco.run_lock import LOCK_NAME, RunLock

pretraining = importlib.import_module("moco.pretraining")
run_lock = importlib.import_module("moco.run_lock")
pytestmark = pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork")
PATIENCE = 60


@pytest.fixture(scope="module")
def recipe(tiny_settings: list[str]) -> Recipe:
    return set_fields(MOCO_V2, [*tiny_settings, "views.order=[crop]", "epochs=3"])


def train_slowly(photos: Path, recipe: Recipe, run: Path, results: Any, seconds: float) -> None:
    plan = make_plan(photos, recipe=recipe, run=run, device="cpu", workers=0)
    try:
        pretraining.train(plan, stop=lambda: time.sleep(seconds))
        results.put((os.getpid(), 0, ""))
    except MocoError as error:
        results.put((os.getpid(), error.exit_code, str(error)))


@contextmanager
def started(work: Callable[..., None], *args: Any) -> Iterator[BaseProcess]:
    process = multiprocessing.get_context("fork").Process(target=work, args=args)
    process.start()
    try:
        yield process
    finally:
        process.kill()
        process.join()


def wait_for(happens: Callable[[], bool]) -> None:
    end = time.monotonic() + PATIENCE
    while not happens():
        assert time.monotonic() < end, "waited in vain"
        time.sleep(0.01)


def test_a_second_run_is_refused_and_a_killed_one_makes_room(
    photos: Path, recipe: Recipe, tmp_path: Path
) -> None:
    run, results = tmp_path / "run", multiprocessing.get_context("fork").Queue()
    plan = make_plan(photos, recipe=recipe, run=run, device="cpu", workers=0)
    with started(train_slowly, photos, recipe, run, results, 0.1) as first:
        wait_for((run / "latest").exists)
        before = (run / "recipe.yaml").stat().st_mtime_ns
        for resume in ("auto", "never"):
            with pytest.raises(UsageError, match=f"in use by process {first.pid} on") as caught:
                pretraining.train(plan, resume=resume)
            assert caught.value.exit_code == 2
        assert (run / "recipe.yaml").stat().st_mtime_ns == before
        assert not list(run.glob("replaced-*"))
        os.kill(first.pid or 0, signal.SIGKILL)
        first.join()
        assert (run / LOCK_NAME).exists()  # nobody could remove it
    pretraining.train(plan)
    assert json.loads((run / "status.json").read_text())["state"] == "done"
    assert not (run / LOCK_NAME).exists()


def test_of_two_that_begin_at_once_one_goes_on(
    photos: Path, recipe: Recipe, tmp_path: Path
) -> None:
    for attempt in range(3):
        run, results = tmp_path / f"run-{attempt}", multiprocessing.get_context("fork").Queue()
        arguments = (photos, recipe, run, results, 0.1)
        with started(train_slowly, *arguments), started(train_slowly, *arguments):
            codes = sorted(results.get(timeout=PATIENCE)[1] for _ in range(2))
        assert codes == [0, 2]


def hold(run: Path, ready: Any) -> None:
    RunLock(run).acquire()
    if os.fork() == 0:  # as loading processes, which may outlive a kill for some seconds
        time.sleep(PATIENCE)
        os._exit(0)
    ready.set()
    time.sleep(PATIENCE)


def test_a_child_that_outlives_a_killed_run_does_not_keep_its_directory(tmp_path: Path) -> None:
    ready = multiprocessing.get_context("fork").Event()
    with started(hold, tmp_path, ready) as holder:
        assert ready.wait(PATIENCE)
        lock = RunLock(tmp_path)
        with pytest.raises(UsageError, match="in use by process"):
            lock.acquire()
        children = Path(f"/proc/{holder.pid}/task/{holder.pid}/children")
        orphans = [int(pid) for pid in children.read_text().split()] if children.exists() else []
        holder.kill()
        holder.join()
        lock.acquire()
        lock.release()
        for pid in orphans:
            os.kill(pid, signal.SIGKILL)


def take_and_give_back(run: Path, holders: Path, failures: Any) -> None:
    for turn in range(100):
        lock = RunLock(run)
        try:
            lock.acquire()
        except UsageError:
            continue
        try:
            mark = holders / "held"
            mark.mkdir()  # fails if another is inside
            mark.rmdir()
        except OSError as error:
            failures.put(f"{turn}: {error}")
        lock.release()


def test_removing_the_lock_file_never_lets_two_in(tmp_path: Path) -> None:
    context = multiprocessing.get_context("fork")
    failures = context.Queue()
    (tmp_path / "holders").mkdir()
    processes = [
        context.Process(target=take_and_give_back, args=(tmp_path, tmp_path / "holders", failures))
        for _ in range(4)
    ]
    for process in processes:
        process.start()
    for process in processes:
        process.join(PATIENCE)
        assert process.exitcode == 0
    assert failures.empty(), failures.get()


def test_a_lock_on_a_file_that_was_removed_meanwhile_counts_for_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    plain, calls = run_lock._lock, 0

    def lock_late(descriptor: int) -> None:
        nonlocal calls
        calls += 1
        if calls == 1:  # between opening and locking, its last holder left
            os.remove(tmp_path / LOCK_NAME)
        plain(descriptor)

    monkeypatch.setattr(run_lock, "_lock", lock_late)
    lock = RunLock(tmp_path)
    lock.acquire()
    assert calls == 2
    assert json.loads((tmp_path / LOCK_NAME).read_text())["pid"] == os.getpid()
    lock.release()


def test_a_directory_that_cannot_be_written_has_no_lock(tmp_path: Path) -> None:
    RunLock(tmp_path / "missing").acquire()
    assert not (tmp_path / "missing").exists()


def test_a_run_that_never_began_leaves_no_directory(
    photos: Path, recipe: Recipe, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(_: object) -> None:
        raise MemoryError

    monkeypatch.setattr(pretraining, "build_plan", fail)
    plan = make_plan(photos, recipe=recipe, run=tmp_path / "run", device="cpu", workers=0)
    with pytest.raises(MemoryError):
        pretraining.train(plan)
    assert not (tmp_path / "run").exists()
