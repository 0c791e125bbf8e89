"""Neighbours, doubles and loners against plain numpy in float64."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from torch import Tensor

from moco.errors import DataError, UsageError
from moco.evaluation.neighbourhood import (
    AlikePair,
    alike_groups,
    isolation,
    near_duplicates,
    neighbourhood,
    outliers,
)


def made_rows(count: int = 120, width: int = 12, seed: int = 0) -> Tensor:
    return torch.randn(count, width, generator=torch.Generator().manual_seed(seed))


def cosines_of(rows: Tensor) -> NDArray[np.float64]:
    values = rows.double().numpy()
    lengths = np.linalg.norm(values, axis=1)
    cosines = (values @ values.T) / np.maximum(np.outer(lengths, lengths), 1e-300)
    np.fill_diagonal(cosines, -np.inf)
    return cosines.round(12)


def nearest_by_numpy(rows: Tensor, count: int) -> NDArray[np.int64]:
    return np.argsort(-cosines_of(rows), axis=1, kind="stable")[:, :count]


def test_neighbours_are_those_of_numpy_in_order() -> None:
    rows = made_rows()
    rows[40], rows[90] = 2 * rows[7], rows[7]  # equal directions: the lower row first
    found = neighbourhood(rows, 8)
    assert found.rows.tolist() == nearest_by_numpy(rows, 8).tolist()
    assert found.rows[7, :2].tolist() == [40, 90]
    assert found.rows[90, :2].tolist() == [7, 40]
    picked = np.take_along_axis(cosines_of(rows), found.rows.numpy(), axis=1)
    assert np.abs(found.similarities.numpy() - picked).max() < 1e-6
    assert found.first(3).rows.tolist() == nearest_by_numpy(rows, 3).tolist()


def test_what_float32_cannot_order_is_ordered_by_float64() -> None:
    angles = torch.tensor([0.0, 2.0], dtype=torch.double)
    close = 0.5 + 1e-7 * torch.tensor([3, 1, 4, 0], dtype=torch.double)
    angles = torch.cat([angles, close])
    rows = torch.stack([angles.cos(), angles.sin()], dim=1)
    found = neighbourhood(rows, 4)
    assert found.rows[0].tolist() == nearest_by_numpy(rows, 4)[0].tolist() == [5, 3, 2, 4]


def test_memory_and_more_neighbours_change_none_of_the_first() -> None:
    rows = made_rows(400, 8)
    plain = neighbourhood(rows, 8)
    assert neighbourhood(rows, 8, memory=1 << 16).rows.tolist() == plain.rows.tolist()
    assert neighbourhood(rows, 90).first(8).rows.tolist() == plain.rows.tolist()
    assert neighbourhood(rows[:5], 8).rows.shape == (5, 4)


@pytest.mark.parametrize("least", [0.5, 0.8, 0.95])
def test_pairs_are_all_those_of_numpy_ranked_with_ties_by_row(least: float) -> None:
    rows = made_rows(80, 5)
    for original, copy in ((3, 60), (3, 61), (50, 9), (70, 71)):
        rows[copy] = (1 + copy) * rows[original]
    cosines = cosines_of(rows)
    expected = [
        (-cosines[i, j], i, j)
        for i in range(80)
        for j in range(i + 1, 80)
        if cosines[i, j] >= least
    ]
    found = near_duplicates(rows, neighbourhood(rows, 79), least_similarity=least)
    assert [(pair.first, pair.second) for pair in found] == [(i, j) for _, i, j in sorted(expected)]
    assert [(p.first, p.second) for p in found[:5]] == [
        (3, 60),
        (3, 61),
        (9, 50),
        (60, 61),
        (70, 71),
    ]
    assert [pair.similarity for pair in found] == pytest.approx(
        [-value for value, _, _ in sorted(expected)], abs=1e-11
    )


def test_planted_copies_are_found_among_few_neighbours() -> None:
    rows = made_rows(600, 32)
    rows[500] = rows[20] + 0.01 * made_rows(1, 32, seed=5)[0]
    rows[400:420] = rows[30]  # more copies than neighbours
    pairs = near_duplicates(rows, neighbourhood(rows, 8), least_similarity=0.99)
    groups = alike_groups(pairs)
    assert [set(group.rows) for group in groups] == [{30, *range(400, 420)}, {20, 500}]
    assert groups[0].similarity == 1.0
    assert 0.99 < groups[1].similarity < 1.0


def test_a_similarity_at_the_threshold_counts_and_no_cosine_is_above_one() -> None:
    rows = torch.tensor([[1.0, 0.0], [3.0, 4.0], [-1.0, 0.0]])
    found = neighbourhood(rows, 2)
    assert near_duplicates(rows, found, least_similarity=0.6) == [AlikePair(0, 1, 0.6)]
    assert near_duplicates(rows, found, least_similarity=0.6000001) == []
    with pytest.raises(UsageError, match="from -1 to 1, got 2"):
        near_duplicates(rows, found, least_similarity=2)


def test_groups_join_and_keep_the_order_of_their_best_pair() -> None:
    pairs = [
        AlikePair(4, 5, 0.99),
        AlikePair(0, 1, 0.98),
        AlikePair(2, 3, 0.97),
        AlikePair(1, 5, 0.96),  # joins the first two groups
        AlikePair(0, 5, 0.95),  # says nothing new
    ]
    groups = alike_groups(pairs)
    assert [(group.rows, group.similarity) for group in groups] == [
        ((4, 5, 0, 1), 0.99),
        ((2, 3), 0.97),
    ]


def test_outliers_are_ranked_by_mean_distance_ties_by_row() -> None:
    rows = made_rows(100, 6) * 0.05 + torch.ones(6)
    rows[13], rows[77] = -torch.ones(6), torch.tensor([1.0, -1, 1, -1, 1, -1])
    found = neighbourhood(rows, 8)
    ranked = outliers(found, 5)
    assert {row for row, _ in ranked[:2]} == {13, 77}
    nearest = np.sort(cosines_of(rows), axis=1)[:, ::-1][:, :8]
    expected = (1 - nearest).mean(axis=1)
    assert isolation(found).numpy() == pytest.approx(expected, abs=1e-6)
    assert [row for row, _ in ranked] == np.argsort(-expected, kind="stable")[:5].tolist()
    alike = neighbourhood(torch.ones(20, 3), 4)
    assert outliers(alike, 3) == [(0, 0.0), (1, 0.0), (2, 0.0)]


def test_rows_without_neighbours_are_refused() -> None:
    broken = made_rows(4)
    broken[2, 3] = torch.nan
    with pytest.raises(DataError, match="1 of 4 images are not finite"):
        neighbourhood(broken)
    with pytest.raises(DataError, match="two or more images"):
        neighbourhood(made_rows(1))
    with pytest.raises(UsageError, match="at least 1"):
        neighbourhood(made_rows(4), 0)


def test_a_row_of_zeros_is_far_from_all() -> None:
    rows = made_rows(20).abs()
    rows[11] = 0
    assert outliers(neighbourhood(rows), 1) == [(11, 1.0)]
