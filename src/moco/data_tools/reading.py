"""Every image of a source read once, by some processes, with a small result for each in order."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import Generic, TypeVar

import torch
from torch.utils.data import DataLoader, Dataset

from moco.data.images import Images
from moco.data.workers import LOADER_TIMEOUT_SECONDS, leave_signals_to_the_run
from moco.device import cpu_count, forks
from moco.errors import DataError

Found = TypeVar("Found")
Report = Callable[[int, int], None]
"""Called with (images done, images in all)."""

CHUNK = 16
"""Images that a process reads between two answers: an answer costs as much as a small image."""
FEW_IMAGES = 512
"""Read here, in less time than processes take to start."""
MOST_WORKERS = 16


class Chunks(Dataset[list[Found]], Generic[Found]):
    """What `work` finds in each image, some images at a time."""

    def __init__(
        self,
        images: Images,
        image_ids: Sequence[int],
        work: Callable[[Images, int], Found],
        size: int,
    ) -> None:
        self.images, self.image_ids, self.work, self.size = images, image_ids, work, size

    def __len__(self) -> int:
        return -(-len(self.image_ids) // self.size)

    def __getitem__(self, number: int) -> list[Found]:
        first = number * self.size
        wanted = self.image_ids[first : first + self.size]
        return [self.work(self.images, image_id) for image_id in wanted]


def each_image(
    images: Images,
    image_ids: Sequence[int],
    work: Callable[[Images, int], Found],
    *,
    workers: int,
    chunk: int = CHUNK,
    report: Report | None = None,
) -> Iterator[Found]:
    """Yield `work(images, image_id)` for each image, in order, made by `workers` processes.

    Args:
        work: a function of a module, as processes that are not forked import it.
        chunk: images whose results may wait in memory, for each process three times.

    Raises:
        DataError: A process was ended, mostly for want of memory.
    """
    total, done = len(image_ids), 0
    size = max(1, min(chunk, total // (4 * max(1, workers))))
    chunks = Chunks(images, image_ids, work, size)
    loader = DataLoader(
        chunks,
        batch_size=None,
        collate_fn=as_it_is,
        num_workers=workers,
        prefetch_factor=2 if workers else None,
        timeout=LOADER_TIMEOUT_SECONDS if workers else 0,
        generator=torch.Generator(),
        worker_init_fn=leave_signals_to_the_run,
    )
    for found in _until_lost(iter(loader)):
        yield from found
        done += len(found)
        if report is not None:
            report(done, total)


def _until_lost(chunks: Iterator[list[Found]]) -> Iterator[list[Found]]:
    while True:
        try:
            found = next(chunks)
        except StopIteration:
            return
        except RuntimeError as error:
            if not str(error).startswith("DataLoader "):  # raised in a process: a bug
                raise
            raise DataError(
                f"a process that reads images was lost ({str(error).splitlines()[0]}); use fewer "
                "--workers, or 0"
            ) from error
        yield found


def as_it_is(found: list[Found]) -> list[Found]:
    """Return what a process found: torch would make tensors of it."""
    return found


def reading_processes(asked: int | None, images: int) -> int:
    """Return how many processes should read so many images: as asked, or as many as help."""
    if asked is not None:
        return asked
    if images < FEW_IMAGES or not forks():
        return 0
    return min(MOST_WORKERS, cpu_count())
