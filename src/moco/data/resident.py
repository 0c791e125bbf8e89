"""Images that all lie on the training device, read once, and batches that are cut there.

The order, boxes and changes are those of loading processes, number by number, and so are the views,
to the bit: a run may go on in either form. Letters: N images, H rows, W columns, C channels.
"""

from __future__ import annotations

import time
from collections.abc import Generator
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from moco.data.batches import Batch, Batches, Skipped, finished, none_usable, read_fitting
from moco.data.crops import Box, crop_box, cut_into, fit
from moco.data.device_cuts import MOST_SHRUNK, DeviceCuts
from moco.data.images import Images, Pixels, UnreadableImageError, first_usable
from moco.data.order import Ids
from moco.data.sources.base import Source
from moco.errors import UsageError
from moco.memory import free_memory, size_in_words
from moco.specs import ViewsSpec

STAGED_BYTES = 1 << 24
"""So much is read before it is sent to the device: the machine's memory holds no second copy."""
INSTEAD = "leave --resident out"


@dataclass(frozen=True)
class ResidentImages:
    """All images of a source, ready to be cut."""

    pixels: Tensor
    """[N, H, W, C] uint8 on the training device; zeros where an image cannot be used."""
    unusable: dict[int, str]
    """Why images cannot be used, by id."""
    seconds: float
    """How long it took to read them."""


def load_resident(
    images: Images, views: ViewsSpec, device: torch.device, *, holders: int = 1
) -> ResidentImages:
    """Read all images onto the device.

    Args:
        holders: processes that share the device's memory, each with images of its own.

    Raises:
        UsageError: They are deep, of several sizes, or too many for the device's memory.
        DataError: None can be used.
    """
    if views.deep:
        raise UsageError(f"resident images have 8 bits, and views.deep is set; {INSTEAD}")
    began = time.monotonic()
    first = first_usable(images, lambda pixels: fit(pixels, views.channels, views.deep))
    shape = (*first.shape[:2], views.channels)
    _check_room(len(images), shape, views, device, holders)
    pixels = torch.empty((len(images), *shape), dtype=torch.uint8, device=device)
    unusable: dict[int, str] = {}
    at_once = max(1, STAGED_BYTES // int(np.prod(shape)))
    staged = np.zeros((min(at_once, len(images)), *shape), np.uint8)
    for start in range(0, len(images), at_once):
        ids = range(start, min(start + at_once, len(images)))
        for place, image_id in enumerate(ids):
            staged[place] = _read(images, image_id, views, shape, unusable)
        pixels[start : ids.stop].copy_(torch.from_numpy(staged[: len(ids)]))
    if len(unusable) == len(images):
        raise none_usable(images, 0, unusable[0])
    if isinstance(images, Source):
        images.release()
    return ResidentImages(pixels, unusable, time.monotonic() - began)


def _read(
    images: Images,
    image_id: int,
    views: ViewsSpec,
    shape: tuple[int, ...],
    unusable: dict[int, str],
) -> Pixels | int:
    """Return an image, 0 for one that cannot be used."""
    try:
        pixels = read_fitting(images, image_id, views)
    except UnreadableImageError as error:
        unusable[image_id] = str(error)
        return 0
    if pixels.shape[:2] != shape[:2]:
        height, width = pixels.shape[:2]
        raise UsageError(
            f"resident images have one size: {images.name(image_id)} has {height} x {width} "
            f"pixels, others {shape[0]} x {shape[1]}; {INSTEAD}"
        )
    return pixels


def _check_room(
    count: int, shape: tuple[int, ...], views: ViewsSpec, device: torch.device, holders: int
) -> None:
    smallest = views.first_size or views.image_size
    if max(shape[:2]) > MOST_SHRUNK * smallest:
        raise UsageError(
            f"resident images have sides of up to {MOST_SHRUNK} views, {MOST_SHRUNK} times "
            f"{smallest} pixels, got {max(shape[:2])}; {INSTEAD}"
        )
    needed, free = count * int(np.prod(shape)), free_memory(device)
    room = needed if free is None else free // 2 // holders
    if needed > room:
        raise UsageError(
            f"{count} images of {shape[0]} x {shape[1]} x {shape[2]} take {size_in_words(needed)}; "
            f"half of what is free on {device.type} is {size_in_words(room)}; {INSTEAD}, or shrink "
            "them with `moco data pack IMAGES PACKED --side N`"
        )


def resident_batches(
    batches: Batches,
    resident: ResidentImages,
    *,
    start: int,
    stop: int,
    at_once: bool | None = None,
) -> Generator[Batch, None, None]:
    """Yield the batches of steps `start` to `stop` - 1, cut where the images lie.

    Args:
        at_once: cut a whole batch at once rather than image by image, which only a CPU can and
            which is sooner there; None chooses by device.
    """
    pixels = resident.pixels
    at_once = pixels.device.type != "cpu" if at_once is None else at_once
    cuts: DeviceCuts | None = None
    for step in range(start, stop):
        epoch, wanted = batches.wanted_at(step)
        if at_once and (cuts is None or cuts.side != batches.side_at(epoch)):
            cuts = DeviceCuts(pixels, batches.side_at(epoch))
        used, skipped = stand_ins(batches.images, resident, wanted)
        boxes = boxes_of(batches, resident, epoch, used)
        with torch.inference_mode():
            if cuts is None:
                crops = cut_singly(batches, epoch, pixels, used, boxes)
            else:
                crops = cut_together(cuts, used, boxes)
        changes = batches.changes_of(epoch, used)
        batch = Batch(step, *crops, changes, torch.from_numpy(used), skipped)
        yield finished(batch, batches.views) if batches.finish else batch


def boxes_of(batches: Batches, resident: ResidentImages, epoch: int, used: Ids) -> list[list[Box]]:
    """Return [2, N]: where both views of each image are cut."""
    _, height, width, _ = resident.pixels.shape
    scale = batches.views.crop_scale
    return [
        [crop_box(numbers, height, width, scale) for numbers in of_view]
        for of_view in batches.crop_draws(epoch, used)
    ]


def cut_singly(
    batches: Batches, epoch: int, pixels: Tensor, used: Ids, boxes: list[list[Box]]
) -> tuple[Tensor, Tensor]:
    """Return both crops, cut one by one, as is soonest on a CPU."""
    images, crops = pixels.numpy(), (batches.empty(epoch), batches.empty(epoch))
    for row, image_id in enumerate(used.tolist()):
        for crop, of_view in zip(crops, boxes, strict=True):
            cut_into(crop[row], images[image_id], of_view[row])
    return crops


def cut_together(cuts: DeviceCuts, used: Ids, boxes: list[list[Box]]) -> tuple[Tensor, Tensor]:
    """Return both crops, cut all at once; no device is waited for."""
    device = cuts.pixels.device
    ids = torch.from_numpy(used).to(device, non_blocking=True)
    places = torch.from_numpy(np.array(boxes)).to(device, non_blocking=True)
    crop_a, crop_b = (cuts.cut(ids, of_view) for of_view in places)
    return crop_a, crop_b


def stand_ins(images: Images, resident: ResidentImages, wanted: Ids) -> tuple[Ids, list[Skipped]]:
    """Return for each image itself, or the next that can be used, and what was passed over."""
    if not resident.unusable:
        return wanted.copy(), []
    used, skipped = wanted.copy(), []
    for row, image_id in enumerate(wanted.tolist()):
        while (reason := resident.unusable.get(image_id)) is not None:
            skipped.append(Skipped(image_id, images.name(image_id), reason))
            image_id = (image_id + 1) % len(images)
        used[row] = image_id
    return used, skipped
