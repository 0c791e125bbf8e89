"""The linear probe without a learning rate to guess: cached features, every penalty, one answer.

A strictly convex problem has one solution, so no learning rate, schedule or number of epochs is
chosen; the strength of the weight penalty is, on train rows that are held out, never on test rows.
Features are standardized by the train rows (batch norm without weights, as moco-v3's issue 20
found to make settings transferable). Letters: N train rows, T test rows, D features, Y outputs:
classes, labels, or one number.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from moco.evaluation.compare import Measure, all_scores, compare_votes, fitting_measure
from moco.evaluation.feature_set import FeatureSet, Task, check_pair, task_of
from moco.evaluation.linear import Layer, Loss, fit, scale_together, span, standardize

PENALTIES = tuple(10.0 ** (half / 2) for half in range(4, -11, -1))
"""100 to 0.00001 by half powers of ten, tried in this order: each is a start for the next."""
FIXED_PENALTY = 1.0
"""Where there are too few rows of each class for any to be held out."""
PATIENCE = 2
"""So many penalties in a row that do worse than the best end the search: weaker ones only fit the
train rows closer."""
ROUGHLY = 1e-4
"""The largest slope of the loss by any weight at which a penalty's fit ends, while one is chosen:
held-out losses are then right to about 0.0002, in half the time."""
HELD_OUT = 5
"""One in so many train rows of each class chooses the penalty."""


class Tried(NamedTuple):
    """A penalty, and the loss on the held-out train rows with it."""

    penalty: float
    loss: float


@dataclass(frozen=True)
class LinearResult:
    """What a linear classifier, or regression, makes of frozen features."""

    measure: Measure
    value: float
    """The measure on the test rows, 0 to 1 (R2 may be below 0)."""
    low: float
    """Ends of its 95 % bootstrap interval over the test rows."""
    high: float
    scores: dict[str, float]
    """All scores that suit the labels, with intervals where they are known."""
    votes: Tensor
    """[T, Y] probabilities of the classes, or of each label; [T, 1] predicted numbers."""
    penalty: float
    """In mean loss + penalty / 2 * |W|^2 / Y, of features scaled as `standardized` says."""
    tried: tuple[Tried, ...]
    """What chose the penalty; empty where it was fixed."""
    held_out: int
    """Train rows that only chose; afterwards all are fitted."""
    standardized: bool
    """Each feature had deviation 1; otherwise all were divided by the root of their mean variance,
    so that the penalty means the same in every unit."""
    train_images: int
    test_images: int

    @property
    def at_end(self) -> Literal["", "strongest", "weakest"]:
        """Which end of those tried the penalty is, so that one beyond might do better."""
        tried = [each.penalty for each in self.tried]
        if self.penalty in tried[:1]:
            return "strongest"
        return "weakest" if self.penalty in tried[-1:] else ""


def linear(
    train: FeatureSet,
    test: FeatureSet,
    *,
    measure: Measure | None = None,
    standardized: bool = True,
    penalties: tuple[float, ...] = PENALTIES,
    seed: int = 0,
) -> LinearResult:
    """Return how well a linear map of the features tells the labels of the test rows.

    Softmax regression for one class an image, a logistic regression for each of several labels,
    least squares with a penalty for numbers.

    Args:
        measure: what suits the labels by default, as in `suitable_measure`.
        standardized: give each feature mean 0 and deviation 1 over the train rows first; otherwise
            all are divided by one number.
        penalties: tried from the strongest on; a single one is taken as it is.
        seed: decides which train rows are held out.

    Raises:
        DataError: Two sets from which no score follows, see `check_pair`.
        UsageError: The labels do not have that measure.
        ValueError: No penalties, or one that is not above 0.
    """
    check_pair(train, test)
    measure = fitting_measure(measure, test.labels, len(test.classes))
    if not penalties or not all(0 < penalty < math.inf for penalty in penalties):
        raise ValueError(f"penalties must be numbers above 0, got {penalties}")
    penalties = tuple(sorted(penalties, reverse=True))
    problem = _problem(train)
    scale = standardize if standardized else scale_together
    known, asked = span(*scale(train.rows.double(), test.rows.double()))
    held_out = held_out_rows(train, seed)
    tried, start = list[Tried](), problem.start(known)
    if len(penalties) > 1 and bool(held_out.any()):
        tried, start = _try_all(problem, known, held_out, penalties)
    fixed = penalties[0] if len(penalties) == 1 else FIXED_PENALTY
    penalty = min(tried, key=lambda each: each.loss).penalty if tried else fixed
    layer = fit(known, problem.targets, penalty, start, problem.loss)
    votes = problem.answer(layer.logits(asked)).float()
    score = compare_votes(measure, {"": votes}, test.labels, "")[0][""]
    return LinearResult(
        measure=measure,
        value=score.value,
        low=score.low,
        high=score.high,
        scores=all_scores(votes, test.labels),
        votes=votes,
        penalty=penalty,
        tried=tuple(tried),
        held_out=int(held_out.sum()) if tried else 0,
        standardized=standardized,
        train_images=len(train),
        test_images=len(test),
    )


def held_out_rows(train: FeatureSet, seed: int) -> Tensor:
    """Return [N] True for the train rows that choose: one in five, of each class apart.

    The only row of a class is always fitted. Of several classes an image, the rarest counts, so
    that rare ones are on both sides. None where fewer than two classes have two rows, or all have
    fewer than five together.
    """
    draw = torch.Generator().manual_seed(seed)
    held_out = torch.zeros(len(train), dtype=torch.bool)
    groups = [rows for rows in _groups(train) if len(rows) > 1]
    least = 2 if task_of(train) == "one_class" else 1
    if len(groups) < least or len(train) < HELD_OUT:
        return held_out
    for rows in groups:
        shuffled = rows[torch.randperm(len(rows), generator=draw)]
        held_out[shuffled[: max(1, len(rows) // HELD_OUT)]] = True
    return held_out


def _groups(train: FeatureSet) -> list[Tensor]:
    """Return the rows of each class, or of each that is the rarest of an image's several."""
    labels = train.labels
    match task_of(train):
        case "number":
            groups = torch.zeros(len(train), dtype=torch.long)
        case "several_classes":
            counts = labels.sum(dim=0).expand(labels.shape)
            rarest = counts.masked_fill(~labels, len(train) + 1).argmin(dim=1)
            groups = rarest.masked_fill(~labels.any(dim=1), labels.shape[1])  # those of no class
        case "one_class":
            groups = labels
    return [(groups == group).nonzero().flatten() for group in torch.unique(groups)]


