"""What images a source holds: read one by one, described by a few bytes each."""

from __future__ import annotations

import hashlib
import re
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from moco.bad_limit import check_bad_limit, most_bad
from moco.data.crops import fit
from moco.data.images import Images, Pixels, StoredImages, UnreadableImageError, spread
from moco.data.statistics import ImageKind, find_kind
from moco.data_tools.reading import Report, each_image
from moco.errors import DataError
from moco.specs import BAD_LIMIT

DIGEST_BYTES = 16
FIRST_NAMES = 5
MOST_REASONS = 50
OTHER_REASONS = "other reasons"
_SUFFIX = re.compile(r"\.[A-Za-z0-9]{1,5}\Z")


class Facts(NamedTuple):
    """What is kept of an image that was read."""

    height: int
    width: int
    channels: int
    depth: str
    digest: bytes
    """Of shape, type and pixels: equal for equal images."""
    unfit: str
    """Why it cannot be trained on together with the others; empty where it can."""


class Unread(NamedTuple):
    """An image that cannot be read."""

    reason: str


@dataclass
class Problem:
    """Images with the same fault."""

    count: int = 0
    names: list[str] = field(default_factory=list)
    """Of the first few."""


@dataclass
class Inspection:
    """All that was found in a source."""

    images: Images
    image_ids: Sequence[int]
    """Those that were looked at."""
    kind: ImageKind | None
    """What training takes them for; None where none of a few can be read."""
    digests: NDArray[np.bytes_]
    """[N] of `DIGEST_BYTES`, of images that could be read."""
    sides: NDArray[np.uint32]
    """[N, 2] height and width, 0 for an image that cannot be read."""
    kinds: Counter[tuple[int, str]] = field(default_factory=Counter)
    """Images by channels and type of values."""
    suffixes: Counter[str] = field(default_factory=Counter)
    unreadable: dict[str, Problem] = field(default_factory=dict)
    """By reason."""
    unfit: dict[str, Problem] = field(default_factory=dict)
    """Images that can be read, but are of another kind than most."""
    bad_limit: float = BAD_LIMIT
    """Share of the images that may be unusable."""

    @property
    def readable(self) -> int:
        """How many could be read."""
        return sum(self.kinds.values())

    @property
    def unusable(self) -> int:
        """How many cannot be trained on."""
        return len(self.image_ids) - self.readable + count_of(self.unfit)

    @property
    def most_unusable(self) -> int:
        """How many may be so before training stops."""
        return most_bad(self.bad_limit, len(self.image_ids))

    @property
    def is_usable(self) -> bool:
        """Say whether training would go on to its end."""
        return self.readable > 0 and self.unusable <= self.most_unusable

    @property
    def short_sides(self) -> NDArray[np.uint32]:
        """[readable] the shorter side of each image, sorted."""
        found: NDArray[np.uint32] = np.sort(self.sides.min(axis=1)[self.sides[:, 0] > 0])
        return found

    def three_sizes(self, axis: int | None = None) -> tuple[int, int, int] | None:
        """Return the smallest, median and largest height (axis 0), width (1) or shorter side."""
        sides = self.short_sides
        if axis is not None:
            sides = np.sort(self.sides[self.sides[:, 0] > 0, axis])
        if not len(sides):
            return None
        return int(sides[0]), int(sides[(len(sides) - 1) // 2]), int(sides[-1])


def inspect(
    images: Images,
    *,
    sample: int | None = None,
    workers: int = 0,
    bad_limit: float = BAD_LIMIT,
    report: Report | None = None,
) -> Inspection:
    """Return what is found when every image is read, or a sample spread over all of them.

    Memory is 24 bytes for each image.

    Args:
        bad_limit: share of the images, 0 to 1, that training will put up with as unusable.

    Raises:
        UsageError: There is no such share.
    """
    check_bad_limit(bad_limit)
    total = len(images)
    image_ids = range(total) if sample is None else spread(total, sample)
    kind = _kind_of(images)
    found = Inspection(
        images,
        image_ids,
        kind,
        np.zeros(len(image_ids), f"S{DIGEST_BYTES}"),
        np.zeros((len(image_ids), 2), np.uint32),
        bad_limit=bad_limit,
    )
    facts = each_image(
        images, image_ids, partial(facts_of, kind=kind), workers=workers, report=report
    )
    for place, (image_id, fact) in enumerate(zip(image_ids, facts, strict=True)):
        _note(found, place, image_id, fact)
    return found


def _kind_of(images: Images) -> ImageKind | None:
    try:
        return find_kind(images)
    except DataError:
        return None


def facts_of(images: Images, image_id: int, kind: ImageKind | None) -> Facts | Unread:
    """Return what is kept of an image."""
    try:
        pixels = images.read(image_id)
    except UnreadableImageError as error:
        return Unread(str(error))
    unfit = ""
    try:
        if kind is not None:
            fit(pixels, kind.channels, kind.deep)
    except UnreadableImageError as error:
        unfit = str(error)
    height, width, channels = pixels.shape
    return Facts(height, width, channels, str(pixels.dtype), digest_of(pixels), unfit)


def digest_of(pixels: Pixels) -> bytes:
    """Return 16 bytes that are equal for images of equal shape, type and pixels alone."""
    about = f"{pixels.shape} {pixels.dtype}".encode()
    digest = hashlib.blake2b(about, digest_size=DIGEST_BYTES)
    digest.update(np.ascontiguousarray(pixels).data)
    return digest.digest()


def _note(found: Inspection, place: int, image_id: int, fact: Facts | Unread) -> None:
    name = found.images.name(image_id)
    suffix = _SUFFIX.search(name)
    found.suffixes[suffix[0].lower() if suffix else "no suffix"] += 1
    if isinstance(fact, Unread):
        _add_problem(found.unreadable, fact.reason, name)
        return
    found.digests[place] = fact.digest
    found.sides[place] = fact.height, fact.width
    found.kinds[fact.channels, fact.depth] += 1
    if fact.unfit:
        _add_problem(found.unfit, fact.unfit, name)


def _add_problem(problems: dict[str, Problem], reason: str, name: str) -> None:
    """Count a reason; sizes and places in it make no reason of its own."""
    reason = re.sub(r"\d+", "N", reason)
    if reason not in problems and len(problems) >= MOST_REASONS:
        reason = OTHER_REASONS
    problem = problems.setdefault(reason, Problem())
    problem.count += 1
    if len(problem.names) < FIRST_NAMES:
        problem.names.append(name)


def count_of(problems: dict[str, Problem]) -> int:
    """Return how many images have one of the problems."""
    return sum(problem.count for problem in problems.values())


def class_counts(images: Images) -> dict[str, int] | None:
    """Return how many images each class has, by name; None without classes."""
    labels = images.labels() if isinstance(images, StoredImages) else None
    return None if labels is None else dict(sorted(Counter(labels).items()))


def left_out(images: Images) -> list[tuple[str, str]]:
    """Return the parts of the source that were left out when it was opened: what, and why."""
    damaged: Any = getattr(images, "damaged", [])
    return list(damaged)


def left_out_lines(images: Images, most: int = 5) -> list[str]:
    """Return lines about the first parts of the source that were left out, and how many more."""
    parts = left_out(images)
    lines = [f"left out of the source: {part}: {reason}" for part, reason in parts[:most]]
    more = len(parts) - most
    return [*lines, f"left out of the source: {more:,} more"] if more > 0 else lines
