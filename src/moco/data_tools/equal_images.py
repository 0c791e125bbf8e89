"""Images with equal pixels: twice in a source, or in the test images too."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from moco.data_tools.check import Inspection


@dataclass(frozen=True)
class Duplicates:
    """Images of a source that are equal to others of it."""

    images: int
    """Those that could go: all but the first of each group."""
    groups: int
    first: list[list[str]]
    """Names of the first few groups, the first few of each."""


@dataclass(frozen=True)
class Leaks:
    """Test images whose pixels are among the training images."""

    images: int
    tested: int
    """Test images that could be read."""
    first: list[tuple[str, str]]
    """The first few, each with its equal in training."""

    @property
    def share(self) -> float:
        """Of the test images, 0 to 1."""
        return self.images / self.tested if self.tested else 0.0


def find_duplicates(found: Inspection, *, shown: int = 5) -> Duplicates:
    """Return which images are equal, the groups in the order of their first image."""
    order, digests = _by_digest(found)
    begins = np.ones(len(digests), bool)
    begins[1:] = digests[1:] != digests[:-1]
    starts = np.append(np.flatnonzero(begins), len(digests))
    repeated = np.flatnonzero(np.diff(starts) > 1)
    repeated = repeated[np.argsort(order[starts[repeated]])]
    groups = []
    for number in repeated[:shown]:
        places = order[starts[number] : starts[number + 1]][:shown]
        groups.append([_name(found, place) for place in places])
    return Duplicates(len(digests) - int(begins.sum()), len(repeated), groups)


def find_leaks(train: Inspection, test: Inspection, *, shown: int = 5) -> Leaks:
    """Return which test images are among the training images."""
    train_places, known = _by_digest(train)
    test_places = np.flatnonzero(test.sides[:, 0])
    asked = test.digests[test_places]
    if not len(known):
        return Leaks(0, len(asked), [])
    nearest = np.searchsorted(known, asked)  # the first of several equal ones
    leaked = known[np.minimum(nearest, len(known) - 1)] == asked
    pairs = [
        (_name(test, test_places[place]), _name(train, train_places[nearest[place]]))
        for place in np.flatnonzero(leaked)[:shown]
    ]
    return Leaks(int(leaked.sum()), len(asked), pairs)


def _by_digest(found: Inspection) -> tuple[NDArray[np.int64], NDArray[np.bytes_]]:
    """Return the places of readable images and their digests, sorted by digest, then place."""
    places = np.flatnonzero(found.sides[:, 0])
    digests = found.digests[places]
    order = np.argsort(digests, kind="stable")
    return places[order], digests[order]


def _name(found: Inspection, place: np.int64) -> str:
    return found.images.name(int(found.image_ids[int(place)]))
