"""Sums over the pixels of images from which mean and deviation follow, merged image by image."""

from __future__ import annotations

from collections.abc import Iterator
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from moco.data.images import Pixels

Figures = NDArray[np.float64]
MOST_VALUES = 1 << 18
"""Of an image that are looked at together."""


class ChannelSums(NamedTuple):
    """Of some pixels, [C] each: enough to merge them with others without losing digits."""

    pixels: int
    mean: Figures
    squares: Figures
    """Sum of squared distances from the mean."""
    lowest: Figures
    highest: Figures

    def merged(self, other: ChannelSums) -> ChannelSums:
        """Return the sums of both together (Chan et al. 1979)."""
        pixels = self.pixels + other.pixels
        apart = other.mean - self.mean
        return ChannelSums(
            pixels,
            self.mean + apart * other.pixels / pixels,
            self.squares + other.squares + apart**2 * self.pixels * other.pixels / pixels,
            np.minimum(self.lowest, other.lowest),
            np.maximum(self.highest, other.highest),
        )

    @property
    def std(self) -> Figures:
        """The deviation, 0 for a channel that never varies, however its mean was rounded."""
        varies = self.lowest < self.highest
        deviation: Figures = np.where(varies, np.sqrt(self.squares / self.pixels), 0.0)
        return deviation


def channel_sums(pixels: Pixels) -> ChannelSums:
    """Return the sums of an image [H, W, C]: integers count as 0 to 1, others as they are."""
    first, *others = (
        _sums_of_bytes(block) if block.dtype == np.uint8 else _sums(block)
        for block in _blocks(pixels)
    )
    for more in others:
        first = first.merged(more)
    return first


def _blocks(pixels: Pixels) -> Iterator[Pixels]:
    """Yield an image's pixels [C, P], some rows at a time."""
    rows = max(1, MOST_VALUES // (pixels.shape[1] * pixels.shape[2]))
    for first in range(0, len(pixels), rows):
        yield pixels[first : first + rows].reshape(-1, pixels.shape[2]).T


def _sums_of_bytes(block: Pixels) -> ChannelSums:
    """Return the sums of bytes [C, P] by how often each of them occurs."""
    counts = np.stack([np.bincount(channel, minlength=256) for channel in block])
    values = np.arange(256) / np.float64(255)
    mean = counts @ values / block.shape[1]
    squares = (counts * (values - mean[:, None]) ** 2).sum(axis=1)
    present = [values[np.flatnonzero(row)] for row in counts]
    lowest, highest = ([row[place] for row in present] for place in (0, -1))
    return ChannelSums(block.shape[1], mean, squares, np.array(lowest), np.array(highest))


def _sums(block: Pixels) -> ChannelSums:
    values = np.ascontiguousarray(block).astype(np.float64)  # sums along rows are the quick ones
    if block.dtype.kind == "u":
        values /= np.iinfo(block.dtype).max
    mean, lowest, highest = values.mean(axis=1), values.min(axis=1), values.max(axis=1)
    values -= mean[:, None]
    return ChannelSums(block.shape[1], mean, np.square(values).sum(axis=1), lowest, highest)
