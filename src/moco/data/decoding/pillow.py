"""The formats that Pillow reads, and the pixels of its images."""

from __future__ import annotations

from io import BytesIO

import numpy as np
from PIL import Image

from moco.data.decoding.bounds import (
    Silence,
    check_finite,
    check_pixel_count,
    short_reason,
)
from moco.data.decoding.turning import exif_orientation, upright
from moco.data.images import Pixels, UnreadableImageError

_GREY = {"1", "L", "LA", "La"}


def pixels_of(image: Image.Image) -> Pixels:
    """Return a Pillow image's pixels as they lie in it: its EXIF orientation is not applied.

    Raises:
        UnreadableImageError: It has no pixels, or is a damaged file that was not read yet.
    """
    try:
        with Silence():
            check_pixel_count(*image.size)
            return _pixels(image)
    except UnreadableImageError:
        raise
    except Exception as error:
        reason = short_reason(f"not an image that can be used: {error}")
        raise UnreadableImageError(reason) from error


def decode_with_pillow(data: bytes, kind: str) -> Pixels:
    """Return the first picture of a file of the kind that Pillow calls so, upright.

    Only that reader is asked: Pillow has others, which start programs.
    """
    with Silence(), Image.open(BytesIO(data), formats=(kind,)) as file:
        file.load()
        deep = kind == "PPM" and file.mode == "I"
        pixels = np.array(file).astype(np.uint16)[:, :, None] if deep else _pixels(file)
        return upright(pixels, exif_orientation(_exif(file)))  # a TIFF is upright by now


def _exif(file: Image.Image) -> bytes:
    """Return a file's Exif metadata, also where ImageMagick put them in a PNG."""
    exif = file.info.get("exif")
    if exif is None and "Raw profile type exif" in file.info:
        lines = str(file.info["Raw profile type exif"]).split("\n")
        try:
            exif = bytes.fromhex("".join(lines[3:]))
        except ValueError:
            return b""
    return exif if isinstance(exif, bytes) else b""


def _pixels(image: Image.Image) -> Pixels:
    mode = image.mode
    if mode.startswith("I;16"):
        return np.array(image).astype(np.uint16)[:, :, None]  # in this machine's byte order
    if mode in ("I", "F"):
        return check_finite(np.array(image).astype(np.float32))[:, :, None]
    if mode == "La":
        image = image.convert("LA")  # Pillow knows no shorter way
    wanted = "L" if mode in _GREY else "RGB"
    pixels = np.array(image if image.mode == wanted else image.convert(wanted))
    return pixels[:, :, None] if wanted == "L" else pixels
