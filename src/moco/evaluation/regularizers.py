"""What keeps a large network from learning few images by heart: mixing, erasing, leaving out.

Letters: N images, C channels, S side, Y classes.
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import torch
from timm.layers.drop import DropPath
from torch import Tensor, nn

from moco.errors import UsageError
from moco.evaluation.finetune_spec import FinetuneSpec

ERASED_AREA, ERASED_RATIO = (0.02, 1 / 3), (0.3, 1 / 0.3)
"""Smallest and largest share of the area and side ratio of what is erased (arXiv:1708.04896)."""
ERASE_TRIES = 10

Box = tuple[slice, slice]
"""Rows and columns."""


def regularized(
    views: Tensor, targets: Tensor, spec: FinetuneSpec, draw: np.random.Generator
) -> tuple[Tensor, Tensor]:
    """Return normalized views [N, C, S, S] and targets [N, Y], mixed in pairs, and boxes erased.

    One share for the whole batch, as DeiT mixes; a row is mixed with the one that a random order
    puts beside it.
    """
    views = erased(views, spec.erase, draw)
    if not spec.mixup and not spec.cutmix:
        return views, targets
    cuts = draw.random() < 0.5 if spec.mixup and spec.cutmix else bool(spec.cutmix)
    strength = spec.cutmix if cuts else spec.mixup
    share = float(draw.beta(strength, strength))
    partners = torch.from_numpy(draw.permutation(len(views))).to(views.device)
    if cuts:
        views, share = with_box(views, views[partners], share, draw)
    else:
        views = share * views + (1 - share) * views[partners]
    return views, share * targets + (1 - share) * targets[partners]


def with_box(
    views: Tensor, others: Tensor, share: float, draw: np.random.Generator
) -> tuple[Tensor, float]:
    """Return views with a box of the others, and which share of the area is still their own.

    The box has 1 - share of the area before it is cut at the edges, around a random centre.
    """
    height, width = views.shape[2:]
    rows, columns = (
        _around(int(draw.integers(side)), int(side * math.sqrt(1 - share)), side)
        for side in (height, width)
    )
    mixed = views.clone()
    mixed[:, :, rows, columns] = others[:, :, rows, columns]
    area = (rows.stop - rows.start) * (columns.stop - columns.start)
    return mixed, 1 - area / (height * width)


def _around(centre: int, length: int, side: int) -> slice:
    first = centre - length // 2
    return slice(max(0, first), max(0, min(side, first + length)))


def erased(views: Tensor, probability: float, draw: np.random.Generator) -> Tensor:
    """Return views of which some have a box of normal noise."""
    chosen = np.flatnonzero(draw.random(len(views)) < probability)
    if not len(chosen):
        return views
    views = views.clone()
    for row in chosen.tolist():
        box = _erased_box(views.shape[2], views.shape[3], draw)
        if box is not None:
            hole = views[row][:, box[0], box[1]]
            noise = torch.from_numpy(draw.standard_normal(tuple(hole.shape)))
            hole.copy_(noise)
    return views


def _erased_box(height: int, width: int, draw: np.random.Generator) -> Box | None:
    for _ in range(ERASE_TRIES):
        area = height * width * draw.uniform(*ERASED_AREA)
        ratio = math.exp(draw.uniform(math.log(ERASED_RATIO[0]), math.log(ERASED_RATIO[1])))
        rows, columns = round(math.sqrt(area * ratio)), round(math.sqrt(area / ratio))
        if 0 < rows < height and 0 < columns < width:
            top, left = (
                int(draw.integers(height - rows + 1)),
                int(draw.integers(width - columns + 1)),
            )
            return slice(top, top + rows), slice(left, left + columns)
    return None


def set_drop_path(backbone: nn.Module, probability: float) -> None:
    """Let a ViT leave out branches as it trains, the last block's this often, the first's never.

    Raises:
        UsageError: It has no such blocks.
    """
    if not probability:
        return
    blocks: Any = getattr(backbone, "blocks", ())
    if not len(blocks) or not hasattr(blocks[0], "drop_path1"):
        raise UsageError("drop_path needs a vision transformer; set it to 0")
    for place, block in enumerate(blocks):
        own = probability * place / max(1, len(blocks) - 1)
        block.drop_path1, block.drop_path2 = DropPath(own), DropPath(own)
