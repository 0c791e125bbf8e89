"""Figures that signals are made of, of weights, keys and image ids.

Letters: N images of a batch, K keys, C embedding size.
"""

from __future__ import annotations

from collections.abc import Iterable

import torch
import torch.nn.functional as F
from torch import Tensor, nn

MOST_SAMPLED = 2**20
"""Weights whose change in one step is looked at."""


@torch.no_grad()
def relative_distance(weights: Iterable[Tensor], others: Iterable[Tensor]) -> float:
    """Return |weights - others| / |weights|, over all of them as one vector; 0 where all are 0."""
    apart, own = [], []
    for weight, other in zip(weights, others, strict=True):
        apart.append(torch.linalg.vector_norm(weight - other))
        own.append(torch.linalg.vector_norm(weight))
    length = torch.stack(own).norm()
    return float(torch.stack(apart).norm() / length) if length > 0 else 0.0


@torch.no_grad()
def sampled_weights(network: nn.Module) -> list[Tensor]:
    """Return copies of evenly spread entries of every matrix and kernel, about a million in all.

    Biases and batch norm's scales are left out: they begin at 0 and 1 and say nothing of the rate.
    """
    matrices = [weight for weight in network.parameters() if weight.ndim > 1]
    total = sum(weight.numel() for weight in matrices)
    stride = max(1, -(-total // MOST_SAMPLED))
    return [weight.detach().reshape(-1)[::stride].clone() for weight in matrices]


def mean_cosine(rows: Tensor, others: Tensor) -> float:
    """Return the mean cosine of rows [N, C] with the rows of the same place."""
    return float(F.cosine_similarity(rows.double(), others.double(), dim=1).mean())


def keys_of(image_ids: Tensor, stored_ids: Tensor) -> float:
    """Return how many of the stored keys [K] are of an image's own, mean over image_ids [N]."""
    in_order = stored_ids.sort().values
    first = torch.searchsorted(in_order, image_ids.to(in_order.device))
    behind = torch.searchsorted(in_order, image_ids.to(in_order.device), right=True)
    return float((behind - first).double().mean())


def leak_similarity(queries: Tensor, keys: Tensor, same_group: Tensor) -> float:
    """Return how much nearer a query [P, C] is to other images' keys of its own batch-norm group.

    The mean cosine to them, minus that to keys of other groups. What else than the statistics that
    they share could tell the two apart (MoCo v1, section 3.3)? 0 where one group holds all.

    Args:
        same_group: [P, P] boolean, query by key.
    """
    cosines = (queries @ keys.T).double().cpu()
    same_group = same_group.cpu()
    others = ~torch.eye(len(cosines), dtype=torch.bool)
    beside, apart = same_group & others, ~same_group
    if not beside.any() or not apart.any():
        return 0.0
    return float(cosines[beside].mean() - cosines[apart].mean())
