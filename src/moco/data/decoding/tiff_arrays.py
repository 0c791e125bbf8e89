"""TIFF through tifffile: deep values, many channels, and pages that are channels."""

from __future__ import annotations

import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from importlib import import_module
from io import BytesIO
from math import prod
from typing import Any

import numpy as np

from moco.data.decoding.bounds import Silence, check_byte_count, with_few_types
from moco.data.images import Pixels, UnreadableImageError

MAX_RATIO = 4096  # of pixels to the file; deflate reaches 1032, LZW about 1300
ALPHA = (1, 2)  # kinds of extra samples: associated and unassociated
# those whose output tifffile bounds; others hold files of their own kinds, of any size
_COMPRESSIONS = {1, 5, 8, 32773, 32946, 50000}
_BOUNDED_WITHOUT_IMAGECODECS = {1, 32773}
_DEFLATE = {8, 32946}
_AXES_OF_CHANNELS = {"CYX", "SYX", "QYX"}  # Q where the file does not name it
_REMEDY = 'this TIFF needs imagecodecs: pip install "moco-torch[tiff]"'


def decode_first_page(data: bytes, compression: int, extra: tuple[int, ...]) -> Pixels:
    """Return the first page of a file [H, W, C], without its alpha; `extra` is the tag."""
    with _opened(data, compression) as file:
        page = file.pages.first
        _check_segments(page, data)
        values = page.asarray(squeeze=False, maxworkers=1)
    return with_few_types(_without_alpha(_channels_last(values), extra))


def decode_pages_that_are_channels(data: bytes, compression: int) -> Pixels | None:
    """Return pages as channels [H, W, C] where OME, ImageJ or tifffile wrote that they are.

    None where the pages are something else: moments, depths, other pictures.
    """
    if not _says_what_pages_are(data):
        return None
    with _opened(data, compression) as file:
        series = file.series[0]
        if series.axes not in _AXES_OF_CHANNELS or len(series.pages) != series.shape[0]:
            return None
        check_size(prod(series.shape) * series.dtype.itemsize, data)
        for page in series.pages:
            _check_segments(page, data)
        pages = [page.asarray(squeeze=False, maxworkers=1) for page in series.pages]
    return with_few_types(np.dstack([_channels_last(page) for page in pages]))


def _says_what_pages_are(data: bytes) -> bool:
    from tifffile import TiffFile

    with Silence(), TiffFile(BytesIO(data)) as file:
        return bool(file.is_ome or file.is_imagej or file.is_shaped)


@contextmanager
def _opened(data: bytes, compression: int) -> Iterator[Any]:
    if compression not in _COMPRESSIONS:
        what = f"compression {compression} with such values"
        raise UnreadableImageError(f"a TIFF of {what} is not read; store it with deflate")
    from tifffile import TiffFile

    try:
        # not by its name: metadata may name other files, and from memory tifffile opens none
        with Silence(), TiffFile(BytesIO(data)) as file:
            yield file
    except Exception as error:
        if "imagecodecs" in str(error):
            raise UnreadableImageError(_REMEDY) from error
        raise


def check_size(size: int, data: bytes) -> None:
    """Refuse what is over the limit, or more than a file of this length can unpack to.

    Raises:
        UnreadableImageError: It is.
    """
    check_byte_count(size)
    if size > MAX_RATIO * len(data):
        raise UnreadableImageError(f"{size} bytes of pixels declared in a file of {len(data)}")


def _check_segments(page: Any, data: bytes) -> None:
    """Refuse what is cut off, which would be filled in, and what unpacks to more than declared.

    The tags are those that tifffile found: in a damaged file it may find others than we did.
    """
    stored = page.keyframe  # what all pages that are stored alike have in common
    if stored.dtype is None:
        raise UnreadableImageError(f"TIFF values of {stored.bitspersample} bits are not read")
    check_size(prod(stored.shaped) * stored.dtype.itemsize, data)
    most = prod(stored.chunks) * stored.dtype.itemsize
    check_byte_count(most)
    segments = list(zip(page.dataoffsets, page.databytecounts, strict=True))
    if len(segments) < prod(stored.chunked) or any(sum(part) > len(data) for part in segments):
        raise UnreadableImageError("the file is cut off: it ends before its pixels do")
    if stored.compression not in _BOUNDED_WITHOUT_IMAGECODECS and not _has_imagecodecs():
        for start, length in segments:
            _check_inflates_to(data[start : start + length], most, stored.compression)


def _has_imagecodecs() -> bool:
    try:
        import_module("imagecodecs")
    except ImportError:
        return False
    return True


def _check_inflates_to(segment: bytes, most: int, compression: int) -> None:
    """Bound what tifffile alone would unpack without end."""
    if compression not in _DEFLATE:
        raise UnreadableImageError(_REMEDY)
    if len(zlib.decompressobj().decompress(segment, most + 1)) > most:
        raise UnreadableImageError("a part of the file unpacks to more than it should hold")


def _channels_last(values: Pixels) -> Pixels:
    """Return [H, W, C] for tifffile's [planes, depth, H, W, samples]."""
    if values.ndim != 5 or values.shape[1] != 1 or 1 not in (values.shape[0], values.shape[4]):
        raise UnreadableImageError(f"a TIFF of shape {values.shape} is no flat image")
    flat = values[:, 0]
    return flat[0] if flat.shape[0] == 1 else np.moveaxis(flat[..., 0], 0, 2)


def _without_alpha(pixels: Pixels, extra: tuple[int, ...]) -> Pixels:
    first = pixels.shape[2] - len(extra)
    alpha = {first + place for place, kind in enumerate(extra) if kind in ALPHA}
    kept = [channel for channel in range(pixels.shape[2]) if channel not in alpha]
    if not kept:
        raise UnreadableImageError("a TIFF of nothing but alpha")
    return pixels if len(kept) == pixels.shape[2] else pixels[:, :, kept]
