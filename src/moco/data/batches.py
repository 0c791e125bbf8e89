"""Batches of two views: the batch is a function of the step, whoever makes it.

The order of images depends on (seed, epoch), the views of an image on (seed, epoch, image, view):
the same for any number of workers and after any restart, and a run starts at any step at once.

Loading processes read an image once and cut both crops from it. What else a view is made of runs
where the network runs, on the whole batch, or in the loading processes too where that is a CPU.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.utils.data import Dataset

from moco.data.changes import Changes, draw_changes
from moco.data.crops import CROP_DRAWS, crop_box, cut_into, fit
from moco.data.device_views import apply_changes
from moco.data.draws import uniform_draws
from moco.data.images import FetchableImages, Images, Pixels, StoredImages, UnreadableImageError
from moco.data.order import Ids, Order
from moco.data.workers import ImageNotes
from moco.errors import DataError, MocoError
from moco.specs import ViewsSpec


@dataclass(frozen=True)
class Skipped:
    """An image that could not be used; another stands in for it."""

    image_id: int
    name: str
    reason: str


@dataclass
class Batch:
    """Two views [N, C, S, S] of each of N images, or crops and what is still to be done to them."""

    step: int
    view_a: Tensor
    view_b: Tensor
    changes: tuple[Changes, Changes] | None
    """What makes the crops views; None when that is done."""
    image_ids: Tensor
    skipped: list[Skipped]

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
        window: shards of the source whose images are shuffled together; 0 for all.
        finish: make the views whole here, rather than on the training device.
        size_at: from an epoch to the side of its views; None: the size of `views` in all. Nothing
            else depends on it: not the order, nor where crops lie.
    """

    def __init__(  # noqa: PLR0913  one for each that decides a batch
        self,
        images: Images,
        views: ViewsSpec,
        *,
        batch_size: int,
        seed: int,
        process: int = 0,
        processes: int = 1,
        window: int = 0,
        finish: bool = False,
        size_at: Callable[[int], int] | None = None,
    ) -> None:
        self.images, self.views, self.seed, self.finish = images, views, seed, finish
        self.batch_size, self.share = batch_size, batch_size // processes
        self.first = process * self.share
        self.size_at = size_at
        self.steps_per_epoch = len(images) // batch_size
        self.order = Order(shard_sizes(images), seed=seed, window=window)
        self.notes: ImageNotes | None = None
        self._fetched: set[int] = set()

    def __getitem__(self, step: int) -> Batch:
        epoch, wanted = self.wanted_at(step)
        self._fetch_ahead(step)
        draws = self.crop_draws(epoch, wanted)
        crops = self.empty(epoch), self.empty(epoch)
        skipped: list[Skipped] = []
        image_ids = wanted.copy()
        with torch.inference_mode():  # no gradient flows here, and noting that none does costs time
            for row, image_id in enumerate(wanted.tolist()):
                own = [of_view[row] for of_view in draws]
                into = [crop[row] for crop in crops]
                image_ids[row] = self._cut(epoch, image_id, own, into, skipped)
        self._note(-1)
        changes = self.changes_of(epoch, image_ids)
        batch = Batch(step, *crops, changes, torch.from_numpy(image_ids), skipped)
        return finished(batch, self.views) if self.finish else batch

    def wanted_at(self, step: int) -> tuple[int, Ids]:
        """Return the epoch, and the ids of this process's images of a step."""
        epoch, first = self._place_of(step)
        return epoch, self.order.images_at(epoch, np.arange(first, first + self.share))

    def _place_of(self, step: int) -> tuple[int, int]:
        """Return the epoch, and at which of its places this process's images begin."""
        epoch, place = divmod(step, self.steps_per_epoch)
        return epoch, place * self.batch_size + self.first

    def changes_of(self, epoch: int, image_ids: Ids) -> tuple[Changes, Changes]:
        """Return what makes views of both crops of each image."""
        return (
            draw_changes(self.views, self.seed, epoch, image_ids, 0),
            draw_changes(self.views, self.seed, epoch, image_ids, 1),
        )

    def _fetch_ahead(self, step: int) -> None:
        """Let the machine read the shards of this window and the next, once for each window."""
        if not self.order.window or not isinstance(self.images, FetchableImages):
            return
        shards = set(self.order.shards_after(*self._place_of(step)).tolist())
        for shard in shards - self._fetched:
            self.images.prefetch(shard)
        self._fetched = shards

    def side_at(self, epoch: int) -> int:
        """Return S, the side of an epoch's views in pixels."""
        return self.views.image_size if self.size_at is None else self.size_at(epoch)

    def empty(self, epoch: int) -> Tensor:
        """Return room for crops [N, C, S, S], pixel by pixel, as they are cut."""
        side, channels = self.side_at(epoch), self.views.channels
        kind = torch.float32 if self.views.deep else torch.uint8
        return torch.empty(self.share, side, side, channels, dtype=kind).permute(0, 3, 1, 2)

    def crop_draws(self, epoch: int, image_ids: Ids) -> list[list[list[float]]]:
        """Return [2, N, CROP_DRAWS]: what decides both crops of each image."""
        return [
            uniform_draws(self.seed, epoch, image_ids, view, CROP_DRAWS).tolist() for view in (0, 1)
        ]

    def _cut(
        self,
        epoch: int,
        image_id: int,
        draws: list[list[float]],
        crops: list[Tensor],
        skipped: list[Skipped],
    ) -> int:
        """Cut both crops of an image, or of the one that stands in for it; return whose they are.

        Its pixels go before the next image is decoded, which then finds their memory in the cache.
        """
        used, pixels = self._usable(image_id, skipped)
        if used != image_id:
            draws = [only for (only,) in self.crop_draws(epoch, np.array([used]))]
        height, width = pixels.shape[:2]
        for crop, numbers in zip(crops, draws, strict=True):
            cut_into(crop, pixels, crop_box(numbers, height, width, self.views.crop_scale))
        return used

    def _usable(self, image_id: int, skipped: list[Skipped]) -> tuple[int, Pixels]:
        """Return the image, or the next one that can be used, and its id."""
        total = len(self.images)
        for candidate in range(image_id, image_id + total):
            candidate %= total
            self._note(candidate)
            try:
                return candidate, read_fitting(self.images, candidate, self.views)
            except UnreadableImageError as error:
                skipped.append(Skipped(candidate, self.images.name(candidate), str(error)))
        raise none_usable(self.images, skipped[0].image_id, skipped[0].reason)

    def _note(self, image_id: int) -> None:
        """Say which image this process turns to."""
        if self.notes is not None:
            self.notes.note(image_id)


