"""What was found in a source, in words: whether training would go, and what to do first."""

from __future__ import annotations

import numpy as np

from moco.data_tools.check import Inspection
from moco.data_tools.equal_images import Duplicates, Leaks
from moco.data_tools.words import counted
from moco.small import FEWEST_IMAGES

SIDES = (32, 64, 128, 224)
"""Views' sides of the recipes: what is smaller is enlarged."""
LARGE = 512
"""Shorter sides above it cost more to decode than a view needs."""


def verdict(found: Inspection, duplicates: Duplicates, leaks: Leaks | None) -> list[str]:
    """Return a line for each thing that should be known before training."""
    return [
        *_about_kind(found),
        _about_limit(found),
        *_about_sizes(found),
        *_about_equal(duplicates, leaks),
    ]


def _about_kind(found: Inspection) -> list[str]:
    kind = found.kind
    if kind is None:
        return []
    if kind.is_photographs:
        return ["8-bit photographs: every recipe takes them as they are"]
    depth = "16 bits or floating-point values" if kind.deep else "8 bits"
    return [
        f"{kind.channels} channels of {depth}: training takes them as they are, with the mean and "
        "deviation of a sample; `moco data stats` counts those of all images for a recipe file"
    ]


def _about_limit(found: Inspection) -> str:
    total, bad, most = len(found.image_ids), found.unusable, found.most_unusable
    limit = f"the limit of {100 * found.bad_limit:g} % ({most:,})"
    if not found.is_usable:
        return f"training would stop: {bad:,} of {total:,} images cannot be used, above {limit}"
    if len(found.images) < FEWEST_IMAGES:
        return f"training needs at least {FEWEST_IMAGES} images; add some"
    if bad:
        return f"training would go: {bad:,} of {total:,} images cannot be used, within {limit}"
    return "training would go: every image can be used"


def _about_sizes(found: Inspection) -> list[str]:
    short = found.short_sides
    if not len(short):
        return []
    lines = []
    if np.median(short) > LARGE:
        lines.append(
            f"half of them have a shorter side above {LARGE}: `moco data pack` makes them quick "
            "to read"
        )
    if short[0] < SIDES[0]:
        count = int((short < SIDES[0]).sum())
        lines.append(
            f"shorter sides below {SIDES[0]} pixels: {counted(count)}, enlarged for their views; "
            "lower views.image_size if most are so small"
        )
    return lines


def _about_equal(duplicates: Duplicates, leaks: Leaks | None) -> list[str]:
    lines = []
    if duplicates.images:
        lines.append(
            f"{counted(duplicates.images, 'duplicate')}: training then tells an image apart from "
            "itself; remove them"
        )
    if leaks is not None and leaks.images:
        lines.append(
            f"{counted(leaks.images, 'test image')} would be trained on, and scores on them mean "
            "little; remove them from one of both"
        )
    return lines
