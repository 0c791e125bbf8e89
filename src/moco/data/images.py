"""Images by number, whatever they are stored in: the interface between sources and views.

Letters: N images, H rows, W columns, C channels.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from itertools import chain
from typing import Any, Protocol, runtime_checkable

import numpy as np
from numpy.typing import NDArray

from moco.errors import DataError

SPREAD_TRIES, MOST_TRIES, MOST_SECONDS = 16, 1000, 3.0
"""Before all images are held to be unusable, some spread over all of them are looked at, then the
first ones: so many, as long as that takes no longer. Large cut photographs take a tenth of a second
each to find out."""

Pixels = NDArray[Any]
"""[H, W, C] as stored: uint8, uint16 or float32, one channel for grey, upright, in C order."""


class UnreadableImageError(Exception):
    """An image that cannot be used; its text is the reason."""


@runtime_checkable
class Images(Protocol):
    """Images known by their number, 0 to len - 1; reading one may raise UnreadableImageError.

    An object of yours with these three methods can be trained on.
    """

    def __len__(self) -> int: ...

    def read(self, image_id: int) -> Pixels:
        """Return the image."""
        ...

    def name(self, image_id: int) -> str:
        """Return what a person calls the image: its path in the source."""
        ...


@runtime_checkable
class StoredImages(Images, Protocol):
    """Images that lie in files; what every source of `moco.data.sources` is."""

    def labels(self) -> list[str] | None:
        """Return the class of each image, None where the source names none."""
        ...

    def fingerprint(self) -> str:
        """Return a SHA-256 of which images these are, in order: of their names, not of pixels."""
        ...

    def shard_sizes(self) -> NDArray[np.int64]:
        """Return how many images lie together in each part that is quick to read as a whole.

        Parts follow one another in the numbers of the images; [N] where all lie together.
        """
        ...


@runtime_checkable
class FetchableImages(Protocol):
    """Images of which a part can be read into the machine's memory before it is asked for."""

    def prefetch(self, shard: int) -> None:
        """Begin to read a part, without waiting."""
        ...


class SubsetImages:
    """Some of the images, renumbered from 0."""

    def __init__(self, images: Images, image_ids: Sequence[int]) -> None:
        self.images, self.image_ids = images, np.asarray(image_ids, np.int64)

    def __len__(self) -> int:
        return len(self.image_ids)

    def name(self, image_id: int) -> str:
        return self.images.name(int(self.image_ids[image_id]))

    def read(self, image_id: int) -> Pixels:
        return self.images.read(int(self.image_ids[image_id]))


def spread(total: int, count: int) -> list[int]:
    """Return at most `count` of the numbers 0 to `total` - 1, evenly spread, the first included."""
    count = min(total, count)
    return [total * number // count for number in range(count)]


def first_usable(images: Images, use: Callable[[Pixels], Pixels] | None = None) -> Pixels:
    """Return an image that can be read, as `use` makes it ready if that is given.

    Args:
        use: raises UnreadableImageError for an image that does not serve.

    Raises:
        DataError: There is none among some spread over all and the first thousand, or as many of
            these as a few seconds allow.
    """
    reason, total = "", len(images)
    tried: set[int] = set()
    began = time.monotonic()
    for image_id in chain(spread(total, SPREAD_TRIES), range(min(MOST_TRIES, total))):
        if len(tried) >= SPREAD_TRIES and time.monotonic() - began > MOST_SECONDS:
            break
        if image_id in tried:
            continue
        tried.add(image_id)
        try:
            pixels = images.read(image_id)
            return pixels if use is None else use(pixels)
        except UnreadableImageError as error:
            reason = reason or f"{images.name(image_id)}: {error}"
    which = f"{len(tried)} that were tried of " if len(tried) < total else ""
    done = "read" if use is None else "used"
    raise DataError(f"none of {which}the {total} images can be {done}; {reason}")
