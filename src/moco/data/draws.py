"""Random numbers as a function of their place: no state, so that any of them can be asked for.

The order of images depends on (seed, epoch), the views of an image on (seed, epoch, image, view).
Both are computed where they are needed, for any number of images, in no memory and from any step.
"""

from __future__ import annotations

import math

import numpy as np
from numpy.typing import NDArray

GOLDEN = np.uint64(0x9E3779B97F4A7C15)
ROUNDS = 6
"""Of the permutation, each of two halves; more changes nothing that a test can see."""


def mix(values: NDArray[np.uint64]) -> NDArray[np.uint64]:
    """Return well-spread bits of each value: the finalizer of SplitMix64 (Steele et al. 2014)."""
    values = (values ^ (values >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    values = (values ^ (values >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return values ^ (values >> np.uint64(31))


def key_of(*parts: int) -> NDArray[np.uint64]:
    """Return a key [1] that differs for different parts, each from 0 to below 2^64."""
    key = np.zeros(1, np.uint64)
    for part in parts:
        key = mix((key ^ np.uint64(part)) + GOLDEN)
    return key


def uniform_draws(
    seed: int, epoch: int, image_ids: NDArray[np.int64], view: int, count: int
) -> NDArray[np.float64]:
    """Return [N, count] numbers from 0 to below 1, a row for each image, alike for no two views.

    A row does not depend on which other images are asked for, nor on `count` but for its length.
    """
    images = mix((key_of(seed, epoch, view) ^ image_ids.astype(np.uint64)) + GOLDEN)
    steps = np.arange(1, count + 1, dtype=np.uint64) * GOLDEN
    bits = mix(images[:, None] + steps)
    return (bits >> np.uint64(11)).astype(np.float64) * 2.0**-53


def permuted(places: NDArray[np.int64], size: int, key: NDArray[np.uint64]) -> NDArray[np.int64]:
    """Return what stands at these places, 0 to `size` - 1, of the permutation that `key` [1] picks.

    A Feistel network over a rectangle of at least `size` cells; a place outside walks on until it
    is inside (Black and Rogaway 2002).
    """
    width = math.isqrt(max(0, size - 1)) + 1
    height = -(-size // width)
    found = places.astype(np.uint64)
    outside = np.ones(len(found), bool)
    while outside.any():
        found[outside] = _feistel(found[outside], np.uint64(width), np.uint64(height), key)
        outside = found >= np.uint64(size)
    return found.astype(np.int64)


def _feistel(
    values: NDArray[np.uint64], width: np.uint64, height: np.uint64, key: NDArray[np.uint64]
) -> NDArray[np.uint64]:
    rows, columns = values // width, values % width
    round_keys = mix(key + np.arange(1, 2 * ROUNDS + 1, dtype=np.uint64) * GOLDEN)
    for even, odd in zip(round_keys[::2], round_keys[1::2], strict=True):
        rows = (rows + mix(mix(columns ^ even)) % height) % height
        columns = (columns + mix(mix(rows ^ odd)) % width) % width
    return rows * width + columns
