"""Charts as inline SVG: a picture without a script; with `charts.js` one that can be asked."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from itertools import pairwise
from typing import Any

from moco.report.browser_page import text, visible
from moco.report.thinned import Curve, rounded

WIDTH, HEIGHT = 360, 200
LEFT, RIGHT, TOP, BOTTOM = 44, 10, 10, 24
COLOURS = 8
"""That runs, or lines of one run, are told apart by; see page.css."""
LETTER_HEIGHT = 12
FEW = 40
"""A line of no more points has them marked."""


@dataclass(frozen=True)
class Line:
    """A curve on a chart.

    Attributes:
        run: which of the page's runs it is of, by number; it can be hidden with its run.
        colour: below `COLOURS`; dash 0 to 2.
    """

    name: str
    curve: Curve
    run: int = 0
    colour: int = 0
    dash: int = 0


@dataclass(frozen=True)
class Chart:
    """Lines over the same axes.

    Attributes:
        key: an identifier of letters, once on a page.
        axis: charts of the same axis are pointed at together.
        unit: "%" of a share, "GB" of bytes, else "".
        levels: what to compare with: name, value, and the run's number, None for all runs.
        span: the axis's ends; None for those of the lines.
    """

    key: str
    title: str
    about: str
    lines: Sequence[Line]
    axis: str = "step"
    unit: str = ""
    levels: Sequence[tuple[str, float, int | None]] = ()
    from_zero: bool = False
    span: tuple[float, float] | None = None


@dataclass(frozen=True)
class Box:
    """What values the plot's edges stand for."""

    left: float
    right: float
    low: float
    high: float

    def place(self, x: float, y: float) -> tuple[float, float]:
        """Return where a point stands in the drawing."""
        across = LEFT + (x - self.left) / (self.right - self.left) * (WIDTH - LEFT - RIGHT)
        return across, TOP + (self.high - y) / (self.high - self.low) * (HEIGHT - TOP - BOTTOM)


def chart_html(chart: Chart) -> str:
    """Return the chart with its title and the values at its end."""
    key, box = text(chart.key), box_of(chart)
    lines = "".join(_reading(line, chart.unit) for line in chart.lines)
    about = f'<p class="about">{text(chart.about)}</p>' if chart.about else ""
    last = max(line.curve.at[-1] for line in chart.lines)
    return (
        f'<figure class="chart" data-chart="{key}" data-axis="{text(chart.axis)}">'
        f'<figcaption><h3 id="title-{key}">{text(chart.title)}</h3></figcaption>'
        f'<svg viewBox="0 0 {WIDTH} {HEIGHT}" role="img" aria-label="{text(_in_words(chart))}">'
        f"{_axes(box, chart)}{''.join(_drawn(line, box) for line in chart.lines)}"
        f"{_levels(box, chart)}"
        f'<g class="cursor"></g></svg>'
        f'<p class="at">{text(chart.axis)} {shown(last)}</p>'
        f'<ul class="reading">{lines}</ul>{about}</figure>'
    )


def chart_values(chart: Chart) -> dict[str, Any]:
    """Return what a script needs to say what is under the pointer."""
    box = box_of(chart)
    return {
        "key": chart.key,
        "axis": chart.axis,
        "unit": chart.unit,
        "box": [box.left, box.right, box.low, box.high],
        "lines": [
            {
                "run": line.run,
                "name": visible(line.name),
                "at": [rounded(x) for x in line.curve.at],
                "mean": [rounded(y) for y in line.curve.mean],
            }
            for line in chart.lines
        ],
    }


def box_of(chart: Chart) -> Box:
    """Return the axes of a chart: all lines and levels on them, with a margin."""
    left, right = chart.span or span_of([chart])
    levels = [y for line in chart.lines for y in (*line.curve.mean, *_ends(line.curve))]
    levels += [value for _, value, _ in chart.levels]
    low, high = min(levels), max(levels)
    margin = (high - low) * 0.06 or abs(high) * 0.2 or 1.0
    bottom = 0.0 if chart.from_zero and low >= 0 else low - margin
    is_on_top = any(value > high - 2 * margin for _, value, _ in chart.levels)
    room = 2.4 * margin if is_on_top else margin  # for its name
    return Box(left, right if right > left else left + 1, bottom, high + room)


def span_of(charts: Iterable[Chart]) -> tuple[float, float]:
    """Return the ends of an axis on which all of them have room."""
    curves = [line.curve for chart in charts for line in chart.lines]
    return min(curve.at[0] for curve in curves), max(curve.at[-1] for curve in curves)


def ticks(low: float, high: float, about: int = 5) -> list[float]:
    """Return round numbers between `low` and `high`."""
    step = 10.0 ** math.floor(math.log10((high - low) / about))
    step *= next(factor for factor in (1, 2, 5, 10) if (high - low) / (step * factor) <= about)
    first = math.ceil(low / step)
    found = [number * step for number in range(first, math.floor(high / step) + 1)]
    return [float(f"{value:.12g}") for value in found]


