"""Differences paired by seed: what a few seeds can say of a claim; no torch in here."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from statistics import mean, stdev
from typing import Literal

Verdict = Literal["shows", "the opposite shows", "not seen", "one seed tells nothing", "no figures"]
T_975 = (
    *(12.7062, 4.3027, 3.1824, 2.7764, 2.5706, 2.4469, 2.3646, 2.3060, 2.2622, 2.2281),
    *(2.2010, 2.1788, 2.1604, 2.1448, 2.1314, 2.1199, 2.1098, 2.1009, 2.0930, 2.0860),
    *(2.0796, 2.0739, 2.0687, 2.0639, 2.0595, 2.0555, 2.0518, 2.0484, 2.0452, 2.0423),
)
"""The 97.5 % quantile of Student's t for 1 to 30 degrees of freedom; the last serves for more."""


@dataclass(frozen=True)
class Difference:
    """How far one thing lies above another, over seeds."""

    seeds: int
    mean: float | None
    """None without a seed that has both."""
    low: float | None
    """Ends of the 95 % Student-t interval; None with fewer than two seeds."""
    high: float | None

    @property
    def verdict(self) -> Verdict:
        """What the seeds say of the claim that it lies above."""
        if self.mean is None:
            return "no figures"
        if self.low is None or self.high is None:
            return "one seed tells nothing"
        if self.low > 0:
            return "shows"
        return "the opposite shows" if self.high < 0 else "not seen"


def paired_difference(better: Sequence[float], worse: Sequence[float]) -> Difference:
    """Return the mean of better - worse, seed by seed, and its interval.

    Raises:
        ValueError: Not as many of one as of the other.
    """
    leads = [above - below for above, below in zip(better, worse, strict=True)]
    if not leads:
        return Difference(0, None, None, None)
    middle = mean(leads)
    return Difference(len(leads), middle, *t_interval(leads))


def t_interval(values: Sequence[float]) -> tuple[float | None, float | None]:
    """Return the ends of the 95 % Student-t interval of the mean, None with fewer than two."""
    if len(values) < 2:
        return None, None
    quantile = T_975[min(len(values) - 1, len(T_975)) - 1]
    half = quantile * stdev(values) / math.sqrt(len(values))
    return mean(values) - half, mean(values) + half
