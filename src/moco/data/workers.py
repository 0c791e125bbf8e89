"""Loading processes: what each is at, how it ends, and what to say when one goes wrong.

A process writes the image it reads into memory that the run shares with it, so that the run can
name the image when the process no longer answers.
"""

from __future__ import annotations

import ctypes
import faulthandler
import multiprocessing
import os
import re
import signal
import sys
import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from multiprocessing.sharedctypes import RawArray
from pathlib import Path
from types import FrameType

from torch.utils.data import get_worker_info

from moco.data.images import Images
from moco.errors import DataError

LOADER_TIMEOUT_SECONDS = 300
STACK_SIGNAL: int | None = getattr(signal, "SIGRTMIN", None)
"""Makes a loading process write its stacks; none where the system has no such signal."""
STACK_SECONDS = 0.5
"""How long it gets to write them."""
ENDING = threading.RLock()
"""Held by whoever ends loading processes."""
KILLED = re.compile(r"DataLoader worker \(pid(?:\(s\))? ([\d, ]+)\) (.*)")
TOO_LATE = "DataLoader timed out"


class ImageNotes:
    """What each of `workers` loading processes is at; pid, image and time, shared with the run.

    Args:
        stacks: the file that a process which hangs adds its stacks to.
    """

    def __init__(self, workers: int, stacks: Path | None = None) -> None:
        self.workers, self.stacks = workers, stacks
        self._pids = RawArray("q", max(1, workers))
        self._images = RawArray("q", [-1] * max(1, workers))
        self._since = RawArray("d", max(1, workers))
        self._at_the_end: dict[int, tuple[int, float]] | None = None

    def begin(self, worker: int) -> None:
        """Make this process loading process number `worker`."""
        leave_signals_to_the_run(worker)
        self._pids[worker] = os.getpid()
        if self.stacks is not None and STACK_SIGNAL is not None:
            with suppress(OSError):  # the disk is full: the run goes on without
                stacks = open(self.stacks, "a", encoding="utf-8")  # noqa: SIM115  until it ends
                faulthandler.register(STACK_SIGNAL, file=stacks)

    def note(self, image_id: int) -> None:
        """Say in a loading process which image it turns to, -1 when it is done with a batch."""
        worker = get_worker_info()
        if worker is not None:
            self._images[worker.id], self._since[worker.id] = image_id, time.monotonic()

    def at(self) -> dict[int, tuple[int, float]]:
        """Return for each process, by pid, the image it is at and for how many seconds.

        Of processes that were ended, what they were at then.
        """
        if self._at_the_end is not None:
            return self._at_the_end
        now, rows = time.monotonic(), zip(self._pids, self._images, self._since, strict=True)
        return {pid: (image, now - since) for pid, image, since in rows if pid}

    def keep(self) -> None:
        """Let `at` return from now on what it returns now: the processes are about to be ended."""
        self._at_the_end = self.at()


def named_loss(error: Exception, notes: ImageNotes, images: Images) -> DataError | None:
    """Return what is to be said of a loading process that was lost; None if `error` is another.

    Processes that hang write their stacks and are ended.
    """
    text = str(error)
    if killed := KILLED.search(text):
        lost = [int(pid) for pid in killed[1].split(",")]
        return DataError(
            f"loading process {_places(lost, notes, images)} {killed[2].strip(' .')}; if it wanted "
            "memory, use fewer --workers; the same command goes on from the last checkpoint"
        )
    if TOO_LATE not in text:
        return None
    seconds = float(re.findall(r"[\d.]+", text)[0])
    slow = [pid for pid, (image, since) in notes.at().items() if image >= 0 and since > seconds / 2]
    all_of_them = list(notes.at())
    where = _places(slow, notes, images) or f"one of {', '.join(map(str, all_of_them))}"
    who = f"loading process {where} hangs" if all_of_them else "no loading process came up"
    end_hung_processes(notes)
    stacks = f"its stacks are in {notes.stacks}; " if notes.stacks and STACK_SIGNAL else ""
    return DataError(
        f"no batch came for {seconds:g} s: {who}; {stacks}mend that file "
        "or its storage, or raise --timeout; the same command goes on from the last checkpoint"
    )


