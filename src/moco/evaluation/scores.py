"""Scores of class votes against labels, with 95 % intervals over the test images.

Letters: T test rows, Y classes.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

RESAMPLES = 1000


def score_votes(votes: Tensor, labels: Tensor) -> dict[str, float]:
    """Return the scores of votes [T, Y] for labels [T], each from 0 to 1, keys as in the JSON.

    top1 and its Wilson interval always; balanced_accuracy over the classes present, macro_f1 over
    those present or voted for; top5 above five classes; with two classes roc_auc of the second and
    its bootstrap interval.
    """
    answers = votes.argmax(dim=1)
    right = answers == labels
    scores = {"top1": float(right.float().mean())}
    scores["top1_low"], scores["top1_high"] = wilson_interval(int(right.sum()), len(right))
    present = torch.unique(labels)
    scores["balanced_accuracy"] = balanced_accuracy(answers, labels)
    scores["macro_f1"] = macro_f1(answers, labels)
    if votes.shape[1] > 5:
        top5 = (votes.topk(5, dim=1).indices == labels[:, None]).any(dim=1)
        scores["top5"] = float(top5.float().mean())
    if votes.shape[1] == 2 and len(present) == 2:
        scores["roc_auc"] = roc_auc(votes[:, 1], labels == 1)
        scores["roc_auc_low"], scores["roc_auc_high"] = roc_auc_interval(votes[:, 1], labels == 1)
    return scores


def balanced_accuracy(answers: Tensor, labels: Tensor) -> float:
    """Return the mean over the classes present of the share of their rows that is right."""
    counts = labels.bincount()
    right = labels[answers == labels].bincount(minlength=len(counts))
    present = counts > 0
    return float((right[present].double() / counts[present]).mean())


def macro_f1(answers: Tensor, labels: Tensor) -> float:
    """Return the mean of F1 = 2 right / (rows + answers) over classes that are in either."""
    classes = int(torch.maximum(answers.max(), labels.max())) + 1
    right = labels[answers == labels].bincount(minlength=classes)
    both = labels.bincount(minlength=classes) + answers.bincount(minlength=classes)
    present = both > 0
    return float((2 * right[present].double() / both[present]).mean())


def wilson_interval(successes: int, trials: int) -> tuple[float, float]:
    """Return the 95 % Wilson interval of a share."""
    z = 1.959964
    share, z2n = successes / trials, z * z / trials
    centre = (share + z2n / 2) / (1 + z2n)
    half = z / (1 + z2n) * math.sqrt(share * (1 - share) / trials + z2n / (4 * trials))
    return max(0.0, centre - half), min(1.0, centre + half)


def roc_auc(scores: Tensor, positive: Tensor) -> float:
    """Return the chance that a positive row scores above a negative one; ties count half.

    Raises:
        ValueError: One of the two kinds is missing.
    """
    positives, negatives = int(positive.sum()), int((~positive).sum())
    if not positives or not negatives:
        raise ValueError("the ROC curve needs positive and negative rows")
    _, inverse, counts = torch.unique(scores.double(), return_inverse=True, return_counts=True)
    last = counts.cumsum(0).double()
    mean_rank = (last - (counts - 1) / 2)[inverse]  # ties share their mean rank
    rank_sum = float(mean_rank[positive].sum())
    return (rank_sum - positives * (positives + 1) / 2) / (positives * negatives)


def roc_auc_interval(scores: Tensor, positive: Tensor, *, seed: int = 0) -> tuple[float, float]:
    """Return the 95 % bootstrap interval of the ROC AUC, kinds resampled apart."""
    draw = torch.Generator().manual_seed(seed)
    _, places = torch.unique(scores.double(), return_inverse=True)
    above, below, values = places[positive], places[~positive], int(places.max()) + 1
    resampled = []
    for _ in range(RESAMPLES):
        higher = above[torch.randint(len(above), (len(above),), generator=draw)]
        lower = below[torch.randint(len(below), (len(below),), generator=draw)]
        lower_counts = lower.bincount(minlength=values).double()
        beaten = lower_counts.cumsum(0) - lower_counts / 2  # by each value; ties count half
        resampled.append(float(beaten[higher].sum()) / (len(above) * len(below)))
    low, high = torch.tensor(resampled).quantile(torch.tensor([0.025, 0.975])).tolist()
    return low, high
