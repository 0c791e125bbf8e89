from __future__ import annotations

import itertools
import json
import xml.etree.ElementTree as ElementTree

import pytest
from hypothesis import given, settings, strategies

from moco.report.charts import (
    HEIGHT,
    LEFT,
    RIGHT,
    TOP,
    WIDTH,
    Chart,
    Line,
    box_of,
    chart_html,
    chart_values,
    on_axis,
    shown,
    ticks,
)
from moco.report.thinned import Curve, Thinned


def curve(at: tuple[float, ...], mean: tuple[float, ...]) -> Curve:
    return Curve(at, mean, mean, mean)


def places_of(html: str) -> list[list[tuple[float, float]]]:
    """Return where the points of each curve stand in the drawing."""
    found = []
    for path in ElementTree.fromstring(html).iter("path"):
        if path.attrib["class"] != "curve":
            continue
        start, _, rest = path.attrib["d"].removeprefix("M").partition("l")
        steps = [tuple(map(float, pair.split(","))) for pair in (start, *rest.split())]
        found.append(list(itertools.accumulate(steps, lambda a, b: (a[0] + b[0], a[1] + b[1]))))
    return found


def test_a_rising_line_rises_on_the_page_and_stays_inside() -> None:
    rising = curve((1, 2, 3), (0.0, 1.0, 5.0))
    falling = curve((1, 3), (5.0, 0.0))
    chart = Chart("key", "title", "about", [Line("up", rising), Line("down", falling)])
    (up, down) = places_of(chart_html(chart))
    assert [x for x, _ in up] == pytest.approx([LEFT, (LEFT + WIDTH - RIGHT) / 2, WIDTH - RIGHT])
    assert up[0][1] > up[1][1] > up[2][1]
    assert down[0][1] == pytest.approx(up[2][1])  # the same axes
    assert all(TOP <= y <= HEIGHT for _, y in up + down)


def test_levels_are_on_the_axes_and_named_and_names_stay_text() -> None:
    chart = Chart(
        "key",
        "a < b",
        "",
        [Line("<i>", curve((1, 2), (1.0, 2.0)))],
        levels=[("chance & more", 3.0, None)],
    )
    html = chart_html(chart)
    assert "chance &amp; more 3" in html
    assert "<i>" not in html.replace('<i class="swatch">', "")
    assert box_of(chart).high > 3.0


def test_a_spike_leaves_the_picture_and_a_point_or_a_level_line_has_a_scale() -> None:
    spiked = Curve((0, 1, 2), (1.0, 2.0, 1.5), (1.0, 2.0, 1.5), (1.0, 1e9, 1.5))
    assert box_of(Chart("key", "", "", [Line("", spiked)])).high < 4
    for alone in (curve((7,), (3.0,)), curve((1, 2), (0.0, 0.0))):
        chart = Chart("key", "", "", [Line("", alone)])
        box = box_of(chart)
        assert box.low < alone.mean[0] < box.high
        assert box.left < box.right
        assert places_of(chart_html(chart))


values = strategies.floats(-1e15, 1e15).filter(lambda value: abs(value) > 1e-30) | strategies.just(
    0
)


@settings(deadline=None)
@given(
    points=strategies.lists(strategies.tuples(strategies.integers(0, 1 << 50), values, values)),
    level=values,
    from_zero=strategies.booleans(),
)
def test_whatever_is_drawn_is_drawn_with_finite_numbers(
    points: list[tuple[int, float, float]], level: float, from_zero: bool
) -> None:
    kept = Thinned(20)
    for at, first, second in [(0, 1.0, 2.0), *points]:
        kept.add(at, {"first": first, "second": second})
    lines = [Line(name, kept.curve(name)) for name in ("first", "second")]
    chart = Chart("key", "", "", lines, levels=[("level", level, None)], from_zero=from_zero)
    html = chart_html(chart)
    assert "nan" not in html
    assert "inf" not in html
    assert json.dumps(chart_values(chart), allow_nan=False)
    box = box_of(chart)
    for line in lines:
        assert all(box.low <= y <= box.high for y in line.curve.mean)


@pytest.mark.parametrize(("low", "high"), [(0.0, 1.0), (1, 2500), (-0.3, 6.2), (5.0, 5.001)])
def test_ticks_are_round_few_and_inside(low: float, high: float) -> None:
    found = ticks(low, high)
    assert 2 <= len(found) <= 6
    assert all(low <= tick <= high for tick in found)
    steps = {round(b - a, 8) for a, b in itertools.pairwise(found)}
    assert len(steps) == 1


def test_values_are_shown_in_few_figures_and_without_nine_zeros() -> None:
    assert [shown(value) for value in (0, 6.30671, 1234.5, 0.5, 4.4e-4)] == [
        *("0", "6.307", "1,234", "0.5", "4.40e-04")
    ]
    assert shown(0.1234, "%") == "12.3 %"
    assert shown(2.5e9, "GB") == "2.50 GB"
    assert [on_axis(value) for value in (20_000, 1.5e6, 0.0005, -0.2)] == [
        *("20k", "1.5M", "5e-4", "-0.2")
    ]