def _places(pids: Sequence[int], notes: ImageNotes, images: Images) -> str:
    """Return processes with the image each is at: "17, at a.png for 31 s"."""
    at = notes.at()
    places = []
    for pid in pids:
        image, since = at.get(pid, (-1, 0.0))
        known = 0 <= image < len(images)
        places.append(f"{pid}, at {images.name(image)} for {since:.0f} s," if known else f"{pid}")
    return " and ".join(places)


def end_hung_processes(notes: ImageNotes) -> None:
    """Let loading processes of this run write their stacks, then kill them.

    One whose code hangs inside a library would answer no other signal, and the run would wait for
    it when it ends.
    """
    notes.keep()
    own = [child for child in multiprocessing.active_children() if child.pid in notes.at()]
    with deaths_unannounced(), ENDING:
        if STACK_SIGNAL is not None:
            for child in own:
                with suppress(ProcessLookupError):  # another thread ended it meanwhile
                    os.kill(child.pid or 0, STACK_SIGNAL)
            time.sleep(STACK_SECONDS)
        for child in own:
            child.kill()
        for child in own:
            child.join(STACK_SECONDS)


@contextmanager
def deaths_unannounced() -> Iterator[None]:
    """Keep torch from raising an error, wherever the main thread is, when a process dies.

    Until whoever ends processes is done with it.
    """
    if threading.current_thread() is not threading.main_thread() or not hasattr(signal, "SIGCHLD"):
        yield
        return
    before = signal.signal(signal.SIGCHLD, signal.SIG_DFL)
    try:
        yield
    finally:
        with ENDING:
            signal.signal(signal.SIGCHLD, signal.SIG_DFL if before is None else before)


STOP_SIGNALS = frozenset(
    getattr(signal, name)
    for name in ("SIGTERM", "SIGINT", "SIGHUP", "SIGUSR1", "SIGUSR2")
    if hasattr(signal, name)  # Windows has two of them
)


@contextmanager
def stop_signals_held() -> Iterator[None]:
    """Hold back signals to stop while loading processes start.

    What starts has no answer to them yet, and would end; `leave_signals_to_the_run` gives it one.
    """
    if not hasattr(signal, "pthread_sigmask"):
        yield
        return
    before = signal.pthread_sigmask(signal.SIG_BLOCK, STOP_SIGNALS)
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


def leave_signals_to_the_run(_worker: int) -> None:
    """Let a loading process outlive a signal to its whole group: the run answers it, and saves.

    A second TERM ends it all the same, as torch sends one to a process that hangs. When the run
    is killed, the process ends with it.
    """
    for name in ("SIGINT", "SIGHUP", "SIGUSR1", "SIGUSR2"):
        number = getattr(signal, name, None)  # Windows has one of them
        if number is not None:
            signal.signal(number, signal.SIG_IGN)
    signal.signal(signal.SIGTERM, _end_at_the_next)
    if hasattr(signal, "pthread_sigmask"):
        signal.pthread_sigmask(signal.SIG_UNBLOCK, STOP_SIGNALS)
    _end_with_the_run()


def _end_at_the_next(number: int, _frame: FrameType | None) -> None:
    signal.signal(number, signal.SIG_DFL)


def _end_with_the_run() -> None:
    """Ask Linux to kill this process when its parent ends; elsewhere torch looks now and then."""
    if sys.platform != "linux":
        return
    parent = multiprocessing.parent_process()
    set_parent_death_signal = 1  # PR_SET_PDEATHSIG of <sys/prctl.h>
    with suppress(OSError, AttributeError):  # a libc without prctl
        ctypes.CDLL(None).prctl(set_parent_death_signal, signal.SIGKILL)
    if parent is not None and parent.pid != os.getppid() and not parent.is_alive():
        os.kill(os.getpid(), signal.SIGKILL)  # it ended before it was asked
