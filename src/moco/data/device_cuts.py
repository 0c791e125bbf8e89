"""Boxes of many images cut and resized at once, on the device where the images lie.

Each comes out as from `crops.cut`, to the bit. torch resizes bytes by whole-number weights, along
rows and then along columns, and rounds each sum to a byte. So does this, and its sums are exact: a
weight of up to 15 bits is split in two parts of 8 bits, whose products with bytes add up to less
than 2^24, which float32 holds whatever the order, and also where a GPU reads factors in TF32.

Letters: N images, n of them, H rows, W columns, C channels, S side of a view, T taps of a weight,
L the longest side of an image.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from moco.data.device_views import CACHED_VALUES, DEVICE_VALUES

MOST_BITS, MOST_SHIFT = 15, 22
"""torch's: bits of a weight with its sign, and by how many bits a sum may be shifted."""
MOST_SHRUNK = 100
"""Sides longer than so many views would add up to more than float32 holds exactly."""


@dataclass(frozen=True)
class Weights:
    """What each pixel of a view is made of along one axis, for boxes of 0 to L pixels."""

    first: Tensor
    """[L + 1, S]: the first pixel of the box that counts."""
    parts: Tensor
    """[L + 1, 2 S, T] float32: of the weights of it and the next ones, the upper bits, then 8."""
    shift: Tensor
    """[L + 1] int32: a sum is divided by two to this power, and rounded."""


def axis_weights(length: int, side: int) -> tuple[NDArray[np.int64], NDArray[np.int64], int]:
    """Return for one length the first pixels [S], whole-number weights [S, T], and the shift.

    A triangle as wide as two pixels of what is larger, the box's or the view's, as torch has it.
    """
    scale = length / side
    support = max(1.0, scale)
    centres = scale * (np.arange(side) + 0.5)
    first = np.maximum((centres - support + 0.5).astype(np.int64), 0)
    counts = np.minimum((centres + support + 0.5).astype(np.int64), length) - first
    taps = np.arange(2 * math.ceil(support) + 1)
    distance = (taps + first[:, None] - centres[:, None] + 0.5) / support
    shares = np.where(taps < counts[:, None], np.maximum(0.0, 1.0 - np.abs(distance)), 0.0)
    shares /= np.cumsum(shares, axis=1)[:, -1:]  # one after the other, as torch sums them
    shift = 0
    while shift < MOST_SHIFT and int(0.5 + shares.max() * 2 ** (shift + 1)) < 1 << MOST_BITS:
        shift += 1
    return first, np.floor(shares * 2**shift + 0.5).astype(np.int64), shift


def all_weights(longest: int, side: int, device: torch.device) -> Weights:
    """Return the weights for every length up to the longest, on the device."""
    most = 2 * math.ceil(max(1.0, longest / side)) + 1
    first = np.zeros((longest + 1, side), np.int64)
    parts = np.zeros((longest + 1, 2, side, most), np.float32)
    shift = np.zeros(longest + 1, np.int32)
    for length in range(1, longest + 1):
        first[length], weights, shift[length] = axis_weights(length, side)
        taps = weights.shape[1]
        parts[length, 0, :, :taps], parts[length, 1, :, :taps] = weights >> 8, weights & 255
    flat = parts.reshape(longest + 1, 2 * side, most)
    return Weights(*(torch.from_numpy(values).to(device) for values in (first, flat, shift)))


class DeviceCuts:
    """Cuts boxes of images on their device.

    Args:
        pixels: all images [N, H, W, C], uint8.
        side: S.

    Raises:
        ValueError: The images are too large for exact sums.
    """

    def __init__(self, pixels: Tensor, side: int) -> None:
        self.pixels, self.side = pixels, side
        _, height, width, channels = pixels.shape
        longest = max(height, width)
        if longest > MOST_SHRUNK * side:
            raise ValueError(f"sides must be up to {MOST_SHRUNK * side} pixels, got {longest}")
        self.weights = all_weights(longest, side, pixels.device)
        taps = self.weights.parts.shape[2]
        values = 3 * channels * side * (height + side) + 2 * side * (width + height + 2 * taps)
        on_cpu = pixels.device.type == "cpu"
        most = CACHED_VALUES * torch.get_num_threads() if on_cpu else DEVICE_VALUES
        self.at_once = max(1, most // values)

    def cut(self, image_ids: Tensor, boxes: Tensor) -> Tensor:
        """Return crops [n, C, S, S], uint8, of these images [n].

        Args:
            boxes: [n, 4] on the device: top, left, height and width in pixels, inside the images.
        """
        parts = [
            slice(first, first + self.at_once) for first in range(0, len(image_ids), self.at_once)
        ]
        return torch.cat([self._cut(image_ids[part], boxes[part]) for part in parts])

    def _cut(self, image_ids: Tensor, boxes: Tensor) -> Tensor:
        top, left, height, width = boxes.unbind(1)
        chosen = self.pixels.index_select(0, image_ids).permute(0, 3, 1, 2)
        n, channels, rows, columns = chosen.shape
        planes = torch.empty(chosen.shape, dtype=torch.float32, device=chosen.device).copy_(chosen)
        across = self._matrices(left, width, columns)
        by_column = planes.view(n, channels * rows, columns) @ across.transpose(1, 2)
        narrow = _rounded(by_column, self.weights.shift[width])
        down = self._matrices(top, height, rows)[:, None]
        by_row = down @ narrow.view(n, channels, rows, self.side).float()
        crops = _rounded(by_row.flatten(2), self.weights.shift[height])
        return crops.view(n, channels, self.side, self.side)

    def _matrices(self, start: Tensor, length: Tensor, pixels: int) -> Tensor:
        """Return [n, 2 S, pixels]: what each pixel along an axis counts; zero outside the box."""
        parts = self.weights.parts[length]
        n, rows, taps = parts.shape
        first = (start[:, None] + self.weights.first[length]).repeat(1, 2)
        places = first[:, :, None] + torch.arange(taps, device=first.device)
        matrices = torch.zeros((n, rows, pixels + taps), device=first.device)
        return matrices.scatter_(2, places, parts)[:, :, :pixels]


def _rounded(sums: Tensor, shift: Tensor) -> Tensor:
    """Return bytes [n, x, m] of sums [n, x, 2 m], upper parts first, divided by 2^shift [n].

    Rounded weights add up to 2^shift so nearly that none comes out above 255.
    """
    shift = shift[:, None, None]
    upper, lower = sums.to(torch.int32).chunk(2, dim=2)
    return (((upper << 8) + lower + (1 << (shift - 1))) >> shift).to(torch.uint8)
