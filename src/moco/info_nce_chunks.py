"""InfoNCE against a large dictionary, a chunk of it at a time: never an [N, M] matrix in memory.

Keys of a queue or a bank carry no gradient, so what the loss sends back to the queries is known
as soon as the loss is. With p the softmax over a query's positive k+ and its negatives k_j,

    dL/dq = (p_+ k+ + sum_j p_j k_j - k+) / (tau N)

and both the sum of the softmax and that weighted sum of keys can be added up over chunks, scaled
again whenever a larger similarity turns up: the same figures as `info_nce` to rounding, for any
temperature and any similarities. Letters as there: N queries, M negatives, C embedding size.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import torch
from torch import Tensor

from moco.info_nce import PretextScores, are_left_out, check_inputs

CHUNK_ENTRIES = 1 << 20
"""Similarities that are in memory at a time, 4 MB of float32; measured best on CPUs."""
FEWEST_KEYS = 256
"""A chunk is not narrower, however many queries there are."""


def score_in_chunks(
    queries: Tensor,
    positives: Tensor,
    negatives: Tensor,
    temperature: float,
    *,
    query_ids: Tensor,
    negative_ids: Tensor | None,
) -> tuple[Tensor, PretextScores]:
    """Return what `info_nce` and `pretext_scores` return, from one pass over the negatives.

    Only queries get a gradient. Arguments as for `info_nce`; negatives may be of lower precision.

    Raises:
        ValueError: The shapes do not fit, or the temperature is not above 0.
    """
    check_inputs(queries, positives, negatives, temperature, query_ids, negative_ids)
    loss, *scores = _ScoreInChunks.apply(
        queries, positives, negatives, temperature, query_ids, negative_ids
    )
    return loss, PretextScores(*scores)


class _ScoreInChunks(torch.autograd.Function):
    """The loss and three scores, with the gradient computed in the forward pass."""

    @staticmethod
    def forward(
        ctx: Any,
        queries: Tensor,
        positives: Tensor,
        negatives: Tensor,
        temperature: float,
        query_ids: Tensor,
        negative_ids: Tensor | None,
    ) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        scaled = queries / temperature
        own = (scaled * positives).sum(dim=1, keepdim=True)
        sums = add_up(scaled, positives, negatives, own, query_ids, negative_ids)
        loss = (sums.largest + sums.softmax.log() - own).mean()
        pulled = sums.keys / sums.softmax - positives
        ctx.save_for_backward(pulled / (temperature * len(queries)))
        similarity = mean_similarity(scaled, negatives, sums, negative_ids) * temperature
        found = (own > sums.nearest).to(queries.dtype).mean()
        scores = own.mean() * temperature, similarity, found
        ctx.mark_non_differentiable(*scores)
        return loss, *scores

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor | None, ...]:
        (to_queries,) = ctx.saved_tensors
        return gradients[0] * to_queries, None, None, None, None, None


class Sums(NamedTuple):
    """What was added up over the chunks; similarities are cosines over the temperature."""

    largest: Tensor
    """[N, 1] largest similarity, the positive's too; the next two are relative to its exponential.
    """
    softmax: Tensor
    """[N, 1] sum of the exponentials of all similarities."""
    keys: Tensor
    """[N, C] sum of all keys, each times the exponential of its similarity."""
    nearest: Tensor
    """[N, 1] largest similarity to a negative that counts, -inf where none does."""
    similarities: Tensor
    """[N, 1] sum of the similarities to negatives that count; 0 where all do: see
    `mean_similarity`."""
    counted: Tensor
    """[N, 1] how many negatives count; 0 where all do."""


def add_up(
    scaled: Tensor,
    positives: Tensor,
    negatives: Tensor,
    own: Tensor,
    query_ids: Tensor,
    negative_ids: Tensor | None,
) -> Sums:
    """Return the sums over a query's own key and all negatives that count for it.

    Args:
        scaled: [N, C], queries over the temperature.
        own: [N, 1], their similarities to the positives.
    """
    largest, softmax, keys = own.clone(), torch.ones_like(own), positives.to(scaled.dtype).clone()
    nearest = torch.full_like(own, float("-inf"))
    similarities, counted = torch.zeros_like(own), torch.zeros_like(own)
    width = min(max(FEWEST_KEYS, CHUNK_ENTRIES // max(1, len(scaled))), len(negatives))
    room = scaled.new_empty(len(scaled) * width)  # used again and again: new memory costs time
    for start in range(0, len(negatives), max(1, width)):
        chunk = negatives[start : start + width].to(scaled.dtype)
        logits = room[: len(scaled) * len(chunk)].view(len(scaled), len(chunk))
        torch.mm(scaled, chunk.T, out=logits)
        if negative_ids is not None:
            left_out = are_left_out(query_ids, negative_ids[start : start + width])
            similarities += logits.masked_fill(left_out, 0).sum(dim=1, keepdim=True)
            counted += len(chunk) - left_out.sum(dim=1, keepdim=True)
            logits.masked_fill_(left_out, float("-inf"))
        nearest = torch.maximum(nearest, logits.amax(dim=1, keepdim=True))
        before, largest = largest, torch.maximum(largest, nearest)
        weights = logits.sub_(largest).exp_()
        shrunk = (before - largest).exp_()
        softmax.mul_(shrunk).add_(weights.sum(dim=1, keepdim=True))
        keys = torch.addmm(keys.mul_(shrunk), weights, chunk)
    return Sums(largest, softmax, keys, nearest, similarities, counted)


def mean_similarity(
    scaled: Tensor, negatives: Tensor, sums: Sums, negative_ids: Tensor | None
) -> Tensor:
    """Return the mean over queries of the mean similarity to the negatives that count."""
    if negative_ids is not None:
        return (sums.similarities / sums.counted.clamp(min=1)).mean()
    total = negatives.sum(dim=0, dtype=scaled.dtype)  # of sums of products: one product of sums
    return scaled.mean(dim=0) @ total / max(1, len(negatives))
