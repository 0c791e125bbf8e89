"""The ways to the loss and its scores: which one is taken is decided by the inputs alone."""

from __future__ import annotations

from torch import Tensor

from moco.info_nce import PretextScores, info_nce, pretext_scores
from moco.info_nce_chunks import score_in_chunks


def score(
    queries: Tensor,
    positives: Tensor,
    negatives: Tensor,
    temperature: float,
    *,
    query_ids: Tensor,
    negative_ids: Tensor | None,
) -> tuple[Tensor, PretextScores]:
    """Return the InfoNCE loss (MoCo v1, Eq. 1) and how well queries find their keys.

    The definition, `info_nce`, where keys carry gradient (end-to-end); else the negatives are gone
    through in chunks, which takes a fraction of the time and memory. Arguments as for `info_nce`.

    Raises:
        ValueError: The shapes do not fit, or the temperature is not above 0.
    """
    if not (positives.requires_grad or negatives.requires_grad):
        return score_in_chunks(
            queries,
            positives,
            negatives,
            temperature,
            query_ids=query_ids,
            negative_ids=negative_ids,
        )
    inputs = (queries, positives, negatives)
    loss = info_nce(*inputs, temperature, query_ids=query_ids, negative_ids=negative_ids)
    return loss, pretext_scores(*inputs, query_ids=query_ids, negative_ids=negative_ids)
