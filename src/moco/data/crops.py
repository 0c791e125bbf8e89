"""From an image to the square of pixels that a view starts from, and to what evaluation looks at.

A loading process does this for one image at a time; all else is done to a whole batch, on the
device that trains (`device_views.py`). Letters: H rows, W columns, C channels, S side of a view.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from moco.data.images import Pixels, UnreadableImageError
from moco.specs import ViewsSpec

Box = tuple[int, int, int, int]
"""Top, left, height and width in pixels."""

DRAWS_PER_ATTEMPT = 4
CROP_DRAWS = 10 * DRAWS_PER_ATTEMPT
"""A crop is decided by so many draws of its view, the first ones."""
NARROWEST, WIDEST = 3 / 4, 4 / 3
LOG_NARROWEST, LOG_WIDEST = math.log(NARROWEST), math.log(WIDEST)
FAST_CHANNELS = 4
"""Up to so many, torch resizes bytes in their own arithmetic, six times as fast as any others."""
MOST_LENGTHS = 16
GRAY_WEIGHTS = (19595, 38470, 7471)
"""Pillow's, of 65536."""


def crop_box(draws: Sequence[float], height: int, width: int, scale: tuple[float, float]) -> Box:
    """Return where a view is cut from an image, distributed as torchvision's RandomResizedCrop.

    Args:
        draws: the first `CROP_DRAWS` of a view's `uniform_draws`; quicker as a list.
        scale: smallest and largest share of the area.
    """
    low, high = scale
    for first in range(0, CROP_DRAWS, DRAWS_PER_ATTEMPT):
        area = height * width * (low + (high - low) * draws[first])
        ratio = math.exp(LOG_NARROWEST + (LOG_WIDEST - LOG_NARROWEST) * draws[first + 1])
        box_width, box_height = round(math.sqrt(area * ratio)), round(math.sqrt(area / ratio))
        if 0 < box_width <= width and 0 < box_height <= height:
            top = int((height - box_height + 1) * draws[first + 2])
            left = int((width - box_width + 1) * draws[first + 3])
            return top, left, box_height, box_width
    return _central_box(height, width)


def _central_box(height: int, width: int) -> Box:
    """Return the middle of an image too long or too wide for random boxes."""
    box_height, box_width = height, width
    if width < NARROWEST * height:
        box_height = round(width / NARROWEST)
    elif width > WIDEST * height:
        box_width = round(height * WIDEST)
    return (height - box_height) // 2, (width - box_width) // 2, box_height, box_width


def cut(pixels: Pixels, box: Box, size: int, channels: int) -> Tensor:
    """Return a box of an image from `fit`, resized to [channels, size, size]; see `cut_into`."""
    kind = torch.uint8 if pixels.dtype == np.uint8 else torch.float32
    crop = torch.empty(size, size, channels, dtype=kind).permute(2, 0, 1)
    cut_into(crop, pixels, box)
    return crop


def cut_into(crop: Tensor, pixels: Pixels, box: Box) -> None:
    """Write a box of an image from `fit`, resized, into `crop` [C, S, S]; one channel goes to all.

    Soonest where colours lie pixel by pixel in the crop's memory, as `torch.channels_last` has
    them: torch then resizes into that memory, and nothing is copied.
    """
    top, left, height, width = box
    part = pixels[top : top + height, left : left + width].copy()  # torch takes longer to copy it
    channels, side, _ = crop.shape
    if part.dtype == np.uint8 and part.shape[2] == channels <= FAST_CHANNELS:
        # what F.interpolate calls; that has no parameter for where the result goes
        resize_into = torch.ops.aten._upsample_bilinear2d_aa.out
        resize_into(_as_batch(part), [side, side], False, None, None, out=crop[None])
    else:
        crop.copy_(_resize(part, side, side))


def _resize(pixels: Pixels, height: int, width: int) -> Tensor:
    """Return [C, height, width], bilinear with antialiasing."""
    channels = pixels.shape[2]
    if pixels.dtype == np.uint8 and channels > FAST_CHANNELS:
        groups = [
            _resize(pixels[:, :, first : first + FAST_CHANNELS], height, width)
            for first in range(0, channels, FAST_CHANNELS)
        ]
        return torch.cat(groups)
    size = (height, width)
    return F.interpolate(_as_batch(pixels), size, mode="bilinear", antialias=True)[0]


