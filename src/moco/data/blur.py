"""Gaussian blur as Pillow makes it, of many images at once, each with its own radius.

Pillow blurs along rows and along columns, each by three averages over boxes with soft ends, and at
each average pixels beyond the edge equal the last one before it. Along a side all three together
are one matrix, of a few numbers beside its diagonal; it is applied in blocks along the diagonal.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

PASSES = 3
BLOCK = 32
"""Rows of the matrix that are applied together; more of them multiply more zeros."""


def box_radius(deviations: NDArray[np.float64]) -> NDArray[np.float64]:
    """Return the radius l + a of boxes, a < 1 the weight of their ends, for deviations [N] > 0.

    Gwosdek et al. 2011, with equations 7, 11 and 14: three such boxes have the Gaussian's variance.
    """
    variance = deviations**2 / PASSES
    whole = np.floor((np.sqrt(12 * variance + 1) - 1) / 2)
    ends = (2 * whole + 1) * (whole * (whole + 1) - 3 * variance)
    radius: NDArray[np.float64] = whole + ends / (6 * (variance - (whole + 1) ** 2))
    return radius


def blur_matrices(radii: Tensor, side: int, most: float) -> Tensor:
    """Return [N, Z, Z], for `blur`: boxes of radii [N], none above `most`, on images of `side`.

    Z is the side if that is small; else a row of the matrix that is for the inside of an image is
    like the next one, so Z makes do with one block of these between two edges.
    """
    size = min(BLOCK + 2 * PASSES * (int(most) + 1), side)
    places = torch.arange(size, device=radii.device, dtype=radii.dtype)
    offsets = places[None, :] - places[:, None]
    radius = radii[:, None, None]
    box = (radius + 1 - offsets.abs()).clamp_(0, 1)
    box[:, :, 0] = _weight_up_to(offsets[:, 0], radius[:, 0])
    box[:, :, -1] = _weight_up_to(-offsets[:, -1], radius[:, 0])
    box /= 2 * radius + 1
    return torch.bmm(torch.bmm(box, box), box)


def _weight_up_to(offsets: Tensor, radius: Tensor) -> Tensor:
    """Return the sum of a box's weights at offsets up to these: of all pixels beyond an edge."""
    whole = radius.floor()
    inner = (offsets + whole + 1).clamp(min=0).minimum(2 * whole + 1)
    ends = (offsets >= -whole - 1).to(radius.dtype) + (offsets > whole).to(radius.dtype)
    return inner + ends * (radius - whole)


def blur(images: Tensor, matrices: Tensor) -> None:
    """Blur images [N, C, S, S], contiguous in memory, in place by their `blur_matrices`."""
    count, channels, side, _ = images.shape
    blocks = _blocks(side, matrices.shape[1])
    planes = images.view(count * channels, side, side)
    down = matrices.repeat_interleave(channels, 0)
    halfway = torch.empty_like(planes)
    for block in blocks:
        halfway[:, block.rows] = torch.bmm(
            down[:, block.matrix_rows, block.matrix_seen], planes[:, block.seen]
        )
    lines, across = halfway.view(count, channels * side, side), matrices.transpose(1, 2)
    blurred = images.view_as(lines)
    for block in blocks:
        torch.bmm(
            lines[:, :, block.seen],
            across[:, block.matrix_seen, block.matrix_rows],
            out=blurred[:, :, block.rows],
        )


@dataclass(frozen=True)
class _Block:
    """Lines of an image that are made together, those they see, and where the matrix has both."""

    rows: slice
    seen: slice
    matrix_rows: slice
    matrix_seen: slice


@lru_cache(maxsize=16)
def _blocks(side: int, size: int) -> list[_Block]:
    """Return the blocks of an image of `side` with a matrix of `size`, the last two may overlap."""
    whole = slice(0, side)
    if size == side:
        return [_Block(whole, whole, whole, whole)]
    reach = (size - BLOCK) // 2
    blocks = []
    for begin in range(0, side, BLOCK):
        first = min(begin, side - BLOCK)
        last = first + BLOCK
        seen = slice(max(0, first - reach), min(side, last + reach))
        before = min(first, reach) if last <= side - reach else size - BLOCK - (side - last)
        offset = first - before
        matrix_rows, matrix_seen = (
            slice(lines.start - offset, lines.stop - offset) for lines in (slice(first, last), seen)
        )
        blocks.append(_Block(slice(first, last), seen, matrix_rows, matrix_seen))
    return blocks
