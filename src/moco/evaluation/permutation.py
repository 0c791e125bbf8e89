"""A paired test: would two rivals differ so much, if it did not matter which answered what?

Under that hypothesis the two answers to one image may be exchanged. The share of random exchanges
that make a difference at least as large is the p value (Fisher's permutation test, two-sided; for
accuracies of one class an image it comes to the sign test that McNemar's is near to).
Letters: T test rows, Y classes.
"""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor

from moco.evaluation.compare import Measure, looked_at, value_of
from moco.evaluation.number_scores import mean_ranks

EXCHANGES = 2000
CLOSE = 1e-12
"""Differences this near are one: sums in another order."""


def permutation_p(
    measure: Measure,
    votes: tuple[Tensor, Tensor],
    labels: Tensor,
    *,
    exchanges: int = EXCHANGES,
    seed: int = 1911,
) -> float:
    """Return the p value of the difference between two rivals' scores on the same images.

    Args:
        votes: of both, [T, Y] each, for the same rows.
        exchanges: the least p value that can come out is 1 / (1 + exchanges).

    Raises:
        ValueError: Votes of other shapes.
    """
    if votes[0].shape != votes[1].shape or len(votes[0]) != len(labels):
        raise ValueError(f"votes {list(votes[0].shape)} and {list(votes[1].shape)} are no pair")
    first, second = (_comparable(measure, looked_at(measure, each)) for each in votes)
    differ = (first != second).reshape(len(first), -1).any(dim=1)
    seen = abs(value_of(measure, first, labels) - value_of(measure, second, labels))
    draw = torch.Generator().manual_seed(seed)
    as_large = 0
    for _ in range(exchanges):
        swapped = (torch.rand(len(first), generator=draw) < 0.5) & differ
        swapped = swapped.reshape(-1, *[1] * (first.ndim - 1))
        one, other = torch.where(swapped, second, first), torch.where(swapped, first, second)
        drawn = abs(value_of(measure, one, labels) - value_of(measure, other, labels))
        as_large += drawn >= seen - CLOSE
    return (1 + as_large) / (1 + exchanges)


def holm(p_values: Mapping[str, float]) -> dict[str, float]:
    """Return the p values that hold for all of several tests together (Holm's method)."""
    adjusted: dict[str, float] = {}
    largest = 0.0
    for place, name in enumerate(sorted(p_values, key=lambda name: p_values[name])):
        largest = max(largest, min(1.0, (len(p_values) - place) * p_values[name]))
        adjusted[name] = largest
    return adjusted


def _comparable(measure: Measure, seen: Tensor) -> Tensor:
    """Return what may be exchanged between rivals: where only order counts, places in it."""
    if measure not in ("roc_auc", "mean_average_precision"):
        return seen
    if seen.ndim == 1:
        return mean_ranks(seen)
    return torch.stack([mean_ranks(column) for column in seen.T], dim=1)
