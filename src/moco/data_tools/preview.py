"""What training will see of some images, in one picture."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from PIL import Image

from moco.data.images import Images, UnreadableImageError, spread
from moco.data.view_samples import sample_views
from moco.data.views import picture, view_picture
from moco.data_tools.reading import Report
from moco.data_tools.words import plain_text
from moco.errors import DataError, UsageError
from moco.fitted_recipe import fitted_recipe
from moco.found_recipe import find_recipe
from moco.recipe import Recipe
from moco.recipe_files import read_setting
from moco.small import FEWEST_IMAGES
from moco.specs import ViewsSpec

GAP = 4
"""Pixels between cells."""
SMALLEST_CELL = 96
"""Views are enlarged, each pixel to a square, until they are about so large."""
BACKGROUND = (96, 96, 96)
MOST_PIXELS = 100_000_000
"""Of the picture: three bytes each, held twice while it is put together."""


@dataclass(frozen=True)
class Preview:
    """The picture and what is in it."""

    grid: Image.Image
    """A row for each image: the image, then both views of each epoch."""
    image_ids: list[int]
    """Row by row."""
    skipped: list[tuple[str, str]]
    """Images that cannot be used, and why; the next one stands in."""
    scale: int
    """How many pixels wide a pixel of a view is."""


def recipe_of_preview(
    images: Images, asked: str | Path, settings: Sequence[str], device: torch.device
) -> Recipe:
    """Return the recipe that a run with these images would have, however few they are.

    Raises:
        UsageError: An unknown recipe or field, or values that do not go together.
        DataError: None of the images can be read.
    """
    changes = dict(read_setting(setting) for setting in settings)
    count = max(len(images), FEWEST_IMAGES)
    recipe, _ = fitted_recipe(images, find_recipe(asked), changes, device, count=count)
    return recipe


def preview(
    images: Images,
    views: ViewsSpec,
    *,
    count: int = 8,
    epochs: int = 3,
    seed: int = 0,
    size_at: Callable[[int], int] | None = None,
    report: Report | None = None,
) -> Preview:
    """Return the views that the first epochs of a run with this seed have of some images.

    Args:
        size_at: from an epoch to the side of its views, at most that of `views`; None: that one.

    Raises:
        UsageError: The picture would be too large to be made or looked at.
        DataError: None of the images can be used.
    """
    total = min(count, len(images))
    side = views.image_size
    scale = max(1, SMALLEST_CELL // side)
    width, height = place_of_cell(total, 1 + 2 * epochs, side * scale)
    if width * height > MOST_PIXELS:
        raise UsageError(
            f"a picture of {width:,} x {height:,} pixels is too large; lower --images or --epochs"
        )
    sizes = [side if size_at is None else size_at(epoch) for epoch in range(epochs)]
    rows: list[list[Image.Image]] = []
    used: list[int] = []
    skipped: dict[int, str] = {}
    for wanted in spread(len(images), count):
        row = _row_of_next(images, wanted, views, sizes, seed, used, skipped)
        if row is not None:
            rows.append(
                [_letterboxed(row[0], side * scale), *(_enlarged(v, scale) for v in row[1:])]
            )
        if report is not None:
            report(len(rows), total)
    if not rows:
        image_id, reason = next(iter(skipped.items()))
        raise DataError(
            f"none of the {len(images)} images can be used; {plain_text(images.name(image_id))}: "
            f"{reason}"
        )
    named = [(images.name(image_id), reason) for image_id, reason in sorted(skipped.items())]
    return Preview(_grid(rows, side * scale), used, named, scale)


def _row_of_next(
    images: Images,
    wanted: int,
    views: ViewsSpec,
    sizes: Sequence[int],
    seed: int,
    used: list[int],
    skipped: dict[int, str],
) -> list[Image.Image] | None:
    """Return the pictures of the image, or of the next one that is not used yet and can be."""
    for image_id in range(wanted, wanted + len(images)):
        image_id %= len(images)
        if image_id in used or image_id in skipped:
            continue
        try:
            row = [picture(images.read(image_id))]
            for epoch, side in enumerate(sizes):
                both = sample_views(images, image_id, views, seed=seed, epoch=epoch, side=side)
                row += [view_picture(view) for view in both]
        except UnreadableImageError as error:
            skipped[image_id] = str(error)
            continue
        used.append(image_id)
        return row
    return None


def _letterboxed(shown: Image.Image, side: int) -> Image.Image:
    """Return the whole image in the middle of a square."""
    factor = side / max(shown.size)
    size = [max(1, round(length * factor)) for length in shown.size]
    small = shown.convert("RGB").resize((size[0], size[1]), Image.Resampling.BILINEAR)
    cell = Image.new("RGB", (side, side), BACKGROUND)
    cell.paste(small, ((side - size[0]) // 2, (side - size[1]) // 2))
    return cell


def _enlarged(view: Image.Image, scale: int) -> Image.Image:
    size = (view.width * scale, view.height * scale)
    return view.convert("RGB").resize(size, Image.Resampling.NEAREST)


def place_of_cell(row: int, column: int, side: int) -> tuple[int, int]:
    """Return the left and top pixel of a cell of this side."""
    return GAP + column * (side + GAP), GAP + row * (side + GAP)


def _grid(rows: list[list[Image.Image]], side: int) -> Image.Image:
    size = place_of_cell(len(rows), len(rows[0]), side)
    grid = Image.new("RGB", size, BACKGROUND)
    for number, row in enumerate(rows):
        for column, cell in enumerate(row):
            grid.paste(cell, place_of_cell(number, column, side))
    return grid
