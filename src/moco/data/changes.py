"""What is done to each view of a batch after it is cut, as numbers: drawn here, done elsewhere.

Letters: N images, C channels. A row is a function of (seed, epoch, image, view) alone.
"""

from __future__ import annotations

from dataclasses import dataclass, fields
from itertools import permutations
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from moco.data.draws import uniform_draws
from moco.specs import ViewsSpec

Flags = NDArray[np.bool_]
Figures = NDArray[np.float64]

COLUMNS = {
    "jittered": 40,
    "jitter_order": 41,
    "brightness": 42,
    "contrast": 43,
    "saturation": 44,
    "hue": 45,
    "gray": 46,
    "blurred": 47,
    "blur_radius": 48,
    "solarized": 49,
    "horizontal_flip": 50,
    "vertical_flip": 51,
    "quarter_turns": 52,
    "channels": 64,
}
"""The draw of a view that each decision takes, for good, so that a new one changes no other. Before
come the crop's (`crops.py`); from `channels` on, each channel of a measurement has two."""
ORDERS = np.array(list(permutations(range(4))))
"""[24, 4]: the orders in which brightness 0, contrast 1, saturation 2 and hue 3 can come."""


@dataclass(frozen=True)
class Changes:
    """What is done to one view of each of N images; arrays, since a host plans with them."""

    jittered: Flags
    """[N]: whether colours are jittered at all; false for all where the recipe has no jitter."""
    jitter_order: NDArray[np.int64]
    """[N, 4]: which of brightness 0, contrast 1, saturation 2, hue 3 comes at each place."""
    jitter_factors: Figures
    """[N, 4]: three factors from 0 (1: no change) and a turn of hue from -0.5 to 0.5."""
    gray: Flags
    """[N]"""
    blur_radius: Figures
    """[N]: deviation of the Gaussian in pixels, 0 for none."""
    solarized: Flags
    """[N]"""
    horizontal_flip: Flags
    """[N]"""
    vertical_flip: Flags
    """[N]"""
    quarter_turns: NDArray[np.int64]
    """[N]: 0 to 3, against the clock."""
    channel_brightness: Figures
    """[N, C] factors for measurements, [N, 0] for photographs."""
    channel_contrast: Figures
    """[N, C] factors for measurements, [N, 0] for photographs."""

    def __len__(self) -> int:
        return len(self.jittered)

    def rows(self, places: NDArray[np.int64]) -> Changes:
        """Return what is done to some of the images, in this order."""
        return Changes(**{field.name: getattr(self, field.name)[places] for field in fields(self)})


def are_measurements(spec: ViewsSpec) -> bool:
    """Say whether images are no photographs, so that operations on colours have no meaning."""
    return spec.channels != 3 or spec.deep


def draw_changes(
    spec: ViewsSpec, seed: int, epoch: int, image_ids: NDArray[np.int64], view: Literal[0, 1]
) -> Changes:
    """Return what is done to the first (0) or second (1) view of images [N], as torchvision draws.

    An operation that `spec.order` does not name is drawn for no image.
    """
    measured = are_measurements(spec)
    count = COLUMNS["channels"] + 2 * spec.channels if measured else COLUMNS["quarter_turns"] + 1
    draws = uniform_draws(seed, epoch, image_ids, view, count)
    column = {name: draws[:, place] for name, place in COLUMNS.items() if place < count}

    def happens(name: str, operation: str, probability: float) -> Flags:
        return column[name] < (probability if operation in spec.order else 0.0)

    blurred = happens("blurred", "blur", spec.blur_probabilities[view])
    turned = "quarter_turns" in spec.order
    per_channel = draws[:, COLUMNS["channels"] :]
    return Changes(
        jittered=happens("jittered", "jitter", spec.jitter_probability),
        jitter_order=ORDERS[(column["jitter_order"] * len(ORDERS)).astype(np.int64)],
        jitter_factors=_jitter_factors(column, spec),
        gray=happens("gray", "gray", spec.gray_probability),
        blur_radius=np.where(blurred, _spread(column["blur_radius"], *spec.blur_radius), 0.0),
        solarized=happens("solarized", "solarize", spec.solarize_probabilities[view]),
        horizontal_flip=happens("horizontal_flip", "horizontal_flip", spec.flip_probability),
        vertical_flip=happens("vertical_flip", "vertical_flip", spec.flip_probability),
        quarter_turns=(column["quarter_turns"] * (4 if turned else 0)).astype(np.int64),
        channel_brightness=_factors(per_channel[:, 0::2], spec.jitter[0]),
        channel_contrast=_factors(per_channel[:, 1::2], spec.jitter[1]),
    )


def _jitter_factors(column: dict[str, Figures], spec: ViewsSpec) -> Figures:
    """Return [N, 4]."""
    names = ("brightness", "contrast", "saturation")
    factors = [
        _factors(column[name], strength)
        for name, strength in zip(names, spec.jitter[:3], strict=True)
    ]
    hue = spec.jitter[3]
    return np.stack([*factors, _spread(column["hue"], -hue, hue)], axis=1)


def _factors(draws: Figures, strength: float) -> Figures:
    return _spread(draws, max(0.0, 1.0 - strength), 1.0 + strength)


def _spread(draws: Figures, low: float, high: float) -> Figures:
    return low + (high - low) * draws
