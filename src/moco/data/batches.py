"""Batches of two views: the batch is a function of the step, whoever makes it.

The order of images depends on (seed, epoch), the views of an image on (seed, epoch, image, view):
the same for any number of workers and after any restart, and a run starts at any step at once.
"""

from __future__ import annotations

import signal
from collections.abc import Iterator
from dataclasses import dataclass
from types import FrameType

import numpy as np
import torch
from PIL import Image
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

from moco.data.images import Images, UnreadableImageError
from moco.data.views import ImageOperation, build_view, to_pixels
from moco.errors import DataError
from moco.specs import ViewsSpec

LOADER_TIMEOUT_SECONDS = 300


@dataclass
class Batch:
    """Two uint8 views [N, 3, H, W] of images with ids [N]."""

    step: int
    view_a: Tensor
    view_b: Tensor
    image_ids: Tensor
    skipped: list[tuple[str, str]]
    """Files that could not be read and why; another image stands in for each."""

    def pin_memory(self) -> Batch:
        """Return the batch in memory that a GPU can copy from; called by torch's loader."""
        self.view_a, self.view_b = self.view_a.pin_memory(), self.view_b.pin_memory()
        self.image_ids = self.image_ids.pin_memory()
        return self


class Batches(Dataset[Batch]):
    """`batches[step]` for every step of a run; no image twice in an epoch, the rest is dropped.

    Args:
        batch_size: images of all processes together, a multiple of `processes`.
        process: whose share of each batch this is, of so many `processes`: in rank order they make
            up the batch that one process would have.
    """

    def __init__(
        self,
        images: Images,
        views: ViewsSpec,
        *,
        batch_size: int,
        seed: int,
        process: int = 0,
        processes: int = 1,
    ) -> None:
        self.images, self.batch_size, self.seed = images, batch_size, seed
        self.share = batch_size // processes
        self.first = process * self.share
        self.both = build_view(views, 0), build_view(views, 1)
        self.steps_per_epoch = len(images) // batch_size
        self._epoch_order: tuple[int, np.ndarray[tuple[int], np.dtype[np.int64]]] | None = None

    def __getitem__(self, step: int) -> Batch:
        epoch, place = divmod(step, self.steps_per_epoch)
        first = place * self.batch_size + self.first
        chosen = self.order(epoch)[first : first + self.share]
        skipped: list[tuple[str, str]] = []
        ids, views_a, views_b = [], [], []
        random_state = torch.get_rng_state()
        for wanted in chosen:
            image_id, view_a, view_b = self.views_of(int(wanted), epoch, skipped)
            ids.append(image_id)
            views_a.append(view_a)
            views_b.append(view_b)
        torch.set_rng_state(random_state)
        return Batch(step, torch.stack(views_a), torch.stack(views_b), torch.tensor(ids), skipped)

    def order(self, epoch: int) -> np.ndarray[tuple[int], np.dtype[np.int64]]:
        """Return the epoch's permutation of all image ids."""
        if self._epoch_order is None or self._epoch_order[0] != epoch:
            order = np.random.default_rng((self.seed, epoch)).permutation(len(self.images))
            self._epoch_order = epoch, order
        return self._epoch_order[1]

    def views_of(
        self, image_id: int, epoch: int, skipped: list[tuple[str, str]]
    ) -> tuple[int, Tensor, Tensor]:
        """Return two views of the image, or of the next one that can be read, and its id."""
        for candidate in range(image_id, image_id + len(self.images)):
            candidate %= len(self.images)
            try:
                image = self.images.read(candidate)
            except UnreadableImageError as error:
                skipped.append((self.images.name(candidate), str(error)))
                continue
            seeds = np.random.SeedSequence((self.seed, epoch, candidate)).generate_state(
                2, np.uint64
            )
            view_a, view_b = (
                seeded_view(view, image, int(seed))
                for view, seed in zip(self.both, seeds, strict=True)
            )
            return candidate, view_a, view_b
        raise DataError(f"none of the {len(self.images)} images can be read; {skipped[0]}")


def seeded_view(view: ImageOperation, image: Image.Image, seed: int) -> Tensor:
    """Return the uint8 view [3, H, W] that `seed` alone decides."""
    torch.default_generator.manual_seed(seed)
    return to_pixels(view(image))


def to_device(batch: Batch, device: torch.device) -> tuple[Tensor, Tensor, Tensor]:
    """Return both uint8 views [N, 3, H, W] and the ids [N] on the device."""
    view_a, view_b, image_ids = (
        rows.to(device, non_blocking=True) for rows in (batch.view_a, batch.view_b, batch.image_ids)
    )
    return view_a, view_b, image_ids


def load_batches(
    batches: Batches, *, start: int, stop: int, workers: int, pin_memory: bool
) -> Iterator[Batch]:
    """Yield the batches of steps `start` to `stop` - 1, made by `workers` processes, 0 for none."""
    loader = DataLoader(
        batches,
        batch_size=None,
        sampler=range(start, stop),
        num_workers=workers,
        pin_memory=pin_memory,
        timeout=LOADER_TIMEOUT_SECONDS if workers else 0,
        prefetch_factor=4 if workers else None,
        generator=torch.Generator(),  # or the loader would draw from the run's random state
        worker_init_fn=leave_signals_to_the_run,
    )
    return iter(loader)


def leave_signals_to_the_run(_worker: int) -> None:
    """Let a loading process outlive a signal to its whole group: the run answers it, and saves.

    A second TERM ends it all the same, as torch sends one to a process that hangs.
    """
    for name in ("SIGINT", "SIGHUP", "SIGUSR1", "SIGUSR2"):
        number = getattr(signal, name, None)  # Windows has one of them
        if number is not None:
            signal.signal(number, signal.SIG_IGN)
    signal.signal(signal.SIGTERM, _end_at_the_next)


def _end_at_the_next(number: int, _frame: FrameType | None) -> None:
    signal.signal(number, signal.SIG_DFL)
