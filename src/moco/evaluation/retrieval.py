"""Retrieval: are the gallery's images nearest to a query of its class?

Letters: G gallery images, Q queries, D features.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from moco.errors import DataError
from moco.evaluation.feature_set import FeatureSet, check_pair, task_of
from moco.evaluation.neighbours import CHUNK_ROWS, DECIMALS, MEMORY, TILE_ROWS

DEPTHS = (1, 5, 10, 20, 100)
PAIR_BYTES = 64
"""What a query and a gallery image take while they are ranked."""


@dataclass(frozen=True)
class RetrievalResult:
    """How well a gallery's images are found by queries of their class."""

    depths: tuple[int, ...]
    recall: tuple[float, ...]
    """Share of queries with a relevant image among the first so many (recall at k, as metric
    learning has it)."""
    mean_average_precision: float
    """Over all relevant images of the gallery, mean over queries; equal cosines are one step."""
    average_precisions: Tensor
    """[Q] float64, NaN for a query that has nothing relevant."""
    queries: int
    """Queries that have something relevant: all figures are of these."""
    without_relevant: int
    """Queries with no (other) image of their class in the gallery; they do not count."""
    gallery: int


@torch.no_grad()
def retrieval(
    gallery: FeatureSet,
    queries: FeatureSet | None = None,
    *,
    one_source: bool = False,
    depths: Sequence[int] = DEPTHS,
    device: torch.device | None = None,
    memory: int = MEMORY,
) -> RetrievalResult:
    """Return how well queries find images of their own class in the gallery, by cosine in float64.

    Without queries each gallery image asks for the others. With several classes an image, one that
    shares any class is relevant. Of equal cosines the lower gallery row is found first.

    Args:
        one_source: queries are images of the gallery: the one that has a query's path is left out
            of what that query finds.
        depths: how many images are looked at; each is cut to those there are.
        memory: bytes, which decide how many queries are ranked together; at least one is, for which
            a gallery of a million takes 64 MB. The gallery is read once for each such tile.

    Raises:
        ValueError: A depth below 1.
        DataError: The sets do not go together, labels are numbers, or no query has anything to
            find.
    """
    asked = queries or gallery
    check_pair(gallery, asked)
    if task_of(gallery) == "number":
        raise DataError(f"{gallery.title} has numbers for labels; retrieval needs classes")
    if not depths or min(depths) < 1:
        raise ValueError(f"depths must be from 1, got {list(depths)}")
    own = torch.full((len(asked),), -1)
    if queries is None or one_source:
        own = own_rows(gallery, queries)
    tile = max(1, min(TILE_ROWS, memory // (PAIR_BYTES * len(gallery))))
    firsts, precisions = [], []
    for numbers in torch.arange(len(asked)).split(tile):  # type: ignore[no-untyped-call]
        cosines = _cosines(gallery.rows, asked.rows[numbers], device or torch.device("cpu"))
        relevant = _share_a_class(asked.labels[numbers], gallery.labels)
        known = (own[numbers] >= 0).nonzero().flatten()
        cosines[known, own[numbers][known]] = -torch.inf
        relevant[known, own[numbers][known]] = False
        first, precision = ranked(cosines, relevant)
        firsts.append(first)
        precisions.append(precision)
    first, precision = torch.cat(firsts), torch.cat(precisions)
    counted = ~precision.isnan()
    if not bool(counted.any()):
        raise DataError(
            f"no image of {asked.title} has another of its class in {gallery.title}; give more"
        )
    others = len(gallery) - int(bool((own >= 0).any()))
    cuts = tuple(sorted({min(depth, others) for depth in depths}))
    return RetrievalResult(
        depths=cuts,
        recall=tuple(float((first[counted] < cut).double().mean()) for cut in cuts),
        mean_average_precision=float(precision[counted].mean()),
        average_precisions=precision,
        queries=int(counted.sum()),
        without_relevant=int((~counted).sum()),
        gallery=len(gallery),
    )


def own_rows(gallery: FeatureSet, queries: FeatureSet | None) -> Tensor:
    """Return [Q] each query's own row of the gallery, found by its path.

    Raises:
        DataError: A query is none of the gallery's images, or nobody knows the paths.
    """
    if queries is None or queries is gallery:
        return torch.arange(len(gallery))
    numbers = {path: row for row, path in enumerate(gallery.paths)}
    strange = [path for path in queries.paths if path not in numbers]
    if strange or not queries.paths:
        raise DataError(
            f"{(strange or [queries.title])[0]} is not among the images of {gallery.title}; give "
            "both as two sources"
        )
    return torch.tensor([numbers[path] for path in queries.paths])


def ranked(cosines: Tensor, relevant: Tensor) -> tuple[Tensor, Tensor]:
    """Return each query's place of the first relevant image, from 0, and its average precision.

    Takes cosines and relevance [Q, G]; with nothing relevant the place is G and the precision NaN.
    AP is the sum over thresholds of (recall gained) x precision; equal cosines are one threshold.
    """
    cosines, order = cosines.sort(dim=1, descending=True, stable=True)
    relevant = relevant.gather(1, order)
    hits = relevant.cumsum(dim=1)
    total = hits[:, -1]
    last = torch.ones_like(relevant)
    last[:, :-1] = cosines[:, :-1] != cosines[:, 1:]
    reached = (hits * last).cummax(dim=1).values
    gained = reached.diff(dim=1, prepend=reached.new_zeros(len(reached), 1))
    places = torch.arange(1, cosines.shape[1] + 1, dtype=torch.double)
    summed = (gained * hits / places).sum(dim=1)  # nothing is gained within equal cosines
    return (hits == 0).sum(dim=1), summed / total  # 0 / 0 is NaN


def _cosines(gallery: Tensor, asked: Tensor, device: torch.device) -> Tensor:
    """Return [Q, G] in float64 to `DECIMALS`, the gallery read a chunk at a time."""
    queries = F.normalize(asked.to(device).double(), dim=1)
    parts = torch.cat(
        [
            (queries @ F.normalize(rows.to(device).double(), dim=1).T).cpu()
            for rows in torch.split(gallery, CHUNK_ROWS)
        ],
        dim=1,
    )
    return parts.round(decimals=DECIMALS)


def _share_a_class(labels: Tensor, others: Tensor) -> Tensor:
    """Return [Q, G] whether query and gallery image share a class."""
    if labels.ndim == 1:
        return labels[:, None] == others[None]
    return (labels.float() @ others.float().T) > 0
