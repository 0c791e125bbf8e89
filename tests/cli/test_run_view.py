from __future__ import annotations

import itertools
import math
from dataclasses import replace
from types import SimpleNamespace
from typing import Any

import pytest

from moco.cli.curves import BLOCKS, MOST_POINTS, Curve, sparkline
from moco.cli.run_view import PLAIN_LETTERS as PLAIN
from moco.cli.run_view import Letters, RunFigures, run_lines

GREY, PLAIN_LETTERS = Letters(coloured=False), replace(PLAIN, coloured=False)


def row(step: int, **more: Any) -> dict[str, Any]:
    figures = {
        "step": step,
        "epoch": step // 100,
        "loss": 6.0 - step / 500,
        "positive_similarity": 0.81,
        "negative_similarity": 0.4,
        "pretext_top1": step / 1000,
        "images_per_second": 1312.4,
    }
    return {**figures, **more}


def half_done(**diagnosis: Any) -> RunFigures:
    figures = RunFigures(1000, 10, 6.931, began=0.0)
    for step in range(19, 500, 20):
        scores = {"knn_top1": 0.7 if step == 99 else 0.68} if step % 100 == 99 else {}
        figures.take(row(step, **scores), now=float(step))
    if diagnosis:
        figures.diagnosis = SimpleNamespace(**diagnosis)
    return figures


def test_a_curve_goes_from_the_lowest_letter_to_the_highest() -> None:
    assert sparkline([1, 2, 3, 4, 5, 6, 7, 8], 8) == BLOCKS
    assert sparkline([8, 7, 6, 5], 4) == "█▆▃▁"
    assert sparkline([5.0] * 9, 4) == "▁▁▁▁"
    assert sparkline([3], 10) == "▁"
    assert (sparkline([], 5), sparkline([1, 2], 0)) == ("", "")


def test_a_curve_of_many_values_is_of_their_means() -> None:
    assert sparkline([0, 2, 10, 12, 5, 7], 3) == "▁█▅"
    assert len(sparkline(list(range(1001)), 17)) == 17


def test_a_curve_of_a_million_values_stays_small_and_keeps_its_shape() -> None:
    curve = Curve()
    for number in range(100_000):
        curve.add(float(number))
    points = curve.points()
    assert MOST_POINTS / 2 <= len(points) <= MOST_POINTS
    assert points == sorted(points)
    assert points[0] < 1000
    assert points[-1] == pytest.approx(99_999, abs=600)
    spacing = [after - before for before, after in itertools.pairwise(points[:-1])]
    assert max(spacing) - min(spacing) < 1e-6


def test_what_is_shown_at_80_columns() -> None:
    figures = half_done(verdict="healthy", words="Healthy: learns.", is_sick=False)
    bar, loss, pretext, gap, knn, doctor = run_lines(figures, 80, 24, GREY, now=499.0)
    assert bar.rstrip().endswith("500/1,000  epoch 5/10  1,312 images/s  8 min  8 min left")
    assert bar.startswith("━")
    assert loss.startswith("loss             5.002  █")
    assert "chance 6.931, ln(K+1)" in loss
    assert pretext.startswith("pretext top-1   49.9 %  ▁")
    assert "no class accuracy" in pretext
    assert gap.startswith("similarity gap   0.410  ")
    assert "own keys 0.81, others 0.40" in gap
    assert knn.startswith("kNN top-1       68.0 %  █")
    assert "epoch 5, best 70.0 %" in knn
    assert doctor == "doctor         Healthy: learns."


@pytest.mark.parametrize("letters", [GREY, PLAIN_LETTERS])
def test_no_line_is_as_wide_as_the_terminal_and_none_too_many(letters: Letters) -> None:
    words = "Collapsed: " + "all images get one embedding " * 9
    figures = half_done(verdict="collapsed", words=words, is_sick=True)
    for width in range(1, 200):
        for height in (2, 3, 5, 24):
            lines = run_lines(figures, width, height, letters, now=499.0)
            assert 1 <= len(lines) <= max(1, height - 2)
            assert all(len(line) < max(2, width) for line in lines), width
    assert len(run_lines(figures, 80, 24, GREY, now=499.0)) == 5 + 3


def test_the_time_left_and_the_chance_stay_where_there_is_little_room() -> None:
    bar, loss, *_ = run_lines(half_done(), 50, 24, GREY, now=499.0)
    assert bar.endswith("8 min left")
    assert "chance 6.931" in loss


def test_before_the_first_figures_and_without_some_of_them() -> None:
    figures = RunFigures(1000, 10, 6.931, began=0.0)
    bar, *_ = run_lines(figures, 80, 24, GREY, now=12.0)
    assert bar.endswith("0/1,000  starting  12 s")
    figures.take({"step": 19, "epoch": 0, "loss": None}, now=1.0)  # a step that was left out
    figures.take(row(39, loss=math.nan), now=2.0)
    _, loss, *_ = run_lines(figures, 80, 24, GREY, now=3.0)
    assert loss.startswith("loss                 -  ")
    assert figures.curves["loss"].points() == []


def test_the_time_left_is_by_the_pace_of_late_and_passes() -> None:
    figures = RunFigures(100_000, 10, 6.931, began=0.0)
    now = 0.0
    for step in range(19, 40_000, 20):
        now += 2.0 if step < 20_000 else 20.0
        figures.take(row(step), now)
    assert figures.seconds_left(now) == pytest.approx(60_000, rel=0.01)
    assert figures.seconds_left(now + 100) == pytest.approx(59_900, rel=0.01)
    figures.take(row(99_999), now)
    assert figures.seconds_left(now) is None


def test_colours_and_plain_letters() -> None:
    figures = half_done(verdict="collapsed", words="collapsed", is_sick=True)
    lines = run_lines(figures, 80, 24, Letters(), now=499.0)
    assert "\x1b[33mcollapsed\x1b[0m" in lines[-1]
    assert all(line.count("\x1b[") % 2 == 0 for line in lines)
    plain = run_lines(figures, 80, 24, PLAIN_LETTERS, now=499.0)
    assert all(line.isascii() for line in plain)
    assert not any("\x1b" in line for line in run_lines(figures, 80, 24, GREY, now=499.0))


@pytest.mark.parametrize(
    ("verdict", "words", "said"),
    [
        ("low rank", "Images differ little.", "low rank: Images differ little."),
        ("healthy", "Healthy: learns.", "Healthy: learns."),
        ("healthy", "", "healthy"),
    ],
)
def test_the_verdict_stands_before_its_sentence(verdict: str, words: str, said: str) -> None:
    figures = half_done(verdict=verdict, words=words, is_sick=False)
    assert run_lines(figures, 80, 24, GREY, now=499.0)[-1] == f"doctor         {said}"


def test_words_of_the_doctor_steer_no_terminal() -> None:
    figures = half_done(verdict="x", words="a\x1b[2Jb", is_sick=False)
    assert "\x1b" not in run_lines(figures, 80, 24, GREY, now=499.0)[-1]
