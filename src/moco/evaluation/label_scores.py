"""Scores where an image may have several labels, or none.

Letters: T test rows, Y labels.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor


def average_precision(scores: Tensor, positive: Tensor) -> float:
    """Return the area under the precision-recall steps of scores [T], equal scores taken together.

    AP is the sum over thresholds of (recall gained) x precision, without interpolation, as
    scikit-learn's `average_precision_score`; NaN without a positive row, which has no AP.
    """
    positives = int(positive.sum())
    if not positives:
        return math.nan
    order = scores.argsort(descending=True, stable=True)
    ranked, hits = scores[order], positive[order].double().cumsum(0)
    last = torch.ones(len(ranked), dtype=torch.bool)
    last[:-1] = ranked[1:] != ranked[:-1]  # a threshold lies behind the last of equal scores
    taken = torch.arange(1, len(ranked) + 1, dtype=torch.double)[last]
    hits = hits[last]
    gained = hits.diff(prepend=hits.new_zeros(1))
    return float((gained * hits / taken).sum() / positives)


def average_precisions(votes: Tensor, labels: Tensor) -> list[float]:
    """Return each label's average precision of votes [T, Y] for bool labels [T, Y].

    NaN for a label that no row has.
    """
    return [
        average_precision(of_label, positive)
        for of_label, positive in zip(votes.T, labels.T, strict=True)
    ]


def mean_average_precision(votes: Tensor, labels: Tensor) -> float:
    """Return the mean average precision over the labels that some row has.

    Raises:
        ValueError: No row has a label.
    """
    found = [value for value in average_precisions(votes, labels) if not math.isnan(value)]
    if not found:
        raise ValueError("no row has a label, so there is no average precision")
    return sum(found) / len(found)
