from __future__ import annotations

import itertools
import math
import xml.etree.ElementTree as ElementTree

import pytest

from moco.report.charts import HEIGHT, TOP, line_chart, ticks


def line_of(svg: str) -> list[tuple[float, float]]:
    polyline = next(e for e in ElementTree.fromstring(svg).iter() if e.tag == "polyline")
    pairs = (point.split(",") for point in polyline.attrib["points"].split())
    return [(float(x), float(y)) for x, y in pairs]


def test_a_rising_line_rises_on_the_page_and_stays_inside() -> None:
    points = line_of(line_chart([(1, 0.0), (2, 1.0), (3, 5.0)], x_label="step", y_label="loss"))
    across, down = [x for x, _ in points], [y for _, y in points]
    assert across == sorted(across)
    assert down == sorted(down, reverse=True)
    assert min(down) >= TOP
    assert max(down) <= HEIGHT


def test_the_reference_level_is_drawn_and_named() -> None:
    svg = line_chart([(1, 1.0), (2, 2.0)], x_label="x", y_label="y", reference=("a < b", 3.0))
    assert 'class="reference"' in svg
    assert "a &lt; b" in svg


def test_many_points_are_thinned_to_their_means_and_no_point_is_an_answer_too() -> None:
    svg = line_chart(
        [(x, float(x % 2)) for x in range(10_000)], x_label="x", y_label="y", most_points=100
    )
    assert len(line_of(svg)) == 100
    assert len({y for _, y in line_of(svg)}) == 1  # each point is a mean of as many 0 as 1
    assert "No figures" in line_chart([(1, math.nan)], x_label="x", y_label="y")


@pytest.mark.parametrize(("low", "high"), [(0.0, 1.0), (1, 2500), (-0.3, 6.2), (5.0, 5.001)])
def test_ticks_are_round_few_and_inside(low: float, high: float) -> None:
    found = ticks(low, high)
    assert 2 <= len(found) <= 6
    assert all(low <= tick <= high for tick in found)
    steps = {round(b - a, 8) for a, b in itertools.pairwise(found)}
    assert len(steps) == 1
