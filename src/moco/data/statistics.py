"""What kind of images these are: their channels, their depth, each channel's mean and deviation."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np

from moco.data.channel_sums import ChannelSums, Figures, channel_sums
from moco.data.crops import fit
from moco.data.images import Images, Pixels, UnreadableImageError, first_usable, spread
from moco.errors import DataError

KIND_SAMPLE = 32
STATISTICS_SAMPLE = 256
"""Images spread over all of them: for mean and deviation that is exact enough."""
MOST_SIDE = 512
"""Of larger images every second, third, ... row and column is counted."""


@dataclass(frozen=True)
class ImageKind:
    """What a network for these images sees."""

    channels: int
    deep: bool
    """Whether 8 bits a channel would lose something."""

    @property
    def is_photographs(self) -> bool:
        """Whether these are 8-bit colours, or greys, which then count as three equal channels."""
        return self.channels == 3 and not self.deep


@dataclass(frozen=True)
class ChannelStatistics:
    """Of the pixels of some images, on the scale of `fit`: integers 0 to 1, others as they are."""

    images: int
    """How many were counted."""
    mean: tuple[float, ...]
    std: tuple[float, ...]


def readable(images: Images, image_ids: list[int]) -> Iterator[Pixels]:
    """Yield those of the images that can be read."""
    for image_id in image_ids:
        try:
            yield images.read(image_id)
        except UnreadableImageError:
            continue


def find_kind(images: Images) -> ImageKind:
    """Return what most of a few images, spread over all of them, are.

    Raises:
        DataError: None of them can be read.
    """
    first = first_usable(images)  # before a sample is: where none can be read it gives up sooner
    kinds = Counter(_kind(pixels) for pixels in readable(images, spread(len(images), KIND_SAMPLE)))
    return kinds.most_common(1)[0][0] if kinds else _kind(first)


def _kind(pixels: Pixels) -> ImageKind:
    channels, deep = pixels.shape[2], pixels.dtype != np.uint8
    return ImageKind(3 if channels == 1 and not deep else channels, deep)


def channel_statistics(
    images: Images, kind: ImageKind, *, sample: int = STATISTICS_SAMPLE
) -> ChannelStatistics:
    """Return each channel's mean and deviation over a sample of the images.

    The deviation is that of all pixels together, as ImageNet's; 1 for a channel that never varies.

    Raises:
        DataError: None of the sample is of this kind and readable.
    """
    total: ChannelSums | None = None
    counted = 0
    image_ids = spread(len(images), sample)
    for image_id in image_ids:
        try:
            pixels = fit(images.read(image_id), kind.channels, kind.deep)
        except UnreadableImageError:
            continue
        rows, columns = (-(-side // MOST_SIDE) for side in pixels.shape[:2])
        sums = channel_sums(pixels[::rows, ::columns])
        total = sums if total is None else total.merged(sums)
        counted += 1
    if total is None:
        raise DataError(
            f"none of {len(image_ids)} images serves as one of {kind.channels} channels; set "
            "views.channels to what `moco data check` finds"
        )
    std = np.where(total.std > 0, total.std, 1.0)
    return ChannelStatistics(counted, _figures(total.mean, kind), _figures(std, kind))


def _figures(row: Figures, kind: ImageKind) -> tuple[float, ...]:
    """Return a figure for each channel, to six digits: what a recipe keeps."""
    return tuple(float(f"{figure:.6g}") for figure in np.broadcast_to(row, kind.channels))
