"""Scores of several labels, of numbers and of unequal classes are scikit-learn's and scipy's."""

from __future__ import annotations

import math

import pytest
import torch
from scipy.stats import pearsonr, spearmanr
from sklearn.metrics import average_precision_score, f1_score, mean_absolute_error, r2_score

from moco.evaluation.compare import compare_votes, measured, suitable_measure
from moco.evaluation.label_scores import (
    average_precision,
    average_precisions,
    mean_average_precision,
)
from moco.evaluation.number_scores import mean_ranks, pearson, score_numbers, spearman
from moco.evaluation.scores import balanced_accuracy, macro_f1


@pytest.mark.parametrize("decimals", [0, 1, 6])
def test_average_precision_is_scikit_learns_with_ties_and_without(decimals: int) -> None:
    draw = torch.Generator().manual_seed(decimals)
    votes = torch.rand(200, 7, generator=draw).round(decimals=decimals)
    labels = torch.rand(200, 7, generator=draw) < votes * 0.4 + 0.05
    expected = average_precision_score(labels, votes, average=None)
    assert average_precisions(votes, labels) == pytest.approx(expected.tolist(), abs=1e-12)
    mean = average_precision_score(labels, votes, average="macro")
    assert mean_average_precision(votes, labels) == pytest.approx(mean, abs=1e-12)
    assert measured("mean_average_precision", votes, labels) == pytest.approx(mean, abs=1e-12)
    assert suitable_measure(labels, 7) == "mean_average_precision"


def test_average_precision_by_hand_and_without_a_positive() -> None:
    positive = torch.tensor([True, False, True])
    assert average_precision(torch.tensor([3.0, 2.0, 1.0]), positive) == pytest.approx(5 / 6)
    assert average_precision(torch.ones(3), positive) == pytest.approx(2 / 3)
    assert math.isnan(average_precision(torch.ones(3), torch.zeros(3).bool()))
    labels = torch.tensor([[1, 0], [0, 0]]).bool()
    assert mean_average_precision(torch.tensor([[1.0, 0.0], [0.0, 1.0]]), labels) == 1.0
    with pytest.raises(ValueError, match="no row has a label"):
        mean_average_precision(torch.ones(2, 2), torch.zeros(2, 2).bool())


@pytest.mark.parametrize("decimals", [0, 6])
def test_scores_of_numbers_are_those_of_others(decimals: int) -> None:
    draw = torch.Generator().manual_seed(3)
    true = (torch.randn(150, generator=draw) * 3 + 50).round(decimals=decimals)
    predicted = (true + torch.randn(150, generator=draw)).round(decimals=decimals)
    expected = {
        "r2": r2_score(true, predicted),
        "mean_absolute_error": mean_absolute_error(true, predicted),
        "pearson": pearsonr(true.double(), predicted.double()).statistic,
        "spearman": spearmanr(true.double(), predicted.double()).statistic,
    }
    assert score_numbers(predicted, true) == pytest.approx(expected, abs=1e-6)
    assert measured("r2", predicted[:, None], true) == pytest.approx(expected["r2"], abs=1e-6)
    assert suitable_measure(true, 0) == "r2"


def test_what_does_not_exist_is_nan() -> None:
    constant, other = torch.ones(4), torch.tensor([1.0, 2.0, 3.0, 3.0])
    assert math.isnan(score_numbers(other, constant)["r2"])
    assert math.isnan(pearson(constant, other))
    assert math.isnan(spearman(other, constant))
    assert mean_ranks(other).tolist() == [1, 2, 3.5, 3.5]


def test_macro_f1_is_scikit_learns_over_classes_in_either() -> None:
    draw = torch.Generator().manual_seed(5)
    labels = torch.randint(6, (300,), generator=draw) ** 2 % 7
    answers = torch.where(
        torch.rand(300, generator=draw) < 0.6, labels, torch.randint(9, (300,), generator=draw)
    )
    assert macro_f1(answers, labels) == pytest.approx(f1_score(labels, answers, average="macro"))
    votes = torch.eye(9)[answers]
    assert measured("macro_f1", votes, labels) == macro_f1(answers, labels)


def test_a_class_without_rows_has_no_part_in_balanced_accuracy() -> None:
    labels, answers = torch.tensor([0, 0, 2, 2]), torch.tensor([0, 1, 2, 2])
    assert balanced_accuracy(answers, labels) == 0.75


def test_rivals_are_compared_on_numbers_and_several_labels_too() -> None:
    draw = torch.Generator().manual_seed(0)
    true = torch.randn(300, generator=draw)
    near, far = (true + scale * torch.randn(300, generator=draw) for scale in (0.1, 1.0))
    scores, leads = compare_votes("r2", {"near": near[:, None], "far": far[:, None]}, true, "near")
    assert scores["near"].low > scores["far"].high
    assert leads["far"].low > 0
