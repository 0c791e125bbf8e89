"""Curves on one line of a terminal, of as many values as a run has; no torch in here."""

from __future__ import annotations

from collections.abc import Sequence

BLOCKS = "▁▂▃▄▅▆▇█"
PLAIN_BLOCKS = "_.-~=*%#"
"""The same for terminals that have no other letters."""
MOST_POINTS = 240


class Curve:
    """A series of any length, kept as at most `MOST_POINTS` means of equally many values."""

    def __init__(self) -> None:
        self._means: list[float] = []
        self._in_mean = 1
        self._open: list[float] = []

    def add(self, value: float) -> None:
        """Take in the next value."""
        self._open = [*self._open, value]
        if len(self._open) < self._in_mean:
            return
        self._means = [*self._means, mean(self._open)]
        self._open = []
        if len(self._means) == MOST_POINTS:
            pairs = zip(self._means[::2], self._means[1::2], strict=True)
            self._means = [(first + second) / 2 for first, second in pairs]
            self._in_mean *= 2

    def points(self) -> list[float]:
        """Return the means, the oldest first; the last may be of fewer values."""
        means, rest = self._means, self._open  # another thread may put new lists in their places
        return [*means, mean(rest)] if rest else list(means)


def sparkline(values: Sequence[float], width: int, blocks: str = BLOCKS) -> str:
    """Return at most `width` letters, each as high as the mean of its share of the values.

    The lowest value has the first letter of `blocks` and the highest the last.
    """
    count = min(len(values), width)
    if count <= 0:
        return ""
    edges = [round(place * len(values) / count) for place in range(count + 1)]
    heights = [mean(values[edges[i] : edges[i + 1]]) for i in range(count)]
    low, high = min(heights), max(heights)
    scale = (len(blocks) - 1) / (high - low) if high > low else 0.0
    return "".join(blocks[round((height - low) * scale)] for height in heights)


def mean(values: Sequence[float]) -> float:
    """Return the mean of at least one value."""
    return sum(values) / len(values)