def _as_batch(pixels: Pixels) -> Tensor:
    """Return [1, C, H, W] of [H, W, C]."""
    return torch.from_numpy(pixels).permute(2, 0, 1)[None]


def fit(pixels: Pixels, channels: int, deep: bool) -> Pixels:  # noqa: FBT001
    """Return an image [H, W, C] as a run wants it: of its channels, uint8, or float32 where deep.

    A grey image keeps its one channel where a run has three: `cut` repeats it, which is less work.

    Raises:
        UnreadableImageError: It has other channels, or values that do not fit.
    """
    if pixels.ndim != 3 or 0 in pixels.shape:
        raise UnreadableImageError(f"has shape {list(pixels.shape)}, not rows, columns, channels")
    has = pixels.shape[2]
    pixels = _to_float(pixels) if deep else _to_bytes(pixels)
    if has == channels or (has == 1 and channels == 3):
        return pixels
    if has == 3 and channels == 1:
        return _to_gray(pixels)
    raise UnreadableImageError(f"has {has} channels where the run has {channels}")


def _to_bytes(pixels: Pixels) -> Pixels:
    if pixels.dtype == np.uint8:
        return pixels
    if pixels.dtype == np.uint16:
        return ((pixels.astype(np.uint32) + 128) // 257).astype(np.uint8)  # 65535 is 255 * 257
    low, high = _range(pixels)
    if not (low >= 0 and high <= 1):  # so written, it holds for NaN
        raise UnreadableImageError(
            f"values from {low:g} to {high:g} do not fit 8 bits; set views.deep=true"
        )
    return np.rint(pixels * np.float32(255)).astype(np.uint8)


def _to_float(pixels: Pixels) -> Pixels:
    if pixels.dtype in (np.uint8, np.uint16):
        return pixels.astype(np.float32) / np.float32(np.iinfo(pixels.dtype).max)
    if not all(math.isfinite(value) for value in _range(pixels)):
        raise UnreadableImageError("has values that are no finite numbers")
    return pixels


def _range(pixels: Pixels) -> tuple[float, float]:
    """Return the smallest and largest of floating-point values, NaN where one is."""
    if pixels.dtype != np.float32:
        raise UnreadableImageError(f"has {pixels.dtype} values, not uint8, uint16 or float32")
    return float(pixels.min()), float(pixels.max())


def _to_gray(pixels: Pixels) -> Pixels:
    """Return [H, W, 1] of [H, W, 3], weighted as Pillow's mode L is, to the bit for uint8."""
    if pixels.dtype == np.float32:
        weights = np.array(GRAY_WEIGHTS, np.float32)[:, None] / np.float32(65536)
        gray: Pixels = pixels @ weights
        return gray
    red, green, blue = (
        pixels[:, :, channel].astype(np.uint32) * np.uint32(weight)
        for channel, weight in enumerate(GRAY_WEIGHTS)
    )
    rounded: Pixels = (red + green + blue + np.uint32(32768)) >> 16
    return rounded.astype(np.uint8)[:, :, None]


def evaluation_view(pixels: Pixels, spec: ViewsSpec) -> Tensor:
    """Return [channels, S, S] of an image: short side resized, centre cut.

    As views for training: uint8, or float32 and normalized where images are deep.

    Raises:
        UnreadableImageError: It does not fit the run.
    """
    pixels = fit(cut_far_ends(pixels), spec.channels, spec.deep)
    height, width = pixels.shape[:2]
    short, size = spec.evaluation_resize, spec.evaluation_size
    new_height = max(short, int(short * height / width))
    new_width = max(short, int(short * width / height))
    top, left = (round((side - size) / 2) for side in (new_height, new_width))
    ours = np.require(pixels, requirements=("C", "W"))  # torch warns of what it must not write to
    view = _resize(ours, new_height, new_width)[:, top : top + size, left : left + size]
    if spec.deep:
        mean, std = torch.tensor([spec.mean, spec.std])[:, :, None, None]
        view = (view - mean) / std
    return view.expand(spec.channels, -1, -1)


def cut_far_ends(pixels: Pixels) -> Pixels:
    """Return the middle of an image more than 16 times as long as wide.

    Its ends are nowhere near the centre that evaluation cuts, and resized they can fill the memory.
    """
    most = MOST_LENGTHS * min(pixels.shape[:2])
    height, width = (min(side, most) for side in pixels.shape[:2])
    top, left = (pixels.shape[0] - height) // 2, (pixels.shape[1] - width) // 2
    return pixels[top : top + height, left : left + width]
