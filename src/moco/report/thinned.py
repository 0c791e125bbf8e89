"""Long curves in few points: any number of rows, in the memory of some hundred."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

LARGEST = 1e15
"""A figure beyond it is damage, not a measurement."""
SMALLEST = 1e-30
"""A figure within it is drawn as 0."""


@dataclass(frozen=True)
class Curve:
    """A figure over a run: of each group of neighbouring rows the mean and the extremes."""

    at: tuple[float, ...] = ()
    """Means of the rows' places, rising."""
    mean: tuple[float, ...] = ()
    low: tuple[float, ...] = ()
    high: tuple[float, ...] = ()

    @property
    def is_thinned(self) -> bool:
        """Whether points stand for several rows."""
        return self.low != self.high


@dataclass
class _Tally:
    """What is kept of one figure in a group of rows."""

    rows: int = 0
    at: float = 0.0
    total: float = 0.0
    low: float = math.inf
    high: float = -math.inf

    def take(self, at: float, value: float) -> None:
        self.rows += 1
        self.at += at
        self.total += value
        if value < self.low:
            self.low = value
        if value > self.high:
            self.high = value

    def add(self, other: _Tally) -> None:
        self.rows += other.rows
        self.at += other.at
        self.total += other.total
        self.low, self.high = min(self.low, other.low), max(self.high, other.high)


@dataclass
class _Bin:
    """A group of neighbouring rows."""

    rows: int = 0
    tallies: dict[str, _Tally] = field(default_factory=dict)

    def add(self, other: _Bin) -> None:
        self.rows += other.rows
        for name, tally in other.tallies.items():
            self.tallies.setdefault(name, _Tally()).add(tally)


class Thinned:
    """Takes rows and keeps between `points` and twice as many groups of equally many of them."""

    def __init__(self, points: int) -> None:
        self._points, self._width, self._bins = points, 1, [_Bin()]

    def add(self, at: float, values: Mapping[str, float]) -> None:
        """Take in one row's figures; one that is missing is left out."""
        if self._bins[-1].rows >= self._width:
            self._bins.append(_Bin())
        if len(self._bins) > 2 * self._points:
            for even, odd in zip(self._bins[::2], self._bins[1::2], strict=False):
                even.add(odd)
            self._bins, self._width = self._bins[::2], 2 * self._width
        into = self._bins[-1]
        into.rows += 1
        for name, value in values.items():
            tally = into.tallies.get(name)
            if tally is None:
                tally = into.tallies[name] = _Tally()
            tally.take(at, value)

    def curve(self, name: str) -> Curve:
        """Return what is kept of one figure."""
        found = sorted(
            (tally.at / tally.rows, rounded(tally.total / tally.rows), tally.low, tally.high)
            for each in self._bins
            if (tally := each.tallies.get(name))
        )
        return Curve(*zip(*found, strict=True)) if found else Curve()


def rounded(value: float) -> float:
    """Return it with as many figures as a chart can show, and without what adding up left."""
    return float(f"{value:.6g}")


def number(value: Any) -> float | None:
    """Return a figure of a file, None where it is no number that can be drawn."""
    if isinstance(value, bool) or not isinstance(value, int | float):
        return None
    if not abs(value) < LARGEST:  # NaN is not below it either
        return None
    return float(value) if abs(value) > SMALLEST else 0.0
