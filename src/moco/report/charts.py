"""Charts as inline SVG."""

from __future__ import annotations

import math
from collections.abc import Sequence
from html import escape

WIDTH, HEIGHT = 720, 260
LEFT, RIGHT, TOP, BOTTOM = 56, 16, 12, 36


def line_chart(
    points: Sequence[tuple[float, float]],
    *,
    x_label: str,
    y_label: str,
    reference: tuple[str, float] | None = None,
    most_points: int = 500,
) -> str:
    """Return an SVG of one line, thinned to `most_points`, with a dashed reference level."""
    finite = [(x, y) for x, y in points if math.isfinite(y)]
    if not finite:
        return "<p>No figures.</p>"
    shown = _thinned(finite, most_points)
    levels = [y for _, y in shown] + ([reference[1]] if reference else [])
    low, high = min(levels), max(levels)
    margin = (high - low) * 0.06 or 1.0
    low, high = low - margin, high + margin
    first, last = shown[0][0], max(shown[-1][0], shown[0][0] + 1e-9)

    def place(x: float, y: float) -> tuple[float, float]:
        across = LEFT + (x - first) / (last - first) * (WIDTH - LEFT - RIGHT)
        return across, TOP + (high - y) / (high - low) * (HEIGHT - TOP - BOTTOM)

    parts = [f'<svg viewBox="0 0 {WIDTH} {HEIGHT}" role="img" aria-label="{escape(y_label)}">']
    for y in ticks(low, high):
        _, down = place(first, y)
        parts.append(
            f'<line class="grid" x1="{LEFT}" x2="{WIDTH - RIGHT}" y1="{down:.1f}" y2="{down:.1f}"/>'
            f'<text x="{LEFT - 6}" y="{down + 4:.1f}" text-anchor="end">{y:g}</text>'
        )
    for x in ticks(first, last):
        across, _ = place(x, low)
        parts.append(
            f'<text x="{across:.1f}" y="{HEIGHT - BOTTOM + 16}" text-anchor="middle">{x:g}</text>'
        )
    if reference is not None:
        _, down = place(first, reference[1])
        parts.append(
            f'<line class="reference" x1="{LEFT}" x2="{WIDTH - RIGHT}" y1="{down:.1f}" '
            f'y2="{down:.1f}"/><text x="{WIDTH - RIGHT}" y="{down - 5:.1f}" text-anchor="end">'
            f"{escape(reference[0])}</text>"
        )
    path = " ".join("{:.1f},{:.1f}".format(*place(x, y)) for x, y in shown)
    parts.append(f'<polyline class="line" points="{path}"/>')
    parts.append(
        f'<text x="{(LEFT + WIDTH - RIGHT) / 2}" y="{HEIGHT - 4}" text-anchor="middle">'
        f"{escape(x_label)}</text></svg>"
    )
    return "".join(parts)


def ticks(low: float, high: float, about: int = 5) -> list[float]:
    """Return round numbers between `low` and `high`."""
    step = 10.0 ** math.floor(math.log10((high - low) / about))
    step *= next(factor for factor in (1, 2, 5, 10) if (high - low) / (step * factor) <= about)
    first = math.ceil(low / step)
    return [round(number * step, 10) for number in range(first, math.floor(high / step) + 1)]


def _thinned(points: list[tuple[float, float]], most: int) -> list[tuple[float, float]]:
    """Average neighbours until there are few enough points to draw."""
    size = math.ceil(len(points) / most)
    groups = [points[start : start + size] for start in range(0, len(points), size)]
    return [
        (sum(x for x, _ in group) / len(group), sum(y for _, y in group) / len(group))
        for group in groups
    ]
