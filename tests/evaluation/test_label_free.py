"""Measures without labels: hand-worked cases, an independent computation, and invariances."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from sklearn.datasets import load_digits
from torch import Tensor

from moco.errors import DataError, UsageError
from moco.evaluation import label_free as module
from moco.evaluation.label_free import (
    MEASURES,
    LabelFreeResult,
    alignment,
    chosen,
    effective_rank,
    feature_deviation,
    label_free,
    neighbour_consistency,
    uniformity,
    view_match,
)

CROSS = torch.tensor([[1.0, 0.0], [-1.0, 0.0], [0.0, 1.0], [0.0, -1.0]])


def noise(rows: int, width: int, seed: int = 0) -> Tensor:
    return torch.randn(rows, width, generator=torch.Generator().manual_seed(seed))


@pytest.fixture(scope="module")
def digits() -> tuple[Tensor, Tensor]:
    """Real images, and the same ones shifted by a pixel."""
    images = torch.from_numpy(load_digits().images[:400]).float()
    return images.flatten(1), images.roll(1, dims=2).flatten(1)


@pytest.fixture
def small_chunks(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let the tables be cut into many parts, the last one shorter."""
    monkeypatch.setattr(module, "CHUNK_VALUES", 400 * 7)


def test_effective_rank_by_hand() -> None:
    assert effective_rank(torch.eye(3)) == pytest.approx(3, abs=1e-12)
    # singular values 2 and 1: p = 2/3, 1/3, and exp(ln 3 - 2/3 ln 2) = 3 / 2^(2/3)
    assert effective_rank(torch.diag(torch.tensor([2.0, 1.0]))) == pytest.approx(3 / 2 ** (2 / 3))
    assert effective_rank(torch.ones(5, 4)) == pytest.approx(1)  # not centred
    assert effective_rank(torch.zeros(5, 4)) == 0
    assert effective_rank(torch.ones(1, 4)) == pytest.approx(1)
    assert effective_rank(torch.eye(8)[:3]) == pytest.approx(3)  # D > N


def test_deviation_by_hand() -> None:
    assert feature_deviation(CROSS) == pytest.approx(1, abs=1e-12)
    assert feature_deviation(torch.ones(6, 3)) == pytest.approx(0, abs=1e-12)
    # rows (1, 0) and (0, 1): deviations 1/2 and 1/2
    assert feature_deviation(torch.eye(2)) == pytest.approx(math.sqrt(2) / 2)


def test_uniformity_by_hand() -> None:
    assert uniformity(torch.tensor([[3.0, 0.0], [-1.0, 0.0]])) == pytest.approx(-8)
    assert uniformity(torch.eye(2)) == pytest.approx(-4)
    assert uniformity(torch.ones(5, 2)) == pytest.approx(0, abs=1e-12)
    # of six pairs of the cross, two are opposite and four at right angles
    expected = math.log((2 * math.exp(-8) + 4 * math.exp(-4)) / 6)
    assert uniformity(CROSS) == pytest.approx(expected)
    assert uniformity(CROSS, t=1.0) == pytest.approx(
        math.log((2 * math.exp(-4) + 4 * math.exp(-2)) / 6)
    )


def test_alignment_by_hand() -> None:
    first = torch.tensor([[1.0, 0.0], [2.0, 0.0]])
    assert alignment(first, 3 * first) == pytest.approx(0, abs=1e-12)
    assert alignment(first, -first) == pytest.approx(4)
    assert alignment(first, torch.tensor([[0.0, 1.0], [1.0, 0.0]])) == pytest.approx(1)
    assert alignment(first, -first, alpha=1.0) == pytest.approx(2)


def test_neighbour_consistency_by_hand() -> None:
    angles = torch.tensor([0.0, 10.0, 30.0, 90.0]) * math.pi / 180
    view_a = torch.stack([angles.cos(), angles.sin()], dim=1)
    assert neighbour_consistency(view_a, view_a, neighbours=1) == pytest.approx(1)
    # nearest in a: 1, 0, 1, 2. In b, where the last two change places: 1, 0, 3, 1
    assert neighbour_consistency(view_a, view_a[[0, 1, 3, 2]], neighbours=1) == pytest.approx(0.5)
    # two of three others: {1,2} {0,2} {1,0} {2,1} against {1,3} {0,3} {3,1} {1,0}
    assert neighbour_consistency(view_a, view_a[[0, 1, 3, 2]], neighbours=2) == pytest.approx(0.5)


