"""From views to what a network takes, and to what people look at."""

from __future__ import annotations

from functools import lru_cache
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor

from moco.data.images import Pixels
from moco.specs import ViewsSpec

SHOWN_DEVIATIONS = 2.0
"""Of normalized channels, what is black lies so far below the mean, what is white above."""


def normalize(pixels: Tensor, spec: ViewsSpec) -> Tensor:
    """Return the network's input from uint8 [N, C, H, W]: scaled to 0..1, then mean and std.

    Floating-point views, those of deep images, are normalized already and stay as they are.
    """
    if pixels.is_floating_point():
        return pixels
    precision = torch.get_default_dtype()
    mean, std = (_on_device(values, pixels.device, precision) for values in (spec.mean, spec.std))
    return (pixels.to(precision) / 255 - mean) / std


@lru_cache(maxsize=16)
def _on_device(channels: tuple[float, ...], device: torch.device, precision: torch.dtype) -> Tensor:
    """Return [C, 1, 1]; copied to a device once, since a copy a step makes the step wait."""
    return torch.tensor(channels, device=device, dtype=precision)[:, None, None]


def picture(pixels: Pixels) -> Image.Image:
    """Return an image for people: its first three channels, deep ones stretched over their range.

    One of two channels shows its first; colours of other images than photographs are not true.
    """
    shown = pixels[:, :, :1] if pixels.shape[2] < 3 else pixels[:, :, :3]
    if shown.dtype != np.uint8:
        low, high = np.percentile(shown, (1, 99), axis=(0, 1))
        shown = _as_bytes((shown - low) / np.maximum(high - low, 1e-12))
    return Image.fromarray(shown[:, :, 0] if shown.shape[2] == 1 else shown)


def view_picture(view: Tensor) -> Image.Image:
    """Return a view [C, S, S] for people; one that is normalized already is shown around grey."""
    shown = view if len(view) >= 3 else view[:1]
    pixels = shown[:3].permute(1, 2, 0).numpy()
    if view.dtype != torch.uint8:
        pixels = _as_bytes(pixels / (2 * SHOWN_DEVIATIONS) + 0.5)
    return picture(pixels)


def _as_bytes(shares: NDArray[Any]) -> NDArray[np.uint8]:
    levels: NDArray[np.uint8] = np.clip(255 * shares, 0, 255).astype(np.uint8)
    return levels
