"""Batches made ahead by loading processes, and errors of theirs that fit a line."""

from __future__ import annotations

import multiprocessing
import signal
import threading
import time
import weakref
from collections.abc import Generator, Iterator, Sequence
from dataclasses import dataclass
from multiprocessing.process import BaseProcess

import torch
from torch.utils.data import DataLoader, Dataset

from moco.data.batches import Batch, Batches
from moco.data.workers import (
    ENDING,
    LOADER_TIMEOUT_SECONDS,
    TOO_LATE,
    ImageNotes,
    end_hung_processes,
    stop_signals_held,
)
from moco.errors import MocoError

LOOK_SECONDS = 0.5
DYING_SECONDS = 2.0
"""What a killed process held open is closed a moment before the system calls it dead."""


@dataclass
class Failed:
    """What kept a loading process from making a batch; torch would send its whole stack instead."""

    kind: type[MocoError]
    reason: str


class WorkerBatches(Dataset[Batch | Failed]):
    """The batches as a loading process makes them."""

    def __init__(self, batches: Batches) -> None:
        self.batches = batches

    def __getitem__(self, step: int) -> Batch | Failed:
        try:
            return self.batches[step]
        except MocoError as error:
            return Failed(type(error), str(error))


def load_batches(
    batches: Batches,
    *,
    start: int,
    stop: int,
    workers: int,
    pin_memory: bool,
    timeout: float = LOADER_TIMEOUT_SECONDS,
    notes: ImageNotes | None = None,
) -> Generator[Batch, None, None]:
    """Yield the batches of steps `start` to `stop` - 1, made by `workers` processes, 0 for none.

    Args:
        timeout: seconds that a batch may take to come.
        notes: receives what each process is at; `named_loss` then names the image.

    Raises:
        DataError: A batch cannot be made.
        RuntimeError: torch's, when a loading process was killed or hangs.
    """
    batches.notes = notes or ImageNotes(workers)
    loader = DataLoader(
        WorkerBatches(batches) if workers else batches,
        batch_size=None,
        sampler=range(start, stop),
        num_workers=workers,
        pin_memory=pin_memory,
        timeout=timeout if workers else 0,
        prefetch_factor=4 if workers else None,
        generator=torch.Generator(),  # or the loader would draw from the run's random state
        worker_init_fn=batches.notes.begin,
    )
    others = multiprocessing.active_children()
    with stop_signals_held():
        made = iter(loader)
    own = [child for child in multiprocessing.active_children() if child not in others]
    overdue = Overdue(batches.notes, timeout, own) if workers else None
    while True:
        try:
            batch = overdue.wait_for(made) if overdue is not None else next(made)
        except StopIteration:
            return
        if isinstance(batch, Failed):
            raise batch.kind(batch.reason)
        yield batch


class Overdue:
    """Ends the loading processes when a batch is overdue and torch's own limit did not see it.

    That ends where a batch begins to come: one that hangs as it hands a batch over is waited for
    without end.

    Args:
        children: the loading processes.
    """

    def __init__(
        self, notes: ImageNotes, timeout: float, children: Sequence[BaseProcess] = ()
    ) -> None:
        self.notes, self.timeout, self.children = notes, timeout, children
        self.is_over = False
        self._waiting_since: float | None = None
        looks = threading.Thread(target=_look, args=(weakref.ref(self),), daemon=True)
        looks.start()

    def wait_for(self, made: Iterator[Batch | Failed]) -> Batch | Failed:
        """Return the next batch.

        Raises:
            RuntimeError: As torch says it, when it did not come in time or its process is dead.
        """
        self._waiting_since = time.monotonic()
        try:
            return next(made)
        except (RuntimeError, OSError, EOFError) as error:
            if self.is_over:
                raise RuntimeError(f"{TOO_LATE} after {self.timeout} seconds") from error
            patience = 0.0 if isinstance(error, RuntimeError) else DYING_SECONDS  # a broken pipe
            if (loss := _loss_among(self.children, patience)) is not None:
                raise RuntimeError(loss) from error
            raise
        finally:
            self._waiting_since = None

    def look(self) -> None:
        """End them if it is time to."""
        with ENDING:
            since = self._waiting_since
            if since is not None and time.monotonic() - since > self.timeout + LOOK_SECONDS:
                self.is_over = True
                end_hung_processes(self.notes)


def _loss_among(children: Sequence[BaseProcess], patience: float) -> str | None:
    """Return how a loading process died, in torch's words, None if each is alive or done.

    Args:
        patience: seconds that one may still take to die.
    """
    until = time.monotonic() + patience
    while not any(child.exitcode for child in children) and time.monotonic() < until:
        time.sleep(0.02)
    for child in children:
        if code := child.exitcode:
            how = f"exited unexpectedly with exit code {code}"
            if code < 0:
                how = f"is killed by signal: {signal.strsignal(-code)}"
            return f"DataLoader worker (pid {child.pid}) {how}"
    return None


def _look(overdue: weakref.ref[Overdue]) -> None:
    """Look now and then, as long as anybody waits for batches at all."""
    while (alive := overdue()) is not None and not alive.is_over:
        alive.look()
        del alive
        time.sleep(LOOK_SECONDS)
