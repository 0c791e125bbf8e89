"""What every decoder keeps to: the limit on pixels, short reasons, no word on the terminal."""

from __future__ import annotations

import logging
import re
import threading
import warnings
from types import TracebackType
from typing import Any, cast

import numpy as np
from PIL import Image

from moco.data.images import Pixels, UnreadableImageError

MAX_REASON = 200

_OUR_WARNINGS = re.compile(r"(PIL|tifffile|imagecodecs|numpy|moco\.data\.decoding)(\.|$)")
_LOGGERS = ("tifffile", "PIL.TiffImagePlugin", "PIL.PngImagePlugin", "PIL.Image")


def check_pixel_count(width: int, height: int) -> None:
    """Refuse what Pillow would refuse, before a decoder takes memory for it.

    Raises:
        UnreadableImageError: There are none, or more than twice PIL.Image.MAX_IMAGE_PIXELS.
    """
    count, limit = width * height, Image.MAX_IMAGE_PIXELS
    if count <= 0:
        raise UnreadableImageError(f"no pixels ({width} x {height})")
    if limit is not None and count > 2 * limit:
        raise UnreadableImageError(f"{count} pixels are more than the limit of {2 * limit}")


def check_byte_count(size: int) -> None:
    """Refuse more bytes than the largest colour image with alpha that the limit lets through.

    Raises:
        UnreadableImageError: They are more than 4 * 2 * PIL.Image.MAX_IMAGE_PIXELS.
    """
    limit = Image.MAX_IMAGE_PIXELS
    if limit is not None and size > 8 * limit:
        raise UnreadableImageError(f"{size} bytes of pixels are more than the limit of {8 * limit}")


def short_reason(text: str) -> str:
    """Return one printable line of at most 200 characters."""
    line = " ".join(text.split())
    line = re.sub(r"<_io\.BytesIO object at 0x\w+>", "", line).strip()
    line = "".join(letter if letter.isprintable() else "?" for letter in line)
    return line if len(line) <= MAX_REASON else line[: MAX_REASON - 3] + "..."


def with_few_types(values: Pixels) -> Pixels:
    """Return uint8, uint16 or float32 for values of other types, in C order and writable.

    Raises:
        UnreadableImageError: There is no faithful way to do so, or values are not finite.
    """
    kept = {"uint8": np.uint8, "uint16": np.uint16}
    as_float = {"float16", "float32", "float64", "int16", "int32", "uint32"}
    name = values.dtype.name
    if name == "bool":
        return np.require(values, np.uint8, ["C", "W"]) * np.uint8(255)
    if name in kept:
        return np.require(values, kept[name], ["C", "W"])
    if name not in as_float:
        raise UnreadableImageError(f"values of type {name} are not read; store uint16 or float32")
    with np.errstate(over="ignore"):  # what becomes infinite is refused below
        return check_finite(np.require(values, np.float32, ["C", "W"]))


def check_finite(pixels: Pixels) -> Pixels:
    """Return the pixels; one that is not a number would spread to the whole network.

    Raises:
        UnreadableImageError: Some are NaN or infinite.
    """
    bad = pixels.size - int(np.count_nonzero(np.isfinite(pixels)))
    if bad:
        raise UnreadableImageError(f"{bad} of {pixels.size} values are not finite")
    return pixels


class _Here(threading.local):
    decoding = 0


_here = _Here()


def _from_elsewhere(_: logging.LogRecord) -> bool:
    return not _here.decoding


class Silence:
    """Within it decoders warn of nothing, and what they log in this thread is dropped.

    The doubts of Pillow and tifffile about files that they can read are of no use here, and what
    they cannot read has a reason. Unlike `warnings.catch_warnings`, which restores all filters as
    they were, this adds one and removes it again: threads do not undo each other's.
    """

    rule = ("ignore", None, Warning, _OUR_WARNINGS, 0)

    def __enter__(self) -> None:
        for name in _LOGGERS:
            logging.getLogger(name).addFilter(_from_elsewhere)  # once: it knows its filters
        _here.decoding += 1
        cast("list[Any]", warnings.filters).insert(0, self.rule)

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        _here.decoding -= 1
        filters = cast("list[Any]", warnings.filters)
        if self.rule in filters:
            filters.remove(self.rule)
