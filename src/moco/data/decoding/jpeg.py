"""JPEG: through simplejpeg where it is installed, the same pixels at a higher rate."""

from __future__ import annotations

from collections.abc import Callable
from functools import cache
from importlib import import_module
from typing import NamedTuple

from moco.data.decoding.bounds import check_pixel_count
from moco.data.decoding.pillow import decode_with_pillow
from moco.data.decoding.turning import exif_orientation, upright
from moco.data.images import Pixels

_START_OF_SCAN, _EXIF, _JFIF, _ADOBE = 0xDA, 0xE1, 0xE0, 0xEE
_FRAMES = frozenset(range(0xC0, 0xD0)) - {0xC4, 0xC8, 0xCC}
_USUAL_FRAMES = {0xC0, 0xC1, 0xC2}  # Huffman codes, sequential or progressive
_TABLES = {0xC4, 0xCC, 0xDB, 0xDD}
_METADATA = frozenset(range(0xE0, 0xF0)) | {0xFE}
_KNOWN = _FRAMES | _TABLES | _METADATA | {_START_OF_SCAN}


class Segment(NamedTuple):
    """A part of the header: data[start:end], with its marker and its length."""

    marker: int
    start: int
    end: int


class Header(NamedTuple):
    """What a JPEG says before its first scan, which begins at `scan`."""

    width: int
    height: int
    components: int
    usual: bool
    segments: list[Segment]
    scan: int


def decode_jpeg(data: bytes) -> Pixels:
    """Return the picture, grey [H, W, 1] or colour [H, W, 3], upright.

    Whether a file can be used never depends on what is installed: what simplejpeg refuses,
    Pillow is asked for. Both see the same header: one that is not as the standard has it goes to
    Pillow alone, and Pillow is not shown metadata, over which it refuses pictures that are whole.
    """
    header = read_header(data)
    if header is None:
        return decode_with_pillow(data, "JPEG")
    check_pixel_count(header.width, header.height)
    pixels = _quickly(data, header)
    if pixels is None:
        pixels = decode_with_pillow(_without_metadata(data, header), "JPEG")
    return upright(pixels, _orientation(data, header))


def _quickly(data: bytes, header: Header) -> Pixels | None:
    decoder = fast_decoder()
    if decoder is None or not header.usual or header.components not in (1, 3):
        return None
    try:
        return decoder(data, "GRAY" if header.components == 1 else "RGB")
    except ValueError:  # also for damage that libjpeg only warns of, and Pillow lets pass
        return None


@cache
def fast_decoder() -> Callable[[bytes, str], Pixels] | None:
    """Return simplejpeg's decoder, None where it is not installed."""
    try:
        decoder: Callable[[bytes, str], Pixels] = import_module("simplejpeg").decode_jpeg
    except ImportError:
        return None
    return decoder


def read_header(data: bytes) -> Header | None:
    """Return the header, None where it is damaged or unusual."""
    segments: list[Segment] = []
    place, size = 2, len(data)
    while place + 4 <= size and data[place] == 0xFF:
        marker, end = data[place + 1], place + 2 + (data[place + 2] << 8 | data[place + 3])
        if end > size or marker not in _KNOWN:
            return None
        if marker == _START_OF_SCAN:
            return _header(data, segments, place)
        segments.append(Segment(marker, place, end))
        place = end
    return None


def _header(data: bytes, segments: list[Segment], scan: int) -> Header | None:
    frames = [segment for segment in segments if segment.marker in _FRAMES]
    if len(frames) != 1 or frames[0].end - frames[0].start < 10:
        return None
    start = frames[0].start
    return Header(
        width=data[start + 7] << 8 | data[start + 8],
        height=data[start + 5] << 8 | data[start + 6],
        components=data[start + 9],
        usual=frames[0].marker in _USUAL_FRAMES and data[start + 4] == 8,
        segments=segments,
        scan=scan,
    )


def _orientation(data: bytes, header: Header) -> int:
    for marker, start, end in header.segments:
        if marker == _EXIF and data.startswith(b"Exif\0\0", start + 4):
            return exif_orientation(data[start + 4 : end])
    return 1


def _without_metadata(data: bytes, header: Header) -> bytes:
    """Return the file with nothing in its header but what says how its pixels are stored."""
    kept = [
        data[segment.start : segment.end]
        for segment in header.segments
        if segment.marker not in _METADATA or _tells_colours(data, segment)
    ]
    return b"".join([data[:2], *kept, data[header.scan :]])


def _tells_colours(data: bytes, segment: Segment) -> bool:
    marker, start, end = segment
    if marker == _JFIF:
        return end - start >= 18 and data.startswith(b"JFIF\0", start + 4)
    return marker == _ADOBE and end - start >= 16 and data.startswith(b"Adobe", start + 4)
