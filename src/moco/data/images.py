"""Images by number, whatever they are stored in: the interface between sources and views.

Letters: N images, H rows, W columns, C channels.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, Protocol, runtime_checkable

import numpy as np
from numpy.typing import NDArray

from moco.errors import DataError

MOST_TRIES = 1000
"""Images that are looked at before all are held to be unusable."""

Pixels = NDArray[Any]
"""[H, W, C] as stored: uint8, uint16 or float32, one channel for grey, upright, in C order."""


class UnreadableImageError(Exception):
    """An image that cannot be used; its text is the reason."""


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


def first_usable(images: Images, use: Callable[[Pixels], Pixels] | None = None) -> Pixels:
    """Return the first image that can be read, as `use` makes it ready if that is given.

    Args:
        use: raises UnreadableImageError for an image that does not serve.

    Raises:
        DataError: There is none among the first thousand.
    """
    reason, tries = "", min(MOST_TRIES, len(images))
    for image_id in range(tries):
        try:
            pixels = images.read(image_id)
            return pixels if use is None else use(pixels)
        except UnreadableImageError as error:
            reason = reason or f"{images.name(image_id)}: {error}"
    which = f"the first {tries} of " if tries < len(images) else ""
    done = "read" if use is None else "used"
    raise DataError(f"none of {which}the {len(images)} images can be {done}; {reason}")
