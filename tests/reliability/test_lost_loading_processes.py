"""R15, loading processes: one that is killed, hangs or raises is named, with the file it was at."""

from __future__ import annotations

import multiprocessing
import os
import re
import signal
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from ranks import (
    assert_bitwise_equal,
    break_image,
    descendants,
    is_running,
    left_after,
    shared_memory_of,
    started,
    status_of,
    wait_for,
)

from moco.data.batch_loading import Overdue
from moco.data.workers import (
    ENDING,
    ImageNotes,
    deaths_unannounced,
    end_hung_processes,
)

TIMEOUT = 3
WITHIN = TIMEOUT + 5
IMAGE, FILE = 10, "even/20.png"

pytestmark = pytest.mark.timeout(120)


@pytest.fixture(scope="module")
def words(photos: Path, tiny_settings: list[str]) -> list[str]:
    settings = [word for setting in tiny_settings for word in ("--set", setting)]
    options = ["--recipe", "moco-v2", "--epochs", "6", "--device", "cpu", "--precision", "float32"]
    where = ["--workers", "1", "--timeout", str(TIMEOUT)]
    return ["pretrain", str(photos), *options, *settings, *where]


@pytest.fixture(scope="module")
def unbroken(words: list[str], tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("unbroken")
    with started([*words, "--run", str(folder / "run")], folder) as ranks:
        assert ranks.wait(60) == [0], ranks.said(0)
    assert not list((folder / "run").glob("stacks*"))
    return folder / "run"


@pytest.mark.parametrize(
    ("kind", "told"),
    [
        ("is killed", rf"loading process \d+, at {FILE} for \d s, is killed by signal: Killed"),
        ("hangs", rf"no batch came for 3 s: loading process \d+, at {FILE} for \d s, hangs"),
        ("hangs in a library", rf"loading process \d+, at {FILE} for \d s, hangs"),
        ("raises", rf"image {FILE} cannot be loaded: KeyError: .of a source's own code"),
    ],
)
def test_a_loading_process_that_goes_wrong_is_named_with_its_file(
    kind: str, told: str, words: list[str], unbroken: Path, tmp_path: Path
) -> None:
    run = tmp_path / "run"
    command, fault = [*words, "--run", str(run)], (kind, 0, IMAGE)
    with started(command, tmp_path, breaking=break_image, fault=fault) as ranks:
        wait_for(lambda: (run / "latest").exists() or ranks.wait(0) != [None])
        began, pids = time.monotonic(), ranks.pids()
        codes = ranks.wait(30)
        seconds = time.monotonic() - began
    (line,) = ranks.said(0)
    assert codes == [3], line
    assert seconds < WITHIN
    assert re.search(told, line), line
    status = status_of(run)
    assert (status["state"], status["code"]) == ("failed", 3)
    assert re.search(told, status["reason"])
    if kind.startswith("hangs"):
        stacks = (run / "stacks_rank0.txt").read_text()
        assert f"its stacks are in {run / 'stacks_rank0.txt'}" in line
        assert "in hang_in" in stacks  # the loading process
        assert "in run_steps" in stacks  # the run, as it waited
    assert left_after(pids) == []
    assert shared_memory_of(pids) == []
    with started(command, tmp_path) as ranks:
        assert ranks.wait(60) == [0], ranks.said(0)
    assert_bitwise_equal(run, unbroken)


@pytest.mark.parametrize("kind", ["is late", "hangs in a library"])
def test_a_loading_process_does_not_outlive_a_killed_run(
    kind: str, words: list[str], tmp_path: Path
) -> None:
    run = tmp_path / "run"
    command = [*words, "--run", str(run), "--epochs", "1000", "--timeout", "300"]
    fault = (kind, 0, IMAGE)
    with started(command, tmp_path, breaking=break_image, fault=fault) as ranks:
        wait_for(lambda: (run / "latest").exists())
        pid = ranks.processes[0].pid
        assert pid is not None
        loading = descendants(pid)
        assert loading
        assert all(is_running(one) for one in loading)
        os.kill(pid, signal.SIGKILL)
        assert ranks.wait(10) == [-signal.SIGKILL]
        assert left_after(loading) == []
    assert shared_memory_of([pid, *loading]) == []


def test_one_that_ended_meanwhile_is_no_failure(monkeypatch: pytest.MonkeyPatch) -> None:
    ended = multiprocessing.get_context("fork").Process(target=int)
    ended.start()
    ended.join()
    notes = SimpleNamespace(at=lambda: {ended.pid: (3, 9.0)}, keep=lambda: None)
    monkeypatch.setattr(multiprocessing, "active_children", lambda: [ended])
    end_hung_processes(notes)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    "error", [ConnectionResetError(), EOFError(), RuntimeError("(pid(s) 1) ?")]
)
def test_a_broken_pipe_is_told_as_the_death_that_broke_it(error: Exception) -> None:
    """What a dying process held is closed before it counts as dead: torch sees a pipe alone."""
    dying = multiprocessing.get_context("fork").Process(target=die_soon)
    dying.start()
    if isinstance(error, RuntimeError):  # torch looked late enough, but does not say how
        dying.join()

    def torch_sees_the_pipe() -> Iterator[Any]:
        raise error
        yield

    overdue = Overdue(ImageNotes(1), 60, [dying])
    with pytest.raises(RuntimeError, match=rf"\(pid {dying.pid}\) is killed by signal: Killed"):
        overdue.wait_for(torch_sees_the_pipe())
    overdue.is_over = True


def test_an_error_of_the_pipe_stays_itself_when_nobody_died() -> None:
    def breaks() -> Iterator[Any]:
        raise OSError("another")
        yield

    overdue = Overdue(ImageNotes(0), 60)
    with pytest.raises(OSError, match="another"):
        overdue.wait_for(breaks())
    overdue.is_over = True


def test_what_another_thread_still_ends_is_not_raised_later() -> None:
    """Both may find a batch overdue; torch raises wherever the main thread then is."""

    def raise_it(*_: object) -> None:
        raise RuntimeError("DataLoader worker is killed")

    child = multiprocessing.get_context("fork").Process(target=time.sleep, args=(60,))
    child.start()
    begun = threading.Event()

    def end_it() -> None:
        with ENDING:
            begun.set()
            time.sleep(0.3)
            child.kill()
            child.join()
            time.sleep(0.1)

    before = signal.signal(signal.SIGCHLD, raise_it)
    try:
        thread = threading.Thread(target=end_it)
        thread.start()
        begun.wait()
        with deaths_unannounced():
            pass
        assert signal.getsignal(signal.SIGCHLD) is raise_it
        thread.join()
    finally:
        signal.signal(signal.SIGCHLD, before)
    assert child.exitcode == -signal.SIGKILL


def die_soon() -> None:
    time.sleep(0.3)
    os.kill(os.getpid(), signal.SIGKILL)
