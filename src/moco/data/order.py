"""The order of images: which of them stands at a place of an epoch, a function of (seed, epoch).

Nothing is stored for an image, so a run starts at any step at once and a billion images cost no
more than ten. Where data are read in shards, whole shards are shuffled, then the images of some
neighbouring shards together: a window, the only part that must be quick to reach at a time.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from moco.data.draws import key_of, permuted

Ids = NDArray[np.int64]
ORDER = 1 << 32
"""Tells an epoch's order from its views, whose numbers are 0 and 1."""


@dataclass(frozen=True)
class Windows:
    """How the shards of one epoch lie one after another, and where windows begin."""

    shards: Ids
    """[S] shards in the order in which they are read."""
    shard_starts: Ids
    """[S + 1] places at which they begin."""
    window_starts: Ids
    """[W + 1] places at which windows begin."""


class Order:
    """Every epoch's order of the images.

    Args:
        sizes: [S] images in each shard, in the order of their ids.
        seed: decides all orders.
        window: shards whose images are shuffled together; 0 for all images of the source.
    """

    def __init__(self, sizes: Ids, *, seed: int, window: int = 0) -> None:
        self.seed, self.window = seed, window
        self.sizes = sizes if window else sizes.sum(keepdims=True)
        self.first_ids = np.cumsum(self.sizes) - self.sizes
        self.images = int(self.sizes.sum())
        self._epoch: tuple[int, Windows] | None = None

    def images_at(self, epoch: int, places: Ids) -> Ids:
        """Return the ids of the images at these places, 0 to below the number of images."""
        if not self.window:
            return permuted(places, self.images, key_of(self.seed, epoch, ORDER))
        windows = self.windows_of(epoch)
        found = np.empty_like(places)
        window_of = np.searchsorted(windows.window_starts, places, side="right") - 1
        for number in np.unique(window_of):
            inside = window_of == number
            first, end = windows.window_starts[number : number + 2]
            key = key_of(self.seed, epoch, ORDER + 1 + int(number))
            moved = first + permuted(places[inside] - first, int(end - first), key)
            shard = np.searchsorted(windows.shard_starts, moved, side="right") - 1
            found[inside] = self.first_ids[windows.shards[shard]] + (
                moved - windows.shard_starts[shard]
            )
        return found

    def windows_of(self, epoch: int) -> Windows:
        """Return how the shards lie in this epoch."""
        if self._epoch is None or self._epoch[0] != epoch:
            count = len(self.sizes)
            shards = permuted(np.arange(count), count, key_of(self.seed, epoch, ORDER))
            shard_starts = np.concatenate([[0], np.cumsum(self.sizes[shards])])
            edges = np.append(np.arange(0, count, self.window), count)
            self._epoch = epoch, Windows(shards, shard_starts, shard_starts[edges])
        return self._epoch[1]

    def shards_after(self, epoch: int, place: int) -> Ids:
        """Return the shards of the window at a place and of the next one: what to fetch by then."""
        if not self.window:
            return np.zeros(0, np.int64)
        windows = self.windows_of(epoch)
        number = int(np.searchsorted(windows.window_starts, place, side="right")) - 1
        return windows.shards[number * self.window : (number + 2) * self.window]
