"""Scores of predicted numbers against true ones, [T] each; all in float64."""

from __future__ import annotations

import math

import torch
from torch import Tensor


def r2(predicted: Tensor, true: Tensor) -> float:
    """Return the share of the variance that is told: 1 is all, 0 the mean's, below 0 worse.

    NaN where all true numbers are equal, since there is no variance to tell.
    """
    true = true.double()
    spread = float((true - true.mean()).square().sum())
    return 1 - float((predicted.double() - true).square().sum()) / spread if spread else math.nan


def mean_absolute_error(predicted: Tensor, true: Tensor) -> float:
    """Return the mean distance, in the numbers' own unit."""
    return float((predicted.double() - true.double()).abs().mean())


def pearson(predicted: Tensor, true: Tensor) -> float:
    """Return the linear correlation, -1 to 1; NaN where either is constant."""
    one, other = (rows.double() - rows.double().mean() for rows in (predicted, true))
    lengths = float(one.norm() * other.norm())
    return float(one @ other) / lengths if lengths else math.nan


def spearman(predicted: Tensor, true: Tensor) -> float:
    """Return the correlation of the ranks, -1 to 1; equal numbers share their mean rank."""
    return pearson(mean_ranks(predicted), mean_ranks(true))


def mean_ranks(numbers: Tensor) -> Tensor:
    """Return each number's rank from 1; equal numbers share their mean rank."""
    _, inverse, counts = torch.unique(numbers.double(), return_inverse=True, return_counts=True)
    last: Tensor = counts.cumsum(0).double()
    of_value: Tensor = last - (counts - 1) / 2
    return of_value[inverse]


def score_numbers(predicted: Tensor, true: Tensor) -> dict[str, float]:
    """Return r2, mean_absolute_error, pearson and spearman; those that do not exist are NaN."""
    return {
        "r2": r2(predicted, true),
        "mean_absolute_error": mean_absolute_error(predicted, true),
        "pearson": pearson(predicted, true),
        "spearman": spearman(predicted, true),
    }
