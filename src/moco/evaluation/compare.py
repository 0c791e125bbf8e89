"""Rivals on the same test images: one score each, its interval, and the interval of a difference.

Letters: T test rows, Y classes.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

from moco.errors import UsageError
from moco.evaluation.label_scores import mean_average_precision
from moco.evaluation.number_scores import r2, score_numbers
from moco.evaluation.scores import balanced_accuracy, macro_f1, roc_auc, score_votes

Measure = Literal[
    "roc_auc", "balanced_accuracy", "top1", "macro_f1", "mean_average_precision", "r2"
]
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
    """Return the score that suits the labels.

    ROC AUC for two classes, else an accuracy; mean average precision for several labels an image
    (bool [T, Y]), R2 for numbers (float [T]).
    """
    if labels.ndim == 2:
        return "mean_average_precision"
    if labels.is_floating_point():
        return "r2"
    if classes == 2:
        return "roc_auc"
    counts = labels.bincount(minlength=classes)
    if float(counts.max()) >= UNEQUAL * float(counts.min()):
        return "balanced_accuracy"
    return "top1"


def fitting_measure(measure: str | None, labels: Tensor, classes: int) -> Measure:
    """Return the measure that was asked for, or what suits the labels.

    Raises:
        UsageError: The labels do not have that measure.
    """
    if measure is None:
        return suitable_measure(labels, classes)
    fitting: tuple[Measure, ...] = ("top1", "balanced_accuracy", "macro_f1")
    if labels.ndim == 2:
        fitting = ("mean_average_precision",)
    elif labels.is_floating_point():
        fitting = ("r2",)
    elif classes == 2:
        fitting = (*fitting, "roc_auc")
    for known in fitting:
        if known == measure:
            return known
    what = "numbers" if labels.is_floating_point() else f"{classes} classes"
    raise UsageError(
        f"measure {measure} does not fit these labels ({what}); choose {', '.join(fitting)} or "
        "leave it out"
    )


def measured(measure: Measure, votes: Tensor, labels: Tensor) -> float:
    """Return one score, 0 to 1 (R2 may be below 0), of votes [T, Y] for labels [T] or [T, Y]."""
    return value_of(measure, looked_at(measure, votes), labels)


def looked_at(measure: Measure, votes: Tensor) -> Tensor:
    """Return all that the measure looks at of votes [T, Y]: often one number a row."""
    match measure:
        case "roc_auc":
            return votes[:, 1]
        case "r2":
            return votes[:, 0]
        case "mean_average_precision":
            return votes
        case _:
            return votes.argmax(dim=1)


def value_of(measure: Measure, seen: Tensor, labels: Tensor) -> float:
    """Return one score of what the measure looks at."""
    match measure:
        case "roc_auc":
            return roc_auc(seen, labels == 1)
        case "mean_average_precision":
            return mean_average_precision(seen, labels)
        case "r2":
            return r2(seen, labels)
        case "balanced_accuracy":
            return balanced_accuracy(seen, labels)
        case "macro_f1":
            return macro_f1(seen, labels)
        case "top1":
            return float((seen == labels).float().mean())


def all_scores(votes: Tensor, labels: Tensor) -> dict[str, float]:
    """Return all scores that suit the labels, [T], bool [T, Y] or float [T], by their JSON keys."""
    if labels.ndim == 2:
        return {"mean_average_precision": mean_average_precision(votes, labels)}
    return (
        score_numbers(votes[:, 0], labels)
        if labels.is_floating_point()
        else score_votes(votes, labels)
    )


def compare_votes(
    measure: Measure, votes: Mapping[str, Tensor], labels: Tensor, reference: str
) -> tuple[dict[str, Interval], dict[str, Interval]]:
    """Return each rival's score, and how far `reference` lies above each of the others.

    All rivals are resampled together, images of each class apart, so that a difference is between
    answers to the same questions (a paired bootstrap). A draw without a score is drawn again.
    """
    draws = _draws(labels)
    seen = {name: looked_at(measure, rival) for name, rival in votes.items()}  # once, not a draw
    resampled: dict[str, list[float]] = {name: [] for name in votes}
    for _ in range(RESAMPLES):
        rows = next(draws)
        for name, rival in seen.items():
            resampled[name].append(value_of(measure, rival[rows], labels[rows]))
    drawn = {name: torch.tensor(values) for name, values in resampled.items()}
    exact = {name: value_of(measure, rival, labels) for name, rival in seen.items()}
    scores = {name: _interval(exact[name], drawn[name]) for name in votes}
    leads = {
        name: _interval(exact[reference] - exact[name], drawn[reference] - drawn[name])
        for name in votes
        if name != reference
    }
    return scores, leads


def _draws(labels: Tensor) -> Iterator[Tensor]:
    """Yield rows [T] drawn with replacement, always the same ones, those of each class apart."""
    draw = torch.Generator().manual_seed(0)
    one_class = labels.ndim == 1 and not labels.is_floating_point()
    members = (
        [(labels == label).nonzero().flatten() for label in torch.unique(labels)]
        if one_class
        else [torch.arange(len(labels))]
    )
    scored = one_class or not _have_score(labels)  # otherwise none would ever do
    while True:
        rows = torch.cat(
            [rows[torch.randint(len(rows), (len(rows),), generator=draw)] for rows in members]
        )
        if scored or _have_score(labels[rows]):
            yield rows


def _have_score(labels: Tensor) -> bool:
    """Return whether some row has one of several labels, or numbers differ."""
    return bool(labels.any()) if labels.ndim == 2 else bool((labels != labels[0]).any())


def _interval(value: float, drawn: Tensor) -> Interval:
    low, high = drawn.quantile(torch.tensor([0.025, 0.975])).tolist()
    return Interval(value, low, high)
