"""Operations on the colours of many views at once, each view with its own factor.

They work in place on float32 levels from 0 to 255, [N, 3, H, W], unrounded; otherwise they are
torchvision's, and so Pillow's. Each needs some figures for a view, which a host makes beforehand.
"""

from __future__ import annotations

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

TOP = 255.0
SOLARIZED_FROM = 128.0
GRAY = (0.299, 0.587, 0.114)
Figures = NDArray[np.float64]


def scale_brightness(levels: Tensor, figures: Tensor) -> None:
    """Multiply all levels by figures [N, 1]: factors from 0."""
    levels.mul_(figures[:, :, None, None]).clamp_(max=TOP)


def scale_contrast(levels: Tensor, figures: Tensor) -> None:
    """Move levels away from a view's mean grey, or towards it, by `contrast_figures` [N, 4]."""
    means = levels.mean((2, 3))
    grays = means.mul_(figures[:, 1:]).sum(1)[:, None, None, None]
    levels.mul_(figures[:, :1, None, None]).add_(grays).clamp_(0, TOP)


def scale_saturation(levels: Tensor, figures: Tensor) -> None:
    """Move pixels away from their grey, or towards it, by `saturation_figures` [N, 9]."""
    torch.clamp(_mixed(levels, figures), 0, TOP, out=levels)


def turn_hue(levels: Tensor, figures: Tensor) -> None:
    """Turn hues by `hue_figures` [N, 10]; value and saturation stay (those of HSV)."""
    low, high = levels.amin(1, keepdim=True), levels.amax(1, keepdim=True)
    shares = (low + high).mul_(figures[:, 9:, None, None])
    torch.clamp(_mixed(levels, figures[:, :9]).add_(shares), low, high, out=levels)


def turn_gray(levels: Tensor) -> None:
    """Replace each pixel by its grey."""
    red, green, blue = levels.unbind(1)
    gray = (red * GRAY[0]).add_(green, alpha=GRAY[1]).add_(blue, alpha=GRAY[2])
    levels.copy_(gray[:, None])


def solarize(levels: Tensor) -> None:
    """Invert levels from 128."""
    torch.where(levels >= SOLARIZED_FROM, TOP - levels, levels, out=levels)


def _mixed(levels: Tensor, figures: Tensor) -> Tensor:
    """Return sums of pixels' channels, weighted by matrices [N, 9]."""
    return torch.bmm(figures.reshape(-1, 3, 3), levels.flatten(2)).view_as(levels)


def contrast_figures(factors: Figures) -> Figures:
    """Return [N, 4] for factors [N] from 0: the factor, and the share of each channel's mean."""
    return np.concatenate([factors[:, None], (1 - factors)[:, None] * np.array(GRAY)], axis=1)


def saturation_figures(factors: Figures) -> Figures:
    """Return [N, 9] for factors [N] from 0: how much of which channel makes up a channel."""
    shares = factors[:, None, None]
    matrices: Figures = shares * np.eye(3) + (1 - shares) * np.array(GRAY)
    return matrices.reshape(-1, 9)


def hue_figures(turns: Figures) -> Figures:
    """Return the figures [N, 10] with which `turn_hue` turns by parts of a circle [N].

    Along the circle of hues each channel of a colour of full saturation is a trapezoid: 0 for two
    sixths, up for one, 1 for two, down for one; the other channels lag by two sixths each. So with
    min 0 and max 1, a turn by u sixths, u from 0 to 1, makes of red r, green g, blue b
        r' = clamp(r - g + (1 - u) + (2 u - 1) b, 0, 1)
    as one checks sixth by sixth; cyclically for the others. Two sixths more pass a channel's values
    on to the next, and one sixth more makes of (r, g, b) the complement of (g, b, r), which by the
    formula is another choice of channels, with 1 - u for u. In the image's own units, with
    s = min + max, r' = clamp(r - g + (2 u - 1) b + (1 - u) s, min, max): three products and sums
    and neither a division nor a case for a pixel.
    """
    sixths = np.mod(6 * turns, 6)
    whole = np.floor(sixths).astype(np.int64) % 6
    rest = sixths - np.floor(sixths)
    rest = np.where(whole % 2 == 1, 1 - rest, rest)
    matrix = DIFFERENCES[whole] + (2 * rest - 1)[:, None, None] * THIRDS[whole]
    return np.concatenate([matrix.reshape(-1, 9), (1 - rest)[:, None]], axis=1)


def _hue_channels() -> tuple[Figures, Figures]:
    """Return for each whole sixth which channels make up a channel, [6, 3, 3] twice."""
    differences, thirds = np.zeros((6, 3, 3)), np.zeros((6, 3, 3))
    for whole in range(6):
        for channel in range(3):
            source = (channel - whole // 2) % 3
            after, before = (source + 1) % 3, (source + 2) % 3
            plus, minus, third = (source, after, before)
            if whole % 2 == 1:
                plus, minus, third = (before, after, source)
            differences[whole, channel, [plus, minus]] = 1, -1
            thirds[whole, channel, third] = 1
    return differences, thirds


DIFFERENCES, THIRDS = _hue_channels()
