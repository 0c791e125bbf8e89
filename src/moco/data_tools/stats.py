"""Each channel's mean, deviation and range over all images, and what a recipe file says of them."""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial
from typing import NamedTuple

import numpy as np

from moco.data.channel_sums import ChannelSums, channel_sums
from moco.data.crops import fit
from moco.data.images import Images, UnreadableImageError, spread
from moco.data.statistics import ImageKind, find_kind
from moco.data_tools.reading import Report, each_image
from moco.errors import DataError


class PassedOver(NamedTuple):
    """An image that was not counted."""

    is_readable: bool
    reason: str


@dataclass(frozen=True)
class SourceStatistics:
    """Of all pixels of a source: integers count as 0 to 1, floating-point values as they are."""

    kind: ImageKind
    images: int
    """How many were counted."""
    unreadable: int
    of_another_kind: int
    pixels: int
    mean: tuple[float, ...]
    std: tuple[float, ...]
    """Of all pixels together, 0 for a channel that never varies."""
    lowest: tuple[float, ...]
    highest: tuple[float, ...]


def source_statistics(
    images: Images, *, sample: int | None = None, workers: int = 0, report: Report | None = None
) -> SourceStatistics:
    """Return the statistics of every pixel of every image, or of a sample spread over all.

    Raises:
        DataError: None can be read.
    """
    kind = find_kind(images)
    image_ids = range(len(images)) if sample is None else spread(len(images), sample)
    total: ChannelSums | None = None
    counted = unreadable = unlike = 0
    work = partial(sums_of, kind=kind)
    for found in each_image(images, image_ids, work, workers=workers, report=report):
        if isinstance(found, PassedOver):
            unlike += found.is_readable
            unreadable += not found.is_readable
            continue
        counted += 1
        total = found if total is None else total.merged(found)
    if total is None:
        raise DataError(f"none of {len(image_ids)} images can be counted; see `moco data check`")
    mean, deviation, lowest, highest = (
        tuple(np.broadcast_to(figures, kind.channels).tolist())
        for figures in (total.mean, total.std, total.lowest, total.highest)
    )
    return SourceStatistics(
        kind, counted, unreadable, unlike, total.pixels, mean, deviation, lowest, highest
    )


def sums_of(images: Images, image_id: int, kind: ImageKind) -> ChannelSums | PassedOver:
    """Return the sums of an image's pixels, [C] or [1] for a grey one among colours."""
    try:
        pixels = images.read(image_id)
    except UnreadableImageError as error:
        return PassedOver(is_readable=False, reason=str(error))
    try:
        fitted = fit(pixels, kind.channels, kind.deep)
    except UnreadableImageError as error:
        return PassedOver(is_readable=True, reason=str(error))
    if kind.deep and fitted.shape == pixels.shape:
        fitted = pixels  # float32, which `fit` returns, holds fewer digits than are wanted here
    return channel_sums(fitted)


def recipe_lines(statistics: SourceStatistics) -> str:
    """Return the lines of a recipe file that say what the images are."""
    kind = statistics.kind
    std = [figure or 1.0 for figure in statistics.std]
    return "\n".join(
        [
            "views:",
            f"  channels: {kind.channels}",
            f"  deep: {str(kind.deep).lower()}",
            f"  mean: [{', '.join(map(yaml_number, statistics.mean))}]",
            f"  std: [{', '.join(map(yaml_number, std))}]",
        ]
    )


def yaml_number(figure: float) -> str:
    """Return six digits of a number as YAML reads numbers: 1e-05 would be text there."""
    digits, _, exponent = f"{figure:.6g}".partition("e")
    digits += "" if "." in digits else ".0"
    return f"{digits}e{exponent}" if exponent else digits