def test_view_match_by_hand() -> None:
    view_a = torch.eye(3)
    assert view_match(view_a, 5 * view_a) == 1
    assert view_match(view_a, view_a[[0, 2, 1]]) == pytest.approx(1 / 3)
    assert view_match(view_a, view_a[[1, 2, 0]]) == 0
    assert view_match(view_a, torch.tensor([[1.0, 1, 0], [0, 1, 0], [0, 0, 1]])) == pytest.approx(
        (0.5 + 1 + 1) / 3
    )


def test_view_match_asks_view_b_about_view_a() -> None:
    view_a = torch.tensor([[1.0, 0.0], [0.9, 0.1]])
    view_b = torch.tensor([[1.0, 0.0], [1.0, 0.05]])
    # both rows of b lie nearest to a's first; both of a lie nearest to their own of b
    assert view_match(view_a, view_b) == pytest.approx(0.5)
    assert view_match(view_b, view_a) == pytest.approx(1)


@pytest.mark.usefixtures("small_chunks")
def test_equal_an_independent_computation_in_numpy(digits: tuple[Tensor, Tensor]) -> None:
    first, second = (rows.numpy().astype(np.float64) for rows in digits)
    result = label_free(digits[0], digits, neighbours=7)

    values = np.linalg.svd(first, compute_uv=False)
    shares = values[values > 0] / values.sum()
    assert result.effective_rank == pytest.approx(math.exp(-(shares * np.log(shares)).sum()))
    unit_a, unit_b = (
        rows / np.linalg.norm(rows, axis=1, keepdims=True) for rows in (first, second)
    )
    assert result.feature_deviation == pytest.approx(unit_a.std(axis=0).mean() * 8)
    likeness = [
        np.exp(-2 * ((unit_a[:place] - row) ** 2).sum(axis=1)) for place, row in enumerate(unit_a)
    ]
    assert result.uniformity == pytest.approx(math.log(np.concatenate(likeness).mean()))
    assert result.alignment == pytest.approx(((unit_a - unit_b) ** 2).sum(axis=1).mean())
    shared = 0
    for one in range(len(unit_a)):
        near_a, near_b = (
            [other for other in np.argsort(-(unit @ unit[one])) if other != one][:7]
            for unit in (unit_a, unit_b)
        )
        shared += len(set(near_a) & set(near_b))
    assert result.neighbour_consistency == pytest.approx(shared / 7 / len(unit_a))
    matched = [(unit_a @ row).argmax() == place for place, row in enumerate(unit_b)]
    assert result.view_match == pytest.approx(np.mean(matched))
    assert (result.images, result.features, result.neighbours) == (400, 64, 7)


@pytest.mark.parametrize("seed", range(3))
def test_scale_and_rotation_change_nothing(digits: tuple[Tensor, Tensor], seed: int) -> None:
    turn = torch.linalg.qr(noise(64, 64, seed).double()).Q
    as_they_are = label_free(digits[0], digits)
    scaled = label_free(1e3 * digits[0], (1e3 * digits[0], 1e-3 * digits[1]))
    first, second = (part.double() @ turn for part in digits)
    turned = label_free(first, (first, second))
    for name in MEASURES:
        expected = getattr(as_they_are, name)
        assert getattr(scaled, name) == pytest.approx(expected), name
        if name == "feature_deviation":  # of single features: the axes matter
            assert getattr(turned, name) != pytest.approx(expected, rel=0.01)
        else:
            assert getattr(turned, name) == pytest.approx(expected), name


@pytest.mark.parametrize("seed", range(2))
def test_order_of_images_changes_nothing(digits: tuple[Tensor, Tensor], seed: int) -> None:
    order = torch.randperm(400, generator=torch.Generator().manual_seed(seed))
    first, second = digits[0][order], digits[1][order]
    shuffled, as_they_are = label_free(first, (first, second)), label_free(digits[0], digits)
    for name in MEASURES:
        assert getattr(shuffled, name) == pytest.approx(getattr(as_they_are, name)), name


