"""This library's pipeline as a training run uses it, whole and in its two parts."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

from moco.benchmark.contender import Contender, Views
from moco.data.batches import Batch, Batches, finished
from moco.data.changes import Changes, draw_changes
from moco.data.images import Images
from moco.data.views import normalize
from moco.specs import ViewsSpec

DEVICE_BATCH = 256
"""Views of each kind that another device than the CPU makes at a time, a batch of v1 and v2."""
PREPARED = 8
"""Draws made beforehand for the device's part."""


def loading(name: str, title: str, includes: str, images: Images, views: ViewsSpec) -> Contender:
    """Return what a loading process does where another device trains: crops and draws."""
    batches = Batches(images, views, batch_size=len(images), seed=0)

    def run(number: int) -> Views:
        batch = batches[number]
        return batch.view_a, batch.view_b

    return Contender(name, title, includes, len(images), crop_type(views), run)


def whole(images: Images, views: ViewsSpec) -> Contender:
    """Return everything on one core, to the same end as the official pipeline's."""
    batches = Batches(images, views, batch_size=len(images), seed=0, finish=True)

    def run(number: int) -> Views:
        batch = batches[number]
        return normalize(batch.view_a, views), normalize(batch.view_b, views)

    return Contender(
        "ours_whole",
        "moco, all on the CPU",
        "the loading process's part and the device's; ends in normalized float32, a batch",
        len(images),
        torch.float32,
        run,
    )


def device_part(images: Images, views: ViewsSpec, device: torch.device) -> Contender:
    """Return what the training device does: from crops to what an encoder takes."""
    cut = Batches(images, views, batch_size=len(images), seed=0)[0]
    size = len(images) if device.type == "cpu" else DEVICE_BATCH
    crops = [_tiled(crop, size).to(device) for crop in (cut.view_a, cut.view_b)]
    ids = np.arange(size)
    draws = [
        (draw_changes(views, 0, epoch, ids, 0), draw_changes(views, 0, epoch, ids, 1))
        for epoch in range(PREPARED)
    ]
    on_cpu = device.type == "cpu"

    def run(number: int) -> Views:
        return _views_of(crops, draws[number % PREPARED], views)

    return Contender(
        "ours_device_part_cpu" if on_cpu else "ours_device_part",
        f"moco, device's part, on {'the CPU' if on_cpu else device.type}",
        f"jitter, grey, blur, flips and normalizing of {size} images' crops at once; from uint8 "
        "crops on the device to normalized float32",
        size,
        torch.float32,
        run,
        device,
    )


def _views_of(crops: list[Tensor], changes: tuple[Changes, Changes], views: ViewsSpec) -> Views:
    batch = Batch(0, crops[0], crops[1], changes, torch.zeros(0), [])
    batch = finished(batch, views)
    return normalize(batch.view_a, views), normalize(batch.view_b, views)


def _tiled(rows: Tensor, size: int) -> Tensor:
    """Return [size, ...], the rows over and over, laid out in memory as they are."""
    kept = torch.channels_last if not rows.is_contiguous() else torch.contiguous_format
    return rows[torch.arange(size) % len(rows)].contiguous(memory_format=kept)


def crop_type(views: ViewsSpec) -> torch.dtype:
    """Return the type of crops."""
    return torch.float32 if views.deep else torch.uint8
