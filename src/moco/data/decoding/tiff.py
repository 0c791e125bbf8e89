"""TIFF: Pillow for what it reads faithfully, tifffile for deep and many channels."""

from __future__ import annotations

from typing import NamedTuple

from moco.data.decoding.bounds import check_pixel_count
from moco.data.decoding.pillow import decode_with_pillow
from moco.data.decoding.tags import ORIENTATION, count_directories, read_tags
from moco.data.decoding.tiff_arrays import (
    ALPHA,
    check_size,
    decode_first_page,
    decode_pages_that_are_channels,
)
from moco.data.decoding.turning import upright
from moco.data.images import Pixels, UnreadableImageError

MAX_PAGES = 4096
_WIDTH, _HEIGHT, _BITS, _COMPRESSION, _PHOTOMETRIC = 256, 257, 258, 259, 262
_SAMPLES, _PLANAR, _TILE_WIDTH, _TILE_HEIGHT, _EXTRA, _FORMAT = 277, 284, 322, 323, 338, 339
_WANTED = {
    *(_WIDTH, _HEIGHT, _BITS, _COMPRESSION, _PHOTOMETRIC, ORIENTATION),
    *(_SAMPLES, _PLANAR, _TILE_WIDTH, _TILE_HEIGHT, _EXTRA, _FORMAT),
}
_PALETTE, _SEPARATED = 3, 5
_COLOURS = {0: 1, 1: 1, 2: 3, _PALETTE: 1, _SEPARATED: 4, 6: 3, 8: 3}  # of each photometric
_BYTES = {(1, 1), (2, 1), (4, 1), (8, 1)}  # bits and format of what Pillow reads as 8 bits
_DEEP = {(16, 1), (16, 2), (32, 2), (32, 3)}  # and of the other single channels that it reads
_PILLOW_COMPRESSIONS = {1, 2, 3, 4, 5, 6, 7, 8, 32773, 32946, 50000, 50001}


class _Layout(NamedTuple):
    """How the first image of a file is stored."""

    width: int
    height: int
    tile: tuple[int, int]
    bits: set[int]
    formats: set[int]  # 1 unsigned, 2 signed, 3 floating point
    samples: int
    extra: tuple[int, ...]
    photometric: int
    compression: int
    planar: bool
    orientation: int


def decode_tiff(data: bytes) -> Pixels:
    """Return the first image: [H, W, C] with all its channels but alpha, upright.

    Raises:
        UnreadableImageError: It is stored in a way that is not read, or more than it should be.
    """
    layout = _layout(read_tags(data, _WANTED))
    check_pixel_count(layout.width, layout.height)
    check_pixel_count(*layout.tile)
    size = layout.width * layout.height * max(layout.samples, 1) * max(layout.bits) // 8
    check_size(size, data)
    pixels = _channels_in_pages(data, layout)
    if pixels is None and _is_for_pillow(layout):
        return decode_with_pillow(data, "TIFF")
    if pixels is None:
        pixels = _first_page(data, layout)
    return upright(pixels, layout.orientation)


def _channels_in_pages(data: bytes, layout: _Layout) -> Pixels | None:
    if layout.samples != 1 or layout.photometric != 1:
        return None
    if not 1 < count_directories(data, MAX_PAGES) < MAX_PAGES:
        return None
    return decode_pages_that_are_channels(data, layout.compression)


def _first_page(data: bytes, layout: _Layout) -> Pixels:
    if layout.photometric in (_PALETTE, _SEPARATED) or layout.photometric not in _COLOURS:
        what = f"photometric interpretation {layout.photometric}"
        raise UnreadableImageError(f"a TIFF of {what} with such values is not read")
    return decode_first_page(data, layout.compression, layout.extra)


def _layout(tags: dict[int, tuple[int, ...]]) -> _Layout:
    if _WIDTH not in tags or _HEIGHT not in tags:
        raise UnreadableImageError("a TIFF without a size")
    width, height = tags[_WIDTH][0], tags[_HEIGHT][0]
    return _Layout(
        width=width,
        height=height,
        tile=(tags.get(_TILE_WIDTH, (1,))[0], tags.get(_TILE_HEIGHT, (1,))[0]),
        bits=set(tags.get(_BITS, (1,))),
        formats=set(tags.get(_FORMAT, (1,))),
        samples=tags.get(_SAMPLES, (1,))[0],
        extra=tags.get(_EXTRA, ()),
        photometric=tags.get(_PHOTOMETRIC, (0,))[0],
        compression=tags.get(_COMPRESSION, (1,))[0],
        planar=tags.get(_PLANAR, (1,))[0] == 2,
        orientation=tags.get(ORIENTATION, (1,))[0],
    )


def _is_for_pillow(layout: _Layout) -> bool:
    """Return whether Pillow keeps every channel but alpha, and every value as stored."""
    if layout.compression not in _PILLOW_COMPRESSIONS:
        return False
    if layout.photometric == _PALETTE:
        return True
    colours = _COLOURS.get(layout.photometric)
    if layout.samples == 1:
        stored = (*layout.bits, *layout.formats)
        return stored in _BYTES or (layout.photometric == 1 and stored in _DEEP)
    if layout.photometric == _SEPARATED and layout.samples == 4 and layout.bits == {16}:
        return True  # to 8 bits: the colours of ink have to become those of light
    if layout.bits != {8} or layout.formats != {1}:
        return False
    alpha = len(layout.extra) == 1 and layout.extra[0] in ALPHA and not layout.planar
    return colours == (layout.samples - 1 if alpha else layout.samples + len(layout.extra))
