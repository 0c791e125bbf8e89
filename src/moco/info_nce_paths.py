"""The ways to the loss and its scores: which one is taken is decided by the inputs alone."""

from __future__ import annotations

import importlib
import importlib.util
from functools import lru_cache
from typing import Any, Protocol

from torch import Tensor

from moco.info_nce import PretextScores, info_nce, pretext_scores
from moco.info_nce_chunks import score_in_chunks


class Path(Protocol):
    """A way from queries and keys to the loss and the scores."""

    def __call__(
        self,
        queries: Tensor,
        positives: Tensor,
        negatives: Tensor,
        temperature: float,
        *,
        query_ids: Tensor,
        negative_ids: Tensor | None,
    ) -> tuple[Tensor, PretextScores]:
        """Return the loss and the scores; arguments as for `info_nce`."""
        ...


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

    Arguments as for `info_nce`; see `path_for`.

    Raises:
        ValueError: The shapes do not fit, or the temperature is not above 0.
    """
    path = path_for(queries, positives, negatives, negative_ids)
    return path(
        queries, positives, negatives, temperature, query_ids=query_ids, negative_ids=negative_ids
    )


def path_for(
    queries: Tensor, positives: Tensor, negatives: Tensor, negative_ids: Tensor | None
) -> Path:
    """Return the cheapest way that these inputs allow; all lead to the same figures.

    The definition where keys carry gradient (end-to-end); kernels on a GPU that can compile them;
    else the negatives are gone through in chunks.
    """
    if positives.requires_grad or negatives.requires_grad:
        return score_by_definition
    gpu = on_gpu() if queries.is_cuda else None
    if gpu is None or not gpu.fits(queries, positives, negatives, negative_ids):
        return score_in_chunks
    in_kernels: Path = gpu.score_in_kernels
    return in_kernels


def score_by_definition(
    queries: Tensor,
    positives: Tensor,
    negatives: Tensor,
    temperature: float,
    *,
    query_ids: Tensor,
    negative_ids: Tensor | None,
) -> tuple[Tensor, PretextScores]:
    """Return the loss and the scores as they are defined; gradients reach all keys."""
    inputs = (queries, positives, negatives)
    loss = info_nce(*inputs, temperature, query_ids=query_ids, negative_ids=negative_ids)
    return loss, pretext_scores(*inputs, query_ids=query_ids, negative_ids=negative_ids)


@lru_cache(maxsize=1)
def on_gpu() -> Any:
    """Return `moco.info_nce_gpu`, None where torch came without Triton."""
    if importlib.util.find_spec("triton") is None:
        return None
    return importlib.import_module("moco.info_nce_gpu")
