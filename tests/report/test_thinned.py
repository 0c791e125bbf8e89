from __future__ import annotations

import math
import random

import pytest

from moco.report.thinned import Curve, Thinned, number


def test_few_rows_are_kept_as_they_are() -> None:
    kept = Thinned(10)
    for step in range(15):
        kept.add(step, {"loss": step / 2, **({"knn": 1.0} if step % 5 == 4 else {})})
    assert kept.curve("loss").at == tuple(range(15))
    assert kept.curve("loss").mean == tuple(step / 2 for step in range(15))
    assert not kept.curve("loss").is_thinned
    assert kept.curve("knn").at == (4, 9, 14)
    assert kept.curve("nothing") == Curve()


@pytest.mark.parametrize("rows", [19, 20, 21, 41, 1000, 12_345])
def test_many_rows_become_means_with_their_extremes(rows: int) -> None:
    kept, draw = Thinned(10), random.Random(0)
    values = [draw.random() for _ in range(rows)]
    for step, value in enumerate(values):
        kept.add(step, {"loss": value})
    curve = kept.curve("loss")
    assert 10 <= len(curve.at) <= 20 or rows <= 20
    width = 1
    while math.ceil(rows / width) > 20:
        width *= 2
    groups = [values[start : start + width] for start in range(0, rows, width)]
    assert curve.mean == pytest.approx([sum(group) / len(group) for group in groups], rel=1e-5)
    assert curve.low == tuple(map(min, groups))
    assert curve.high == tuple(map(max, groups))
    assert curve.at[0] == pytest.approx((len(groups[0]) - 1) / 2)


@pytest.mark.parametrize(
    "value", [None, True, "5", math.nan, math.inf, -math.inf, 10**400, [1], {}, 1e300]
)
def test_what_is_no_number_is_not_drawn(value: object) -> None:
    assert number(value) is None
    assert number(0.5) == 0.5
