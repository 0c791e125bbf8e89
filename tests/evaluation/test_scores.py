from __future__ import annotations

import math

import pytest
import torch
from sklearn.metrics import balanced_accuracy_score, roc_auc_score, top_k_accuracy_score
from torch import Tensor

from moco.evaluation.scores import roc_auc, roc_auc_interval, score_votes, wilson_interval


def made(rows: int, classes: int, *, seed: int = 0, decimals: int = 6) -> tuple[Tensor, Tensor]:
    """Return votes that lean to their labels, and labels; few decimals make ties."""
    draw = torch.Generator().manual_seed(seed)
    labels = torch.randint(classes, (rows,), generator=draw)
    votes = torch.rand(rows, classes, generator=draw)
    votes[torch.arange(rows), labels] += 0.3
    return votes.round(decimals=decimals), labels


@pytest.mark.parametrize("decimals", [6, 1, 0])
@pytest.mark.parametrize("rows", [3, 40, 300])
def test_roc_auc_is_scikit_learns_with_ties_and_without(rows: int, decimals: int) -> None:
    for seed in range(5):
        votes, labels = made(rows, 2, seed=seed, decimals=decimals)
        labels[:2] = torch.tensor([0, 1])
        expected = roc_auc_score(labels, votes[:, 1])
        assert roc_auc(votes[:, 1], labels == 1) == pytest.approx(expected, abs=1e-12)


def test_roc_auc_of_perfect_opposite_and_blind_scores() -> None:
    positive = torch.tensor([False, False, True, True, True])
    scores = torch.tensor([0.1, 0.2, 0.3, 0.4, 0.5])
    assert roc_auc(scores, positive) == 1.0
    assert roc_auc(-scores, positive) == 0.0
    assert roc_auc(torch.zeros(5), positive) == 0.5


@pytest.mark.parametrize("positive", [torch.ones(4).bool(), torch.zeros(4).bool()])
def test_roc_auc_needs_both_kinds(positive: Tensor) -> None:
    with pytest.raises(ValueError, match="positive and negative"):
        roc_auc(torch.rand(4), positive)


@pytest.mark.parametrize(
    ("successes", "trials", "low", "high"),
    [  # Newcombe, Statistics in Medicine 17 (1998), table I, method 3
        (81, 263, 0.2553, 0.3662),
        (15, 148, 0.0624, 0.1605),
        (0, 20, 0.0000, 0.1611),
        (1, 29, 0.0061, 0.1718),
    ],
)
def test_wilson_interval_has_published_values(
    successes: int, trials: int, low: float, high: float
) -> None:
    assert wilson_interval(successes, trials) == pytest.approx((low, high), abs=5.1e-5)


@pytest.mark.parametrize("trials", [1, 2, 7, 100])
def test_wilson_ends_solve_their_equation_and_hold_the_share(trials: int) -> None:
    for successes in range(trials + 1):
        low, high = wilson_interval(successes, trials)
        share = successes / trials
        assert 0 <= low <= share <= high <= 1
        for end in {low, high} - {0.0, 1.0}:  # |share - p| is 1.96 deviations of p
            deviation = math.sqrt(end * (1 - end) / trials)
            assert abs(share - end) == pytest.approx(1.959964 * deviation, rel=1e-6)


@pytest.mark.parametrize("classes", [2, 4, 9])
def test_scores_are_scikit_learns(classes: int) -> None:
    votes, labels = made(200, classes)
    scores = score_votes(votes, labels)
    predicted = votes.argmax(dim=1)
    assert scores["top1"] == pytest.approx(float((predicted == labels).float().mean()))
    assert scores["top1_low"] < scores["top1"] < scores["top1_high"]
    expected = balanced_accuracy_score(labels, predicted)
    assert scores["balanced_accuracy"] == pytest.approx(expected, abs=1e-6)
    if classes > 5:
        expected = top_k_accuracy_score(labels, votes, k=5, labels=range(classes))
        assert scores["top5"] == pytest.approx(expected, abs=1e-6)
    assert ("top5" in scores) == (classes > 5)
    assert ("roc_auc" in scores) == (classes == 2)
    assert all(0 <= value <= 1 for value in scores.values())


def test_balanced_accuracy_is_over_the_classes_present() -> None:
    labels = torch.tensor([0, 0, 0, 0, 0, 0, 2, 2])
    votes = torch.eye(4)[[0, 0, 0, 0, 0, 0, 0, 2]]
    scores = score_votes(votes, labels)
    assert scores["top1"] == pytest.approx(7 / 8)
    assert scores["balanced_accuracy"] == pytest.approx(0.75)


def test_two_classes_of_which_one_is_absent_have_no_roc_curve() -> None:
    assert "roc_auc" not in score_votes(torch.rand(6, 2), torch.zeros(6, dtype=torch.long))


def test_the_roc_interval_holds_the_value_narrows_with_rows_and_repeats() -> None:
    widths = []
    for rows in (40, 640):
        votes, labels = made(rows, 2)
        low, high = roc_auc_interval(votes[:, 1], labels == 1)
        assert 0 <= low < roc_auc(votes[:, 1], labels == 1) < high <= 1
        assert (low, high) == roc_auc_interval(votes[:, 1], labels == 1)
        assert (low, high) != roc_auc_interval(votes[:, 1], labels == 1, seed=1)
        widths.append(high - low)
    assert widths[0] / widths[1] == pytest.approx(4, rel=0.35)  # the square root of 16
