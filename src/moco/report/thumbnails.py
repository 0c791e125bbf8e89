"""Small pictures of very many images as sheets of JPEG that fit in so many bytes.

Letters: N images, S pixels a side.
"""

from __future__ import annotations

import base64
import io
import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from moco.data.images import Images, UnreadableImageError, spread
from moco.data.views import picture
from moco.data_tools.reading import Report, each_image
from moco.errors import UsageError

Tile = NDArray[np.uint8]
"""[S, S, 3]"""

SIDES = (128, 96, 80, 64, 48, 40, 32, 24, 16, 8)
"""Of a picture in a sheet; multiples of JPEG's blocks, so that few pixels of one reach into the
next."""
QUALITIES = (90, 85, 80, 75, 70, 65, 60, 55, 50, 45, 40, 35, 30, 25, 20)
USUAL_QUALITY = 50
"""At which the side is chosen; the quality is then the best that fits."""
TRIED = 256
"""Images by which the side is chosen, spread over all."""
SHEET_SIDE = 1024
"""Pixels: decoded in some 10 ms."""
MOST_DECODED_BYTES = 1 << 27
"""Of all sheets as a browser holds them, four bytes a pixel."""
MISSING = 128
"""The grey of a picture that can no longer be read."""
SHOWN_SIDE, SHOWN_QUALITY = 160, 80


@dataclass(frozen=True)
class Sprites:
    """Pictures in sheets: picture n is in sheet n // columns ** 2, row by row."""

    side: int
    columns: int
    """Pictures in a row of a sheet, and rows of it."""
    quality: int
    sheets: tuple[bytes, ...]
    """JPEG."""

    @property
    def encoded_bytes(self) -> int:
        """Bytes on the page, as base64."""
        return sum(4 * math.ceil(len(sheet) / 3) for sheet in self.sheets)


def make_sprites(
    images: Images,
    image_ids: Sequence[int],
    *,
    most_bytes: int,
    workers: int = 0,
    report: Report | None = None,
) -> Sprites:
    """Return a picture of each image, as large and as true as `most_bytes` of base64 allow.

    A picture is the middle square of its image. All have one side, at most that of a usual image.

    Raises:
        UsageError: Not even 8 x 8 pixels of each fit.
        DataError: A process that reads images was lost.
    """
    side = _choose_side(images, image_ids, most_bytes)
    tiles = np.full((len(image_ids), side, side, 3), MISSING, np.uint8)
    work = partial(tile_of, side=side)
    read = each_image(images, image_ids, work, workers=workers, report=report)
    for number, tile in enumerate(read):
        if tile is not None:
            tiles[number] = tile
    for smaller in (side, *(other for other in SIDES if other < side)):
        if smaller < side:
            tiles = np.stack([_resized(tile, smaller) for tile in tiles])
        for quality in QUALITIES:
            made = _sheets(tiles, quality)
            if made.encoded_bytes <= most_bytes:
                return made
    raise _too_many(len(image_ids))


def tile_of(images: Images, image_id: int, side: int) -> Tile | None:
    """Return the middle square of an image with `side` pixels, None where it cannot be read."""
    try:
        return _tile(picture(images.read(image_id)), side)
    except UnreadableImageError:
        return None


def shown_picture(images: Images, image_id: int) -> str:
    """Return an image as the address that an `img` takes, its middle square; small ones enlarged.

    Small ones are enlarged here, sharply, rather than by the browser.
    """
    try:
        shown = picture(images.read(image_id)).convert("RGB")
    except UnreadableImageError:
        shown = Image.new("RGB", (8, 8), (MISSING, MISSING, MISSING))
    short = min(shown.size)
    tile = Image.fromarray(_tile(shown, min(short, SHOWN_SIDE)))
    if short < SHOWN_SIDE // 2:
        factor = SHOWN_SIDE // (2 * short) + 1
        tile = tile.resize((short * factor, short * factor), Image.Resampling.NEAREST)
    return f"data:image/jpeg;base64,{base64.b64encode(_jpeg(tile, SHOWN_QUALITY)).decode()}"


def _choose_side(images: Images, image_ids: Sequence[int], most_bytes: int) -> int:
    """Return the largest side whose pictures fit at a usual quality, by those of some images."""
    tried = [image_ids[number] for number in spread(len(image_ids), TRIED)]
    shown: list[Image.Image] = []
    shorts: list[int] = []
    for image_id in tried:
        try:
            whole = picture(images.read(image_id))
        except UnreadableImageError:
            continue
        shorts.append(min(whole.size))
        shown.append(Image.fromarray(_tile(whole, min(SIDES[0], shorts[-1]))))
    usual = int(np.median(shorts)) if shorts else SIDES[-1]
    for side in SIDES:
        if side > max(usual, SIDES[-1]) or len(image_ids) * side**2 * 4 > MOST_DECODED_BYTES:
            continue
        if not shown:
            return side
        tiles = np.stack([_tile(whole, side) for whole in shown])
        of_each = _sheets(tiles, USUAL_QUALITY).encoded_bytes / len(shown)
        if of_each * len(image_ids) <= most_bytes:
            return side
    if len(image_ids) * SIDES[-1] ** 2 * 4 > MOST_DECODED_BYTES:
        raise _too_many(len(image_ids))
    return SIDES[-1]


def _too_many(count: int) -> UsageError:
    return UsageError(f"pictures of {count:,} images do not fit on a page; lower --most-images")


def _tile(whole: Image.Image, side: int) -> Tile:
    short = min(whole.size)
    left, top = (whole.width - short) / 2, (whole.height - short) / 2
    box = (left, top, left + short, top + short)
    small = whole.convert("RGB").resize((side, side), Image.Resampling.LANCZOS, box=box)
    return np.asarray(small)


def _resized(tile: Tile, side: int) -> Tile:
    return _tile(Image.fromarray(tile), side)


def _sheets(tiles: NDArray[np.uint8], quality: int) -> Sprites:
    """Return tiles [N, S, S, 3] in sheets; the last has no more rows than it needs."""
    side = tiles.shape[1]
    columns = max(1, min(SHEET_SIDE // side, math.ceil(math.sqrt(len(tiles)))))
    sheets = []
    for first in range(0, len(tiles), columns**2):
        of_sheet = tiles[first : first + columns**2]
        rows = math.ceil(len(of_sheet) / columns)
        cells: NDArray[Any] = np.full((rows * columns, side, side, 3), MISSING, np.uint8)
        cells[: len(of_sheet)] = of_sheet
        grid = cells.reshape(rows, columns, side, side, 3).swapaxes(1, 2)
        sheet = Image.fromarray(grid.reshape(rows * side, columns * side, 3))
        sheets.append(_jpeg(sheet, quality))
    return Sprites(side, columns, quality, tuple(sheets))


def _jpeg(image: Image.Image, quality: int) -> bytes:
    content = io.BytesIO()
    image.save(content, "JPEG", quality=quality, optimize=True)
    return content.getvalue()