def shown(value: float, unit: str = "") -> str:
    """Return a value for people, four figures of it; `charts.js` has the same rule."""
    match unit:
        case "%":
            return f"{100 * value:.1f} %"
        case "GB":
            return f"{value / 1e9:.2f} GB"
    if value == 0 or 1e-3 <= abs(value) < 1e6:
        if abs(value) >= 1000:
            return f"{value:,.0f}"
        return f"{float(f'{value:.4g}'):.12g}"
    return f"{value:.2e}"


def on_axis(value: float, unit: str = "") -> str:
    """Return a round value for an axis, in few letters."""
    value = {"%": 100 * value, "GB": value / 1e9}.get(unit, value)
    for size, letter in ((1e9, "G"), (1e6, "M"), (1e3, "k")):
        if abs(value) >= size:
            return f"{value / size:g}{letter}"
    if 0 < abs(value) < 1e-3:
        return f"{value:.0e}".replace("e-0", "e-")
    return f"{value:g}"


def over_epochs(curve: Curve, steps_per_epoch: float) -> Curve:
    """Return the curve over epochs instead of steps."""
    return replace(curve, at=tuple(step / steps_per_epoch for step in curve.at))


def _ends(curve: Curve) -> tuple[float, float]:
    """Return the extremes that are drawn: a spike that hides the rest may leave the picture."""
    spread = max(curve.mean) - min(curve.mean)
    low, high = min(curve.mean) - spread / 2, max(curve.mean) + spread / 2
    return max(low, min(curve.low)), min(high, max(curve.high))


def _in_words(chart: Chart) -> str:
    ends = [
        f"{line.name} from {shown(line.curve.mean[0], chart.unit)} "
        f"to {shown(line.curve.mean[-1], chart.unit)}"
        for line in chart.lines
    ]
    return f"{chart.title}: {'; '.join(ends)}"


def _axes(box: Box, chart: Chart) -> str:
    parts = []
    for y in ticks(box.low, box.high):
        _, down = box.place(box.left, y)
        parts.append(
            f'<line class="grid" x1="{LEFT}" x2="{WIDTH - RIGHT}" y1="{down:.1f}" y2="{down:.1f}"/>'
            f'<text x="{LEFT - 6}" y="{down + 4:.1f}" text-anchor="end">'
            f"{on_axis(y, chart.unit)}</text>"
        )
    for x in ticks(box.left, box.right):
        across, _ = box.place(x, box.low)
        anchor = "end" if across > WIDTH - RIGHT - 12 else "middle"
        parts.append(
            f'<text x="{across:.1f}" y="{HEIGHT - BOTTOM + 15}" text-anchor="{anchor}">'
            f"{on_axis(x)}</text>"
        )
    return f'<g class="axes">{"".join(parts)}</g>'


def _levels(box: Box, chart: Chart) -> str:
    """Return dashed levels, each named where no other name stands already."""
    parts, named = [], list[float]()
    for name, value, run in chart.levels:
        _, down = box.place(box.left, value)
        above = down - 5 if down > TOP + 14 else down + 13
        words = ""
        if all(abs(above - other) >= LETTER_HEIGHT for other in named):
            named.append(above)
            words = (
                f'<text x="{WIDTH - RIGHT}" y="{above:.1f}" text-anchor="end">{text(name)} '
                f"{shown(value, chart.unit)}</text>"
            )
        owner = '"level"' if run is None else f'"level c{run % COLOURS}" data-run="{run}"'
        parts.append(
            f'<g class={owner}><line x1="{LEFT}" x2="{WIDTH - RIGHT}" y1="{down:.1f}" '
            f'y2="{down:.1f}"/>{words}</g>'
        )
    return "".join(parts)


def _drawn(line: Line, box: Box) -> str:
    curve = line.curve
    points = [box.place(x, y) for x, y in zip(curve.at, curve.mean, strict=True)]
    marks = ""
    if len(points) <= FEW:
        marks = "".join(f'<circle cx="{x:.1f}" cy="{y:.1f}" r="2"/>' for x, y in points)
    band = ""
    if curve.is_thinned:
        inside = [min(max(y, box.low), box.high) for y in (*curve.high, *curve.low[::-1])]
        places = zip((*curve.at, *curve.at[::-1]), inside, strict=True)
        band = f'<path class="band" d="{_path(box.place(x, y) for x, y in places)}Z"/>'
    return (
        f'<g class="line c{line.colour % COLOURS} d{line.dash}" data-run="{line.run}">'
        f'{band}<path class="curve" d="{_path(points)}"/>{marks}</g>'
    )


def _path(points: Iterable[tuple[float, float]]) -> str:
    """Return a path in relative whole tenths, which is half as long as absolute places."""
    tenths = [(round(10 * x), round(10 * y)) for x, y in points]
    steps = [(x - before[0], y - before[1]) for before, (x, y) in pairwise(tenths)]
    (x, y), *_ = tenths
    rest = " ".join(f"{dx / 10:g},{dy / 10:g}" for dx, dy in steps)
    return f"M{x / 10:g},{y / 10:g}" + (f"l{rest}" if rest else "")


def _reading(line: Line, unit: str) -> str:
    return (
        f'<li class="c{line.colour % COLOURS} d{line.dash}" data-run="{line.run}">'
        f'<i class="swatch"></i><span>{text(line.name)}</span> '
        f"<b>{shown(line.curve.mean[-1], unit)}</b></li>"
    )
