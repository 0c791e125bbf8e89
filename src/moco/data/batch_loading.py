"""Batches made ahead by loading processes, and errors of theirs that fit a line."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import torch
from torch.utils.data import DataLoader, Dataset

from moco.data.batches import Batch, Batches
from moco.data.workers import LOADER_TIMEOUT_SECONDS, ImageNotes
from moco.errors import MocoError


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
) -> Iterator[Batch]:
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
    for batch in loader:
        if isinstance(batch, Failed):
            raise batch.kind(batch.reason)
        yield batch
