"""95 % intervals hold the truth about as often as they say, over made data sets of known truth."""

from __future__ import annotations

import math
from statistics import NormalDist
from typing import get_args

import pytest
import torch

from moco.evaluate import FeatureSet, linear
from moco.evaluation import compare
from moco.evaluation.compare import compare_votes
from moco.evaluation.feature_set import Task
from moco.evaluation.scores import roc_auc_interval, wilson_interval

NORMAL = NormalDist()
SETS = 1000
MOST_OFF = 0.02
"""Of 1,000 sets a true 95 % strays by 0.014 in 1 of 20 tries; a bootstrap is a little narrow."""


def covers(interval: tuple[float, float], truth: float) -> bool:
    return interval[0] <= truth <= interval[1]


@pytest.mark.parametrize(("rows", "share"), [(50, 0.5), (200, 0.8), (200, 0.95), (1000, 0.1)])
def test_the_wilson_interval_of_top1(rows: int, share: float) -> None:
    draw = torch.Generator().manual_seed(rows)
    right = (torch.rand(4 * SETS, rows, generator=draw) < share).sum(dim=1).tolist()
    held = sum(covers(wilson_interval(count, rows), share) for count in right) / len(right)
    assert held == pytest.approx(0.95, abs=MOST_OFF)


def auc_coverage(sets: int, positives: int, negatives: int, lead: float) -> float:
    """Return how often the interval holds the AUC of two normal distributions, `lead` apart."""
    draw = torch.Generator().manual_seed(positives)
    truth, held = NORMAL.cdf(lead / math.sqrt(2)), 0
    positive = torch.arange(positives + negatives) < positives
    for _ in range(sets):
        scores = torch.randn(len(positive), generator=draw) + lead * positive
        held += covers(roc_auc_interval(scores, positive), truth)
    return held / sets


def accuracy_coverage(sets: int, measure: compare.Measure) -> tuple[float, float]:
    """Return how often the intervals of a score and of a difference hold the truth.

    Three unequal classes; two rivals answer by chance of their own, right with a given share in
    each class, and agree more often than chance since they share half of it.
    """
    draw = torch.Generator().manual_seed(7)
    labels = torch.tensor([0] * 100 + [1] * 60 + [2] * 40)
    shares = {"one": torch.tensor([0.9, 0.7, 0.5]), "other": torch.tensor([0.85, 0.6, 0.5])}
    weights = labels.bincount() / len(labels) if measure == "top1" else torch.full((3,), 1 / 3)
    truths = {name: float((of * weights).sum()) for name, of in shares.items()}
    scores_held = leads_held = 0
    for _ in range(sets):
        together = torch.rand(len(labels), generator=draw)
        votes = {}
        for name, of_class in shares.items():
            apart = torch.rand(len(labels), generator=draw)
            mixed = torch.where(torch.rand(len(labels), generator=draw) < 0.5, together, apart)
            right = mixed < of_class[labels]
            votes[name] = torch.eye(3)[torch.where(right, labels, (labels + 1) % 3)]
        scores, leads = compare_votes(measure, votes, labels, "one")
        scores_held += covers((scores["one"].low, scores["one"].high), truths["one"])
        lead = leads["other"]
        leads_held += covers((lead.low, lead.high), truths["one"] - truths["other"])
    return scores_held / sets, leads_held / sets


def linear_coverage(sets: int, task: Task, *, rows: int) -> float:
    """Return how often the interval of `evaluate.linear` holds the score that the layer has.

    Train rows are the same each time, so one layer answers; its true score is that of 40,000 rows.
    """
    train = made(task, 60, 0)
    truth = linear(train, made(task, 40_000, 1), penalties=(0.1,)).value
    found = (linear(train, made(task, rows, 2 + part), penalties=(0.1,)) for part in range(sets))
    return sum(covers((of.low, of.high), truth) for of in found) / sets


def made(task: Task, rows: int, seed: int) -> FeatureSet:
    """Return rows of eight features, three of which say something of three classes."""
    draw = torch.Generator().manual_seed(seed)
    labels = torch.arange(rows) % 3
    features = torch.randn(rows, 8, generator=draw)
    features[:, :3] += torch.eye(3)[labels]
    if task == "number":
        noise = torch.randn(rows, generator=draw)
        return FeatureSet(features, features[:, 0] - features[:, 5] + noise, ())
    if task == "several_classes":
        several = torch.stack([labels > 0, features[:, 4] > 0.5], dim=1)
        flipped = torch.rand(rows, 2, generator=draw) < 0.1
        return FeatureSet(features, several ^ flipped, ("a", "b"))
    return FeatureSet(features, labels, ("a", "b", "c"))


@pytest.mark.parametrize("task", get_args(Task))
def test_intervals_of_a_linear_probe_in_short(task: Task, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(compare, "RESAMPLES", 100)
    assert linear_coverage(20, task, rows=150) > 0.75


def test_bootstrap_intervals_in_short(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(compare, "RESAMPLES", 200)
    held = accuracy_coverage(40, "balanced_accuracy")
    assert min(*held, auc_coverage(40, 60, 140, 1.0)) > 0.85


@pytest.mark.slow
@pytest.mark.timeout(1800)
@pytest.mark.parametrize("task", get_args(Task))
def test_the_interval_of_a_linear_probe(task: Task, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(compare, "RESAMPLES", 400)  # for time; the 1,000 in use hold more steadily
    assert linear_coverage(SETS, task, rows=500) == pytest.approx(0.95, abs=MOST_OFF)


@pytest.mark.slow
@pytest.mark.timeout(1800)
@pytest.mark.parametrize(("positives", "negatives", "lead"), [(60, 140, 1.0), (40, 40, 0.5)])
def test_the_bootstrap_interval_of_roc_auc(positives: int, negatives: int, lead: float) -> None:
    held = auc_coverage(SETS, positives, negatives, lead)
    assert held == pytest.approx(0.95, abs=MOST_OFF)


@pytest.mark.slow
@pytest.mark.timeout(1800)
@pytest.mark.parametrize("measure", ["top1", "balanced_accuracy"])
def test_bootstrap_intervals_of_accuracies_and_of_paired_differences(
    measure: compare.Measure, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(compare, "RESAMPLES", 400)  # for time; the 1,000 in use hold more steadily
    of_score, of_difference = accuracy_coverage(SETS, measure)
    assert of_score == pytest.approx(0.95, abs=MOST_OFF)
    assert of_difference == pytest.approx(0.95, abs=MOST_OFF)
