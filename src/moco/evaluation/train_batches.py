"""One random view of each labelled image: the batches that a network is fine-tuned on.

The same crops, flips and order as pre-training's, and like those a function of (seed, epoch,
image). Letters: N images of a batch, C channels, S side.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

from moco.data.changes import Changes, draw_changes
from moco.data.crops import CROP_DRAWS, crop_box, cut_into, fit
from moco.data.device_views import apply_changes
from moco.data.draws import uniform_draws
from moco.data.images import Images, UnreadableImageError
from moco.data.order import Order
from moco.data.workers import LOADER_TIMEOUT_SECONDS, leave_signals_to_the_run
from moco.specs import ViewsSpec


@dataclass
class TrainBatch:
    """Crops of the images that could be read, and what is still to be done to them."""

    crops: Tensor
    """[N, C, S, S] uint8, or float32 where images are deep."""
    changes: Changes
    image_ids: Tensor
    """[N]"""
    skipped: list[tuple[str, str]]
    """Names of images that could not be read, and why."""


class EpochBatches(Dataset[TrainBatch]):
    """The batches of one epoch: every image once.

    Args:
        full: all batches have `batch_size` images but the last, which has what is left; otherwise
            they are as equal as they can be.
    """

    def __init__(
        self,
        images: Images,
        views: ViewsSpec,
        *,
        batch_size: int,
        seed: int,
        epoch: int,
        full: bool = False,
    ) -> None:
        self.images, self.views, self.seed, self.epoch = images, views, seed, epoch
        order = Order(np.array([len(images)]), seed=seed)
        ids = order.images_at(epoch, np.arange(len(images)))
        steps = steps_of(len(images), batch_size)
        self.parts = np.array_split(ids, batch_size * np.arange(1, steps) if full else steps)

    def __len__(self) -> int:
        return len(self.parts)

    def __getitem__(self, place: int) -> TrainBatch:
        ids = self.parts[place]
        draws = uniform_draws(self.seed, self.epoch, ids, 0, CROP_DRAWS).tolist()
        crops = self._empty(len(ids))
        read: list[int] = []
        skipped: list[tuple[str, str]] = []
        for row, image_id in enumerate(ids.tolist()):
            try:
                pixels = fit(self.images.read(image_id), self.views.channels, self.views.deep)
            except UnreadableImageError as error:
                skipped.append((self.images.name(image_id), str(error)))
                continue
            height, width = pixels.shape[:2]
            box = crop_box(draws[row], height, width, self.views.crop_scale)
            cut_into(crops[row], pixels, box)
            read.append(row)
        changes = draw_changes(self.views, self.seed, self.epoch, ids[read], 0)
        return TrainBatch(crops[read], changes, torch.from_numpy(ids[read]), skipped)

    def _empty(self, count: int) -> Tensor:
        """Return room for crops, pixel by pixel, as they are cut."""
        side, channels = self.views.image_size, self.views.channels
        kind = torch.float32 if self.views.deep else torch.uint8
        return torch.empty(count, side, side, channels, dtype=kind).permute(0, 3, 1, 2)


def steps_of(images: int, batch_size: int) -> int:
    """Return how many batches of at most this size an epoch has."""
    return -(-images // batch_size)


def load_epoch(batches: EpochBatches, *, workers: int) -> Iterator[TrainBatch]:
    """Yield an epoch's batches, made by so many processes beside this one."""
    yield from DataLoader(
        batches,
        batch_size=None,
        num_workers=workers,
        timeout=LOADER_TIMEOUT_SECONDS if workers else 0,
        generator=torch.Generator(),  # or the loader would draw from the caller's random state
        worker_init_fn=leave_signals_to_the_run,
    )


def whole_views(batch: TrainBatch, views: ViewsSpec, device: torch.device) -> Tensor:
    """Return the views [N, C, S, S] on the device, changed there."""
    return apply_changes(batch.crops.to(device, non_blocking=True), batch.changes, views)
