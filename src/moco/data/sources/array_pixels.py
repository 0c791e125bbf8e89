"""From arrays of numbers to pixels: which types of values, and which axis holds the channels."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import DTypeLike, NDArray

from moco.data.images import Pixels, UnreadableImageError

MOST_CHANNELS = 1024


def pixel_type(stored: DTypeLike) -> np.dtype[Any] | None:
    """Return the type that pixels of a stored type have, None where they cannot be pixels.

    uint8, uint16 and float32 stay; bool becomes 0 and 255; the other floats of up to 64 bits, and
    int8 and int16, which float32 holds exactly, become float32. Longer integers would lose digits.
    """
    kind = np.dtype(stored)
    if kind == np.bool_:
        return np.dtype(np.uint8)
    if kind.kind == "u" and kind.itemsize <= 2:
        return kind.newbyteorder("=")
    if (kind.kind == "f" and kind.itemsize <= 8) or (kind.kind == "i" and kind.itemsize <= 2):
        return np.dtype(np.float32)
    return None


def refused_type(stored: DTypeLike) -> str:
    """Return what to do with values of a type that cannot be pixels."""
    return (
        f"{np.dtype(stored)} values cannot be pixels; convert them with .astype('uint8') for 0 to "
        "255, to 'uint16', or to 'float32'"
    )


def is_channels_first(shape: tuple[int, ...]) -> bool:
    """Return whether [A, B, C] is [C, H, W]: where the first side is smaller than the last.

    [H, W, C] where the last side is the smaller one, or they are equal.
    """
    return len(shape) == 3 and shape[0] < shape[2]


def pixels_of_array(values: NDArray[Any], *, channels_first: bool | None = None) -> Pixels:
    """Return an array [H, W], [H, W, C] or [C, H, W] as pixels of its own memory.

    Raises:
        UnreadableImageError: It has another shape or type, or values that are not finite.
    """
    kind = pixel_type(values.dtype)
    if kind is None:
        raise UnreadableImageError(refused_type(values.dtype))
    if values.ndim not in (2, 3) or 0 in values.shape:
        raise UnreadableImageError(f"shape {list(values.shape)} is no [H, W] or [H, W, C]")
    if values.ndim == 2:
        values = values[:, :, None]
    elif is_channels_first(values.shape) if channels_first is None else channels_first:
        values = values.transpose(1, 2, 0)
    if values.shape[2] > MOST_CHANNELS:
        raise UnreadableImageError(f"{values.shape[2]} channels are more than {MOST_CHANNELS}")
    if values.dtype == np.bool_:
        return np.array(values, np.uint8, order="C") * np.uint8(255)
    with np.errstate(over="ignore"):  # what becomes infinite is refused below
        pixels = np.array(values, kind, order="C")
    if kind.kind == "f" and not np.isfinite(pixels).all():
        raise UnreadableImageError("it has values that are infinite or not a number")
    return pixels