def read_fitting(images: Images, image_id: int, views: ViewsSpec) -> Pixels:
    """Return an image as a run wants it, uint8 or float32 [H, W, C]; see `crops.fit`.

    Raises:
        UnreadableImageError: It cannot be used.
        DataError: The source's own code failed.
    """
    try:
        return fit(images.read(image_id), views.channels, views.deep)
    except (UnreadableImageError, MocoError):
        raise
    except Exception as error:  # whatever a source's own code raises
        raise DataError(
            f"image {images.name(image_id)} cannot be loaded: {type(error).__name__}: {error}"
        ) from error


def none_usable(images: Images, image_id: int, reason: str) -> DataError:
    """Return what is to be said where no image can be used, and why one of them cannot."""
    return DataError(
        f"none of the {len(images)} images can be read; {images.name(image_id)}: {reason}"
    )


def shard_sizes(images: Images) -> NDArray[np.int64]:
    """Return how many images lie together in each part of the source, [N] where all do."""
    if isinstance(images, StoredImages):
        return images.shard_sizes()
    return np.array([len(images)])


def finished(batch: Batch, views: ViewsSpec) -> Batch:
    """Return the batch with its crops made views."""
    if batch.changes is None:
        return batch
    for_a, for_b = batch.changes
    view_a = apply_changes(batch.view_a, for_a, views)
    view_b = apply_changes(batch.view_b, for_b, views)
    return Batch(batch.step, view_a, view_b, None, batch.image_ids, batch.skipped)


def to_device(
    batch: Batch, views: ViewsSpec, device: torch.device
) -> tuple[Tensor, Tensor, Tensor]:
    """Return both views [N, C, S, S] and the ids [N] on the device, the views made there.

    Photographs' views are uint8; those of deep images are float32 and normalized.
    """
    batch.view_a, batch.view_b, image_ids = (
        rows.to(device, non_blocking=True) for rows in (batch.view_a, batch.view_b, batch.image_ids)
    )
    batch = finished(batch, views)
    return batch.view_a, batch.view_b, image_ids
