"""Rivals on the same test images: one score each, its interval, and the interval of a difference.

Letters: T test rows, Y classes.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

from moco.evaluate.scores import roc_auc

Measure = Literal["roc_auc", "balanced_accuracy", "top1"]
RESAMPLES = 1000
UNEQUAL = 1.5
"""Classes count as unequal when the largest has this many times the images of the smallest."""


@dataclass(frozen=True)
class Interval:
    """A figure and its 95 % bootstrap interval over the test images."""

    value: float
    low: float
    high: float


def suitable_measure(labels: Tensor, classes: int) -> Measure:
    """Return the score that suits the labels: ROC AUC for two classes, else an accuracy."""
    if classes == 2:
        return "roc_auc"
    counts = labels.bincount(minlength=classes)
    if float(counts.max()) >= UNEQUAL * float(counts.min()):
        return "balanced_accuracy"
    return "top1"


def measured(measure: Measure, votes: Tensor, labels: Tensor) -> float:
    """Return one score, 0 to 1, of votes [T, Y] for labels [T]."""
    if measure == "roc_auc":
        return roc_auc(votes[:, 1], labels == 1)
    right = (votes.argmax(dim=1) == labels).float()
    if measure == "top1":
        return float(right.mean())
    return float(
        torch.stack([right[labels == label].mean() for label in torch.unique(labels)]).mean()
    )


def compare_votes(
    measure: Measure, votes: Mapping[str, Tensor], labels: Tensor, reference: str
) -> tuple[dict[str, Interval], dict[str, Interval]]:
    """Return each rival's score, and how far `reference` lies above each of the others.

    All rivals are resampled together, images of each class apart, so that a difference is between
    answers to the same questions (a paired bootstrap).
    """
    draw = torch.Generator().manual_seed(0)
    members = [(labels == label).nonzero().flatten() for label in torch.unique(labels)]
    resampled: dict[str, list[float]] = {name: [] for name in votes}
    for _ in range(RESAMPLES):
        rows = torch.cat(
            [rows[torch.randint(len(rows), (len(rows),), generator=draw)] for rows in members]
        )
        for name, rival in votes.items():
            resampled[name].append(measured(measure, rival[rows], labels[rows]))
    drawn = {name: torch.tensor(values) for name, values in resampled.items()}
    exact = {name: measured(measure, rival, labels) for name, rival in votes.items()}
    scores = {name: _interval(exact[name], drawn[name]) for name in votes}
    leads = {
        name: _interval(exact[reference] - exact[name], drawn[reference] - drawn[name])
        for name in votes
        if name != reference
    }
    return scores, leads


def _interval(value: float, drawn: Tensor) -> Interval:
    low, high = drawn.quantile(torch.tensor([0.025, 0.975])).tolist()
    return Interval(value, low, high)
