"""The InfoNCE loss: a pure function of queries, positives and negatives.

Letters: N queries, M negatives, C embedding size. It knows no queue, no process and no device. This
is the definition; `info_nce_paths.score` gives the same figures in less time and memory.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

NO_IMAGE = -1
"""The id of a row that came from no image: a negative for every query."""
NO_KEY = -2
"""The id of a row that holds no key: a negative for no query."""


def info_nce(
    queries: Tensor,
    positives: Tensor,
    negatives: Tensor,
    temperature: float,
    *,
    query_ids: Tensor,
    negative_ids: Tensor | None,
) -> Tensor:
    """Return the mean InfoNCE loss (MoCo v1, Eq. 1): find each query's key among M other keys.

    A negative is any key of another image: where `negative_ids` equals the query's id, that pair
    is left out of the sum. Gradients flow to whichever inputs require them.

    Args:
        queries: [N, C], unit length.
        positives: [N, C], unit length; row i is the key of query i's image.
        negatives: [M, C], unit length; M may be 0.
        temperature: tau, above 0; divides every logit, the positive's too.
        query_ids: [N] image ids.
        negative_ids: [M] image ids; `NO_IMAGE` makes the row a negative for all queries, `NO_KEY`
            for none. None: every row counts for every query.

    Raises:
        ValueError: The shapes do not fit, or the temperature is not above 0.
    """
    check_inputs(queries, positives, negatives, temperature, query_ids, negative_ids)
    to_positive, to_negatives = similarities(
        queries, positives, negatives, query_ids=query_ids, negative_ids=negative_ids
    )
    logits = torch.cat([to_positive, to_negatives], dim=1) / temperature  # [N, 1+M]
    return (logits.logsumexp(dim=1) - logits[:, 0]).mean()


def similarities(
    queries: Tensor,
    positives: Tensor,
    negatives: Tensor,
    *,
    query_ids: Tensor,
    negative_ids: Tensor | None,
) -> tuple[Tensor, Tensor]:
    """Return cosines to the positive [N, 1] and negatives [N, M], -inf for the same image."""
    to_positive = (queries * positives).sum(dim=1, keepdim=True)
    to_negatives = queries @ negatives.to(queries.dtype).T
    if negative_ids is not None:
        left_out = are_left_out(query_ids, negative_ids)
        to_negatives = to_negatives.masked_fill(left_out, float("-inf"))
    return to_positive, to_negatives


def are_left_out(query_ids: Tensor, negative_ids: Tensor) -> Tensor:
    """Return [N, M] booleans: rows of the query's own image, and rows that hold no key."""
    return (query_ids[:, None] == negative_ids) | (negative_ids == NO_KEY)


class PretextScores(NamedTuple):
    """How well queries find their keys: the pretext task's figures, not class accuracy."""

    positive_similarity: Tensor
    """Mean cosine of a query and its own key, -1 to 1."""
    negative_similarity: Tensor
    """Mean over queries of the mean cosine with the keys of other images, -1 to 1."""
    pretext_top1: Tensor
    """Share of queries nearest to their own key among all 1+M, 0 to 1."""


@torch.no_grad()
def pretext_scores(
    queries: Tensor,
    positives: Tensor,
    negatives: Tensor,
    *,
    query_ids: Tensor,
    negative_ids: Tensor | None,
) -> PretextScores:
    """Return the pretext task's scores as scalars on the device; inputs as for `info_nce`."""
    to_positive, to_negatives = similarities(
        queries, positives, negatives, query_ids=query_ids, negative_ids=negative_ids
    )
    counted = to_negatives.isfinite()
    of_each_query = to_negatives.where(counted, 0.0).sum(dim=1) / counted.sum(dim=1).clamp(min=1)
    found = (to_positive > to_negatives).all(dim=1)
    return PretextScores(to_positive.mean(), of_each_query.mean(), found.to(queries.dtype).mean())


def check_inputs(
    queries: Tensor,
    positives: Tensor,
    negatives: Tensor,
    temperature: float,
    query_ids: Tensor,
    negative_ids: Tensor | None,
) -> None:
    """Refuse what is no input of the loss.

    Raises:
        ValueError: The shapes do not fit, or the temperature is not above 0.
    """
    if queries.ndim != 2 or positives.shape != queries.shape:
        raise ValueError(
            f"queries and positives must both be [N, C], got {list(queries.shape)} "
            f"and {list(positives.shape)}"
        )
    if negatives.ndim != 2 or negatives.shape[1] != queries.shape[1]:
        raise ValueError(f"negatives must be [M, {queries.shape[1]}], got {list(negatives.shape)}")
    one_each = negative_ids is None or negative_ids.shape == negatives.shape[:1]
    if query_ids.shape != queries.shape[:1] or not one_each:
        raise ValueError(
            f"ids must be one per row, got {list(query_ids.shape)} for {len(queries)} queries and "
            f"{list(negative_ids.shape) if negative_ids is not None else None} for "
            f"{len(negatives)} negatives"
        )
    if not temperature > 0:
        raise ValueError(f"temperature must be above 0, got {temperature}")
