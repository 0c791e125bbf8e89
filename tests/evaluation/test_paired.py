"""Differences over seeds against figures worked out by hand."""

from __future__ import annotations

import math

import pytest

from moco.evaluation.paired import T_975, Difference, paired_difference


def test_three_seeds_by_hand() -> None:
    # leads 0.02, 0.04, 0.06: mean 0.04, deviation 0.02, t of 2 degrees 4.3027
    found = paired_difference([0.42, 0.45, 0.47], [0.40, 0.41, 0.41])
    half = 4.3027 * 0.02 / math.sqrt(3)
    assert found.seeds == 3
    assert found.mean == pytest.approx(0.04)
    assert (found.low, found.high) == pytest.approx((0.04 - half, 0.04 + half))
    assert found.verdict == "not seen"  # -0.0097 to 0.0897


@pytest.mark.parametrize(
    ("better", "worse", "verdict"),
    [
        ([0.50, 0.51, 0.52], [0.40, 0.41, 0.43], "shows"),
        ([0.40, 0.41, 0.43], [0.50, 0.51, 0.52], "the opposite shows"),
        ([0.50, 0.41, 0.52], [0.40, 0.51, 0.43], "not seen"),
        ([0.50, 0.50], [0.50, 0.50], "not seen"),
        ([0.90], [0.10], "one seed tells nothing"),
        ([], [], "no figures"),
    ],
)
def test_verdicts(better: list[float], worse: list[float], verdict: str) -> None:
    assert paired_difference(better, worse).verdict == verdict


def test_pairs_take_out_what_seeds_have_in_common() -> None:
    seeds = [0.10, 0.50, 0.90]  # far apart, but each lead is about 0.01
    leads = [0.010, 0.011, 0.009]
    better = [value + lead for value, lead in zip(seeds, leads, strict=True)]
    assert paired_difference(better, seeds).verdict == "shows"


def test_two_seeds_need_a_lead_that_hardly_varies() -> None:
    # leads 0.10, 0.12: half width 12.7062 * 0.01414 / 1.414 = 0.127
    found = paired_difference([0.50, 0.52], [0.40, 0.40])
    assert found.high == pytest.approx(0.11 + 0.127062)
    assert found.verdict == "not seen"


def test_the_table_of_t() -> None:
    assert len(T_975) == 30
    assert list(T_975) == sorted(T_975, reverse=True)
    for degrees, quantile in ((1, 12.706), (4, 2.776), (9, 2.262), (30, 2.042)):
        assert T_975[degrees - 1] == pytest.approx(quantile, abs=1e-3)
    many = paired_difference([0.1, 0.3] * 50, [0.0] * 100)
    assert many.high is not None
    assert many.high > 0.2


def test_sides_must_match() -> None:
    with pytest.raises(ValueError, match="argument"):
        paired_difference([0.1, 0.2], [0.1])


def test_an_interval_that_touches_nothing_is_not_seen() -> None:
    assert Difference(3, 0.1, 0.0, 0.2).verdict == "not seen"
    assert Difference(3, -0.1, -0.2, 0.0).verdict == "not seen"