@dataclass(frozen=True)
class _Problem:
    """What is minimized, and how outputs become answers."""

    targets: Tensor
    """[N] or [N, Y]"""
    outputs: int
    loss: Loss
    answer: Callable[[Tensor], Tensor]

    def start(self, rows: Tensor) -> Layer:
        return Layer(rows.new_zeros(rows.shape[1], self.outputs), rows.new_zeros(self.outputs))


def _problem(train: FeatureSet) -> _Problem:
    task: Task = task_of(train)
    if task == "one_class":
        softmax = lambda outputs: outputs.softmax(dim=1)  # noqa: E731
        return _Problem(train.labels, len(train.classes), F.cross_entropy, softmax)
    if task == "several_classes":
        targets = train.labels.double()
        return _Problem(
            targets, len(train.classes), F.binary_cross_entropy_with_logits, torch.sigmoid
        )
    numbers = train.labels.double()
    mean, std = numbers.mean(), numbers.std(correction=0)
    targets = ((numbers - mean) / std)[:, None]
    return _Problem(targets, 1, F.mse_loss, lambda outputs: outputs * std + mean)


def _try_all(
    problem: _Problem, rows: Tensor, held_out: Tensor, penalties: tuple[float, ...]
) -> tuple[list[Tried], Layer]:
    """Return the held-out rows' loss with each penalty until it only grows, and the best layer.

    In float32, which is finer than `ROUGHLY` and takes half of the time; the layer is float64.
    """
    rows, targets = rows.float(), problem.targets
    targets = targets.float() if targets.is_floating_point() else targets
    best = layer = problem.start(rows)
    tried = list[Tried]()
    known, known_targets = rows[~held_out], targets[~held_out]
    asked, asked_targets = rows[held_out], targets[held_out]
    least, since = math.inf, 0
    for penalty in penalties:
        layer = fit(known, known_targets, penalty, layer, problem.loss, ROUGHLY)
        loss = float(problem.loss(layer.logits(asked), asked_targets))
        tried.append(Tried(penalty, loss))
        least, best, since = (loss, layer, 0) if loss < least else (least, best, since + 1)
        if since == PATIENCE:
            break
    return tried, Layer(best.weight.double(), best.bias.double())
