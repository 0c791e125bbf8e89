"""What all sources of images share: names, a cache of decoded images, what was left out."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterable
from typing import Any

import numpy as np
from numpy.typing import NDArray

from moco.data.images import Pixels
from moco.data.sources.names import LABEL_SEPARATOR, NamesDigest

MOST_LISTED = 100


class Source(ABC):
    """Stored images by number, 0 to len - 1.

    Safe to use in loading processes, forked or spawned: what is open or cached is a process's own.

    Args:
        cache_bytes: decoded images are kept in memory up to this size, per process.
    """

    damaged: list[tuple[str, str]]
    """Parts that were left out when the images were looked for: what, and why."""

    def __init__(self, *, cache_bytes: int = 0) -> None:
        self.cache_bytes = cache_bytes
        self.damaged = []
        self._left_out = 0
        self._cached: dict[int, Pixels] = {}
        self._cached_bytes = 0

    @abstractmethod
    def __len__(self) -> int: ...

    @abstractmethod
    def _read(self, image_id: int) -> Pixels:
        """Return the image from where it is stored; raises UnreadableImageError."""

    @abstractmethod
    def _name(self, image_id: int) -> str:
        """Return what a person calls the image."""

    def read(self, image_id: int) -> Pixels:
        """Return the image; raises UnreadableImageError."""
        image_id = self._checked(image_id)
        cached = self._cached.get(image_id)
        if cached is not None:
            return cached
        pixels = self._read(image_id)
        if self._cached_bytes + pixels.nbytes <= self.cache_bytes:
            self._cached_bytes += pixels.nbytes
            self._cached[image_id] = pixels
        return pixels

    def release(self) -> None:
        """Give back the memory of images that are kept; they can be read again."""
        self._cached, self._cached_bytes = {}, 0

    def name(self, image_id: int) -> str:
        """Return what a person calls the image: its path in the source."""
        return self._name(self._checked(image_id))

    def labels(self) -> list[str] | None:
        """Return the class of each image, None where the source names none."""
        return None

    def fingerprint(self) -> str:
        """Return a SHA-256 of the names of all images in order."""
        digest = NamesDigest()
        for image_id in range(len(self)):
            digest.add(self._name(image_id))
        return digest.hexdigest()

    def shard_sizes(self) -> NDArray[np.int64]:
        """Return how many images lie in each part that is quick to read as a whole."""
        return np.array([len(self)], np.int64)

    def prefetch(self, shard: int) -> None:  # noqa: B027  nothing to do where all is at hand
        """Ask the system to read a part that will soon be needed; changes nothing else."""

    def _leave_out(self, name: str, reason: str) -> None:
        """Note a part that is left out; very many are counted, not listed."""
        self._left_out += 1
        if self._left_out <= MOST_LISTED:
            self.damaged.append((name, reason))
        else:
            more = self._left_out - MOST_LISTED
            self.damaged[MOST_LISTED:] = [("", f"{more} more are left out")]

    def _checked(self, image_id: int) -> int:
        if not 0 <= image_id < len(self):
            raise IndexError(f"image {image_id} of {len(self)}")
        return int(image_id)

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "_cached": {}, "_cached_bytes": 0}


def one_line(error: Exception) -> str:
    """Return the first line of an error's text, or its kind where it has none."""
    return next(iter(str(error).strip().splitlines()), "")[:200] or type(error).__name__


def class_names(codes: NDArray[Any], names: list[str]) -> list[str]:
    """Return the class of each code [N]: its name where there is one, else the number."""
    known = dict(enumerate(names))
    texts = {int(code): known.get(int(code), str(int(code))) for code in np.unique(codes)}
    return [texts[code] for code in codes.tolist()]


def joined_labels(labels: Iterable[object]) -> str:
    """Return the labels of an image that may have several as one text."""
    return "".join(f"{label}{LABEL_SEPARATOR}" for label in labels)