def test_collapsed_features_look_collapsed() -> None:
    row = noise(1, 32)
    for collapsed in (
        row.expand(200, 32),
        row * (1 + noise(200, 1).abs()),  # one direction, lengths of their own
        row + 1e-7 * noise(200, 32),  # but for rounding
        torch.zeros(200, 32),
    ):
        result = label_free(collapsed, (collapsed, collapsed.flip(0)))
        assert result.effective_rank < 1.001
        assert result.feature_deviation == pytest.approx(0, abs=1e-6)
        assert result.uniformity == pytest.approx(0, abs=1e-6)
        assert result.alignment == pytest.approx(0, abs=1e-6)
        # as good as a guess, not as good as an index that comes first
        assert result.neighbour_consistency == pytest.approx(10 / 199)
        assert result.view_match == pytest.approx(1 / 200)


def test_random_features_spread_and_do_not_agree() -> None:
    result = label_free(noise(500, 32), (noise(500, 32, 1), noise(500, 32, 2)))
    assert result.effective_rank > 31
    assert result.feature_deviation == pytest.approx(1, abs=0.01)
    assert result.uniformity == pytest.approx(
        -4 + 16 / (2 * 32), abs=0.02
    )  # cosines of variance 1 / D
    assert result.alignment == pytest.approx(2, abs=0.05)
    assert result.neighbour_consistency == pytest.approx(10 / 499, abs=0.008)  # 0.002 is usual
    assert result.view_match == pytest.approx(1 / 500, abs=0.008)


def test_rank_one_of_two_ends_has_two_places() -> None:
    ends = torch.where(noise(300, 1) > 0, 1.0, -1.0) * noise(1, 32, 3)
    result = label_free(ends, (ends, ends))
    assert result.effective_rank == pytest.approx(1)
    assert result.feature_deviation > 0.7  # spread, though on one line
    assert result.alignment == pytest.approx(0, abs=1e-9)


def test_without_views_their_measures_are_none() -> None:
    result = label_free(noise(20, 4))
    assert (result.alignment, result.neighbour_consistency, result.view_match) == (None,) * 3


def test_more_features_than_images() -> None:
    rows = noise(6, 40)
    result = label_free(rows, (rows, rows + 0.01 * noise(6, 40, 1)), neighbours=4)
    assert 5 < result.effective_rank <= 6
    assert result.view_match == 1


@pytest.mark.parametrize(
    ("features", "views", "words"),
    [
        (noise(1, 4), None, "1 image is too few"),
        (noise(0, 4), None, "0 image is too few"),
        (noise(5, 0), None, r"must be \[N, D\]"),
        (noise(5, 4)[0], None, r"must be \[N, D\]"),
        (noise(5, 4).log(), None, "of 5 images are not finite, first row"),
        (noise(9, 4), (noise(9, 4), noise(9, 4) / 0), "9 of 9 images are not finite, first row 0"),
        (noise(9, 4), (noise(9, 4), noise(8, 4)), r"shapes \[9, 4\] and \[8, 4\]"),
        (noise(9, 4), (noise(8, 4), noise(8, 4)), "9 rows of features and views of 8 images"),
    ],
)
def test_what_says_nothing_is_refused(
    features: Tensor, views: tuple[Tensor, Tensor] | None, words: str
) -> None:
    with pytest.raises(DataError, match=words):
        label_free(features, views, neighbours=2)


@pytest.mark.parametrize("neighbours", [0, 8, 9])
def test_neighbours_must_leave_a_choice(neighbours: int) -> None:
    rows = noise(9, 4)
    with pytest.raises(UsageError, match="from 1 to 7 with 9 images"):
        label_free(rows, (rows, rows), neighbours=neighbours)


def test_each_measure_chooses_by_its_own_direction() -> None:
    def result(value: float, own: float | None) -> LabelFreeResult:
        return LabelFreeResult(9, 4, 2, value, value, value, own, own, own)

    picked = chosen([result(1.0, 2.0), result(3.0, 1.0), result(3.0, 2.0), result(0.0, 1.0)])
    assert picked == {
        "effective_rank": 1,
        "feature_deviation": 1,
        "uniformity": 3,
        "alignment": 1,
        "neighbour_consistency": 0,
        "view_match": 0,
    }
    partly = chosen([result(1.0, None), result(2.0, 1.0)])
    assert set(partly) == {"effective_rank", "feature_deviation", "uniformity"}
    assert chosen([]) == {}
