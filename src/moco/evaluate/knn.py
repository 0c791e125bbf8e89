"""Weighted nearest neighbours (Wu et al., arXiv:1805.01978, section 3.4): the field's quick look.

Letters: N train rows, T test rows, D features, Y classes.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

CHUNK_ROWS = 1024


def knn_class_scores(
    train_features: Tensor,
    train_labels: Tensor,
    test_features: Tensor,
    *,
    classes: int,
    neighbours: int = 200,
    temperature: float = 0.07,
) -> Tensor:
    """Return each test row's vote for each class, [T, Y], rows adding up to 1.

    The nearest `neighbours` train rows by cosine vote for their class with weight
    exp(cosine / temperature). With fewer train rows than that, all of them vote.

    Raises:
        ValueError: No neighbours, a temperature not above 0, or shapes that do not fit.
    """
    if neighbours < 1 or not temperature > 0:
        raise ValueError(
            f"need neighbours >= 1 and temperature > 0, got {neighbours}, {temperature}"
        )
    if len(train_features) != len(train_labels) or not len(train_features):
        raise ValueError(f"{len(train_features)} train rows with {len(train_labels)} labels")
    train = F.normalize(train_features.float(), dim=1)
    chunks = []
    for rows in torch.split(test_features, CHUNK_ROWS):
        cosines = F.normalize(rows.float(), dim=1) @ train.T
        nearest, indices = cosines.topk(min(neighbours, len(train)), dim=1)
        weights = ((nearest - nearest[:, :1]) / temperature).exp()  # a common factor: no overflow
        votes = rows.new_zeros(len(rows), classes, dtype=torch.float32)
        votes.scatter_add_(1, train_labels[indices], weights)
        chunks.append(votes / votes.sum(dim=1, keepdim=True))
    return torch.cat(chunks)
