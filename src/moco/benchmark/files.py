"""The image files that pipelines are timed on, and whether all see the same pixels in them."""

from __future__ import annotations

from dataclasses import dataclass
from itertools import islice
from pathlib import Path

import numpy as np
from PIL import Image, ImageOps

from moco.benchmark.official import open_picture
from moco.benchmark.photographs import COUNT, write_photographs
from moco.data.crops import Box, cut, fit
from moco.data.images import Pixels, UnreadableImageError
from moco.data.order import Order
from moco.data.sources.folder import FolderImages, find_images
from moco.errors import DataError
from moco.specs import ViewsSpec

MOST_TRIED = 1000
COMPARED = 8
"""Images whose pixels are compared."""


@dataclass(frozen=True)
class Files:
    """The same images as paths and as a source."""

    paths: list[Path]
    images: FolderImages
    mean_bytes: float


@dataclass(frozen=True)
class Likeness:
    """How far our pixels are from the official pipeline's, of 255, in the mean over an image."""

    decoded: float
    """The most that a decoded image is off Pillow's."""
    crops: float
    """The most that a crop is off the same one by Pillow."""

    @property
    def worst(self) -> float:
        """The larger of both."""
        return max(self.decoded, self.crops)


def made_files(folder: Path) -> Files:
    """Write photographs into the folder and return them.

    Raises:
        DataError: The packages that carry them are not installed.
    """
    paths = write_photographs(folder)
    return _files(folder, [path.name for path in paths])


def own_files(folder: Path) -> Files:
    """Return up to 48 of a folder's images, picked at random, always the same ones.

    Raises:
        DataError: It is no folder, as the official pipeline needs one, or none can be read.
    """
    names = find_images(folder)
    places = np.arange(min(len(names), MOST_TRIED))
    tried = Order(np.array([len(names)]), seed=0).images_at(0, places)
    chosen = (names[place] for place in tried)
    readable = list(islice((name for name in chosen if _is_readable(folder, name)), COUNT))
    if not readable:
        raise DataError(
            f"none of {len(tried)} images in {folder} can be read; name another --images"
        )
    return _files(folder, sorted(readable))


def _files(folder: Path, names: list[str]) -> Files:
    paths = [folder / name for name in names]
    mean_bytes = sum(path.stat().st_size for path in paths) / len(paths)
    return Files(paths, FolderImages(folder, names=names), mean_bytes)


def _is_readable(folder: Path, name: str) -> bool:
    try:
        fit(FolderImages(folder, names=[name]).read(0), 3, deep=False)
        open_picture(folder / name)
    except (UnreadableImageError, OSError, ValueError, SyntaxError, Image.DecompressionBombError):
        return False
    return True


def compare_pixels(files: Files, views: ViewsSpec) -> Likeness:
    """Return how alike the pixels are that ours and the official pipeline work on."""
    draw = np.random.default_rng(0)
    decoded, crops = [0.0], [0.0]
    for row, path in enumerate(files.paths[:COMPARED]):
        pixels = fit(files.images.read(row), views.channels, views.deep)
        with Image.open(path) as file:
            picture = ImageOps.exif_transpose(file).convert("RGB")
        top, left, height, width = box = _box(draw, pixels)
        crop = cut(pixels, box, views.image_size, views.channels).permute(1, 2, 0).numpy()
        corners = (left, top, left + width, top + height)
        size = (views.image_size, views.image_size)
        theirs = picture.crop(corners).resize(size, Image.Resampling.BILINEAR)
        decoded.append(_mean_difference(pixels, np.asarray(picture)))
        crops.append(_mean_difference(crop, np.asarray(theirs)))
    return Likeness(max(decoded), max(crops))


def _box(draw: np.random.Generator, pixels: Pixels) -> Box:
    """Return a large part of an image, at random."""
    height, width = (max(1, int(side * draw.uniform(0.5, 1.0))) for side in pixels.shape[:2])
    top, left = (
        int(draw.integers(0, whole - part + 1))
        for whole, part in zip(pixels.shape[:2], (height, width), strict=True)
    )
    return top, left, height, width


def _mean_difference(ours: Pixels, theirs: Pixels) -> float:
    return float(np.abs(ours.astype(np.float32) - theirs).mean())
