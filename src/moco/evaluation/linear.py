"""A linear probe on cached features: logistic regression by L-BFGS, no learning rate to guess.

The strength of the weight penalty is chosen on part of the training rows, never on the test rows.
Letters: N train rows, T test rows, D features, Y classes.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

PENALTIES = (100.0, 10.0, 1.0, 1e-1, 1e-2, 1e-3, 1e-4)
"""Weight penalties tried in this order, per training row, on features of unit deviation."""
LBFGS_STEPS = 500
STILL = 1e-6
"""A feature that deviates no more than this share of its mean stands still: float32 rounds so."""


def linear_class_scores(
    train_features: Tensor,
    train_labels: Tensor,
    test_features: Tensor,
    *,
    classes: int,
    validation: Tensor | None = None,
    penalties: tuple[float, ...] = PENALTIES,
) -> Tensor:
    """Return each test row's class probabilities [T, Y] from logistic regression on the train rows.

    Args:
        validation: [N] True for the train rows that choose the penalty; every fifth row by default.
            Afterwards all train rows are fitted.
        penalties: tried in this order, the strongest first, until one does worse than the last.

    Raises:
        ValueError: Shapes that do not fit.
    """
    if len(train_features) != len(train_labels) or not len(train_features):
        raise ValueError(f"{len(train_features)} train rows with {len(train_labels)} labels")
    train, test = standardize(train_features.double(), test_features.double())
    train, test = span(train, test)
    if validation is None:
        validation = torch.arange(len(train)) % 5 == 4
    start = Layer(train.new_zeros(train.shape[1], classes), train.new_zeros(classes))
    best = penalties[0]
    fitted = ~validation
    if len(penalties) > 1 and bool(fitted.any()) and bool(validation.any()):
        least, layer = math.inf, start
        for penalty in penalties:  # strongest first: quick, and each a start for the next
            layer = fit(train[fitted], train_labels[fitted], penalty, layer)
            logits = layer.logits(train[validation])
            loss = float(F.cross_entropy(logits, train_labels[validation]))
            if loss >= least:
                break  # weaker penalties only fit the training rows closer
            least, best = loss, penalty
    layer = fit(train, train_labels, best, start)
    return layer.logits(test).softmax(dim=1).float()


Loss = Callable[[Tensor, Tensor], Tensor]
"""From outputs [N, Y] and labels to the mean over rows."""


class Layer(NamedTuple):
    """A linear classifier of [N, D] rows."""

    weight: Tensor
    """[D, Y]"""
    bias: Tensor
    """[Y]"""

    def logits(self, rows: Tensor) -> Tensor:
        """Return [N, Y]."""
        return rows @ self.weight + self.bias


def standardize(train: Tensor, test: Tensor) -> tuple[Tensor, Tensor]:
    """Give each feature mean 0 and deviation 1 over the train rows: batch norm without weights.

    A feature that stands still in training is 0, whatever it does in a test row.
    """
    mean, std = train.mean(dim=0), _deviations(train)
    still = std <= STILL * mean.abs()
    std = std.masked_fill(still, 1.0)
    train, test = ((rows - mean) / std for rows in (train, test))
    return train.masked_fill(still, 0.0), test.masked_fill(still, 0.0)


def scale_together(train: Tensor, test: Tensor) -> tuple[Tensor, Tensor]:
    """Give each feature mean 0 over the train rows, and divide all by the same number.

    That is the root of their mean variance: features keep their sizes beside each other, and
    penalties mean the same whatever unit the features come in.
    """
    mean, scale = train.mean(dim=0), _deviations(train).square().mean().sqrt()
    scale = torch.where(scale > 0, scale, torch.ones_like(scale))
    return (train - mean) / scale, (test - mean) / scale


def _deviations(train: Tensor) -> Tensor:
    return train.std(dim=0, correction=min(1, len(train) - 1))  # a single row deviates by 0


def span(train: Tensor, test: Tensor) -> tuple[Tensor, Tensor]:
    """Rotate into the train rows' own span when D > N: the same solution, fewer numbers.

    A penalized solution is a sum of train rows, so the N axes of their span, found from their
    products with each other, are all it needs.
    """
    if train.shape[1] <= len(train):
        return train, test
    squares, axes = torch.linalg.eigh(train @ train.T)
    kept = squares > squares[-1] * 1e-10  # centred rows span less than N axes
    lengths, axes = squares[kept].sqrt(), axes[:, kept]
    return axes * lengths, (test @ train.T) @ axes / lengths


def fit(
    features: Tensor,
    labels: Tensor,
    penalty: float,
    start: Layer,
    loss_of: Loss = F.cross_entropy,
    largest_slope: float = 1e-9,
) -> Layer:
    """Return the layer of least penalized loss, cross entropy by default, searched from `start`.

    Args:
        largest_slope: of the loss by any weight, where the search ends.
    """
    # [Y, D], so that the gradient reads the rows as they lie: half of the time, a fifth for Y = 2
    weight = start.weight.T.clone(memory_format=torch.contiguous_format).requires_grad_()
    bias = start.bias.clone().requires_grad_()
    optimizer = torch.optim.LBFGS(
        [weight, bias],
        max_iter=LBFGS_STEPS,
        history_size=20,
        tolerance_grad=largest_slope,
        tolerance_change=1e-11,
        line_search_fn="strong_wolfe",
    )

    def closure() -> Tensor:
        optimizer.zero_grad()
        loss = loss_of(F.linear(features, weight, bias), labels)
        loss = loss + penalty / 2 * weight.square().sum() / len(bias)
        loss.backward()  # type: ignore[no-untyped-call]
        return loss

    optimizer.step(closure)  # type: ignore[no-untyped-call]
    return Layer(weight.detach().T.contiguous(), bias.detach())
