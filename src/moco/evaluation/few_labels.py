"""How far features go with few labels: a linear probe on several draws of them.

Everything that is chosen is chosen on the few labels themselves: no other train label is looked at,
no test label before the score. Letters: N train rows, T test rows, D features, Y classes.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from statistics import mean, stdev
from typing import Literal

import torch.nn.functional as F
from torch import Tensor

from moco.evaluation.compare import Measure, compare_votes, fitting_measure, measured
from moco.evaluation.feature_set import FeatureSet, check_pair
from moco.evaluation.label_splits import Amount, Split, draw_splits
from moco.evaluation.linear import PENALTIES, linear_class_scores
from moco.evaluation.paired import t_interval

SHARES = (0.01, 0.1, 1.0)
DRAWS = 5
FOLDS = 5
MANY = 1000
"""From so many labels on, one fifth chooses; below, each of the fifths does in turn."""
FIXED_PENALTY = 1.0
"""Used where a class has a single label, so that none is left to choose by."""


@dataclass(frozen=True)
class Answer:
    """What a classifier of one split says of the test images, and how it was set."""

    votes: Tensor
    """[T, Y]"""
    setting: float
    """The penalty of a probe, the epoch of fine-tuned weights."""
    chosen: bool
    """Whether labels were held out to choose it, or it was fixed beforehand."""


@dataclass(frozen=True)
class Level:
    """The score with one amount of labels."""

    title: str
    """"10 %", "5 per class", "all labels", or a split's file."""
    labels: int
    """Of the first draw; all draws have as many."""
    scores: tuple[float, ...]
    """Of each draw, 0 to 1."""
    mean: float
    low: float | None
    """Ends of the 95 % interval: over draws, Student's t; of a single draw, a bootstrap over the
    test images."""
    high: float | None
    interval_over: Literal["draws", "test images"]
    settings: tuple[float, ...]
    """Of each draw: the penalty of a probe, the epoch of fine-tuned weights."""
    chosen: bool
    """Whether every setting was chosen on held-out labels of its draw."""

    @property
    def spread(self) -> float:
        """Standard deviation over the draws, 0 for one."""
        return stdev(self.scores) if len(self.scores) > 1 else 0.0


@dataclass(frozen=True)
class FewLabelsResult:
    """How a classifier does with few labels."""

    classifier: Literal["linear", "fine-tuned"]
    measure: Measure
    levels: tuple[Level, ...]
    train_images: int
    test_images: int


def few_labels(
    train: FeatureSet,
    test: FeatureSet,
    *,
    shares: Sequence[float] | None = None,
    per_class: Sequence[int] = (),
    splits: Sequence[Split] = (),
    draws: int = DRAWS,
    seed: int = 0,
    measure: Measure | None = None,
) -> FewLabelsResult:
    """Return how a linear probe does with each amount of labels, and how much draws differ.

    Args:
        shares: of each class, above 0 to 1; 1 %, 10 % and all where nothing else is asked for.
        per_class: labels of each class.
        splits: some that are given, such as published lists, as draws of their own level.
        measure: ROC AUC for two classes, balanced accuracy for unequal ones, else top-1, as it is.

    Raises:
        DataError: Sets that do not go together, or a class with too few images.
        UsageError: Amounts that make no sense, or a measure that does not suit the labels.
    """
    check_pair(train, test)
    drawn = asked_splits(
        train, shares=shares, per_class=per_class, given=splits, draws=draws, seed=seed
    )
    return few_labels_on(train, test, drawn, measure=measure)


def few_labels_on(
    train: FeatureSet, test: FeatureSet, splits: Sequence[Split], *, measure: Measure | None = None
) -> FewLabelsResult:
    """Return how a linear probe does on these splits; `few_labels` without drawing them."""
    check_pair(train, test)
    measure = fitting_measure(measure, test.labels, len(test.classes))
    answers = [probe(train, test.rows, split) for split in splits]
    levels = levels_of(measure, test.labels, splits, answers)
    return FewLabelsResult("linear", measure, levels, len(train), len(test))


def asked_splits(
    train: FeatureSet,
    *,
    shares: Sequence[float] | None,
    per_class: Sequence[int],
    given: Sequence[Split],
    draws: int,
    seed: int,
) -> list[Split]:
    """Return all splits that `few_labels` looks at, by its arguments."""
    if shares is None:
        shares = () if per_class or given else SHARES
    amounts = [Amount(share=share) for share in shares]
    amounts += [Amount(per_class=count) for count in per_class]
    drawn = draw_splits(train.labels, train.paths, train.classes, amounts, draws=draws, seed=seed)
    return [*drawn, *given]


def probe(train: FeatureSet, test_rows: Tensor, split: Split) -> Answer:
    """Return a linear probe's answers, its penalty chosen by cross-validation within the split.

    Each class is dealt over the folds. Where a class has one label, the penalty is FIXED_PENALTY.
    """
    rows, labels = train.rows[split.rows], train.labels[split.rows]
    classes = len(train.classes)
    penalty, chosen = chosen_penalty(rows, labels, split.places, classes)
    votes = linear_class_scores(rows, labels, test_rows, classes=classes, penalties=(penalty,))
    return Answer(votes, penalty, chosen)


def chosen_penalty(
    rows: Tensor, labels: Tensor, places: Tensor, classes: int
) -> tuple[float, bool]:
    """Return the penalty of least cross entropy on held-out rows, and whether there were any."""
    folds = min(FOLDS, int(labels.bincount(minlength=classes).min()))
    if folds < 2:
        return FIXED_PENALTY, False
    fold = places % folds
    turns = range(folds) if len(rows) < MANY else range(1)
    best, least = PENALTIES[0], math.inf
    for penalty in PENALTIES:  # strongest first, as `linear_class_scores` tries them
        loss = 0.0
        for turn in turns:
            known, asked = fold != turn, fold == turn
            votes = linear_class_scores(
                rows[known], labels[known], rows[asked], classes=classes, penalties=(penalty,)
            )
            loss += float(F.nll_loss(votes.double().clamp(min=1e-12).log(), labels[asked]))
        if loss >= least:
            break  # weaker penalties only fit the labels closer
        best, least = penalty, loss
    return best, True


def levels_of(
    measure: Measure, labels: Tensor, splits: Sequence[Split], answers: Sequence[Answer]
) -> tuple[Level, ...]:
    """Return the score of each amount of labels, draws of one title together."""
    titles = list(dict.fromkeys(split.title for split in splits))
    levels = []
    for title in titles:
        own = [number for number, split in enumerate(splits) if split.title == title]
        levels.append(_level(measure, labels, splits[own[0]], [answers[number] for number in own]))
    return tuple(levels)


def _level(measure: Measure, labels: Tensor, first: Split, answers: Sequence[Answer]) -> Level:
    scores = tuple(measured(measure, answer.votes, labels) for answer in answers)
    low, high = t_interval(scores)
    if len(scores) == 1:
        only, _ = compare_votes(measure, {"only": answers[0].votes}, labels, "only")
        low, high = only["only"].low, only["only"].high
    return Level(
        title=first.title,
        labels=len(first.rows),
        scores=scores,
        mean=mean(scores),
        low=low,
        high=high,
        interval_over="draws" if len(scores) > 1 else "test images",
        settings=tuple(answer.setting for answer in answers),
        chosen=all(answer.chosen for answer in answers),
    )
