"""Each image's nearest other images, and what they say of a data set: doubles and loners.

Cosines are of whole rows of features. Letters: N images, D features, k neighbours, P pairs.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

import torch
from torch import Tensor

from moco.errors import DataError, UsageError
from moco.evaluation.neighbours import DECIMALS, MEMORY, choose_chunks, nearest_rows

NEIGHBOURS = 8
"""k."""
CHUNK_VALUES = 1 << 22
"""Numbers that are looked at together: 32 MB in float64."""
ROUNDING = 1e-5
"""What a float32 cosine may be off by."""


@dataclass(frozen=True)
class Neighbourhood:
    """The nearest other images of each image, the nearest first."""

    rows: Tensor
    """[N, k] row numbers; of equal cosines the lower one is first."""
    similarities: Tensor
    """[N, k] cosines, float32."""

    def first(self, count: int) -> Neighbourhood:
        """Return the nearest `count` of them."""
        return Neighbourhood(self.rows[:, :count], self.similarities[:, :count])


@dataclass(frozen=True)
class AlikePair:
    """Two images that a network hardly tells apart."""

    first: int
    second: int
    """Row numbers, the lower one first."""
    similarity: float
    """Their cosine, of float64."""


@dataclass(frozen=True)
class AlikeGroup:
    """Images that pairs hold together."""

    rows: tuple[int, ...]
    """Those of the most alike pair first."""
    similarity: float
    """Of the most alike pair."""


def neighbourhood(
    rows: Tensor,
    count: int = NEIGHBOURS,
    *,
    ordered: int = NEIGHBOURS,
    device: torch.device | None = None,
    memory: int = MEMORY,
) -> Neighbourhood:
    """Return each row's `count` nearest other rows by cosine, by the search of kNN.

    Args:
        rows: [N, D]; may be memory-mapped.
        count: neighbours of each, cut to N - 1.
        ordered: so many come in the order of float64; the order of the rest is float32's.
        memory: bytes that the search may take.

    Raises:
        DataError: Fewer than two rows, or rows that are not finite.
        UsageError: `count` is below 1.
    """
    check_rows(rows)
    if count < 1:
        raise UsageError(f"neighbours must be at least 1, got {count}")
    count = min(count, len(rows) - 1)
    chunks = choose_chunks(len(rows), len(rows), rows.shape[1], count, memory=memory)
    cuts = sorted({*range(1, min(ordered, count) + 1), count})
    own = torch.arange(len(rows))
    found = list(nearest_rows(rows, rows, cuts, chunks=chunks, device=device, own=own))
    return Neighbourhood(
        torch.cat([part.rows.cpu() for part in found]),
        torch.cat([part.similarities.cpu() for part in found]),
    )


def near_duplicates(
    rows: Tensor, found: Neighbourhood, *, least_similarity: float
) -> list[AlikePair]:
    """Return the pairs of cosine `least_similarity` or more, the most alike first.

    Pairs are looked for among each image's k nearest: a pair is missed only where both images have
    k others that are no less alike. Equal cosines go to the lower rows.

    Args:
        rows: [N, D], those that `found` is of.
        least_similarity: -1 to 1.

    Raises:
        UsageError: It is outside of that range.
    """
    if not -1 <= least_similarity <= 1:
        raise UsageError(f"a cosine is from -1 to 1, got {least_similarity:g}")
    likely = (found.similarities >= least_similarity - ROUNDING).nonzero()
    ends = torch.stack([likely[:, 0], found.rows[likely[:, 0], likely[:, 1]]], dim=1)
    pairs = torch.unique(ends.sort(dim=1).values, dim=0)  # sorted: so ties are by row
    cosines = _cosines(rows, pairs)
    kept = cosines >= least_similarity
    pairs, cosines = pairs[kept], cosines[kept]
    cosines, order = cosines.sort(descending=True, stable=True)
    return [
        AlikePair(first, second, cosine)
        for (first, second), cosine in zip(pairs[order].tolist(), cosines.tolist(), strict=True)
    ]


def alike_groups(pairs: Iterable[AlikePair]) -> list[AlikeGroup]:
    """Return which images the pairs hold together: 20 equal ones are one group, not 190 pairs.

    Groups come in the order of their most alike pair, as pairs do.
    """
    parent: dict[int, int] = {}
    met_at: dict[int, float] = {}

    def root(row: int) -> int:
        while parent[row] != row:
            parent[row] = row = parent[parent[row]]
        return row

    for pair in pairs:
        for row in (pair.first, pair.second):
            parent.setdefault(row, row)
            met_at.setdefault(row, pair.similarity)
        parent[root(pair.second)] = root(pair.first)
    groups: dict[int, list[int]] = {}
    for row in met_at:  # in the order in which pairs named them
        groups.setdefault(root(row), []).append(row)
    return [AlikeGroup(tuple(rows), met_at[rows[0]]) for rows in groups.values()]


def isolation(found: Neighbourhood) -> Tensor:
    """Return [N] how far from its nearest others each image is: their mean 1 - cosine, float64.

    The mean distance to the k nearest neighbours, as outliers are ranked by Angiulli and Pizzuti
    (PKDD 2002), there as a sum. 0 (k equal images) to 2.
    """
    return (1 - found.similarities.double()).mean(dim=1)


def outliers(found: Neighbourhood, count: int) -> list[tuple[int, float]]:
    """Return the `count` most isolated images: row and `isolation`, the farthest first.

    Equal ones go to the lower row.
    """
    distances, order = isolation(found).sort(descending=True, stable=True)
    return list(zip(order[:count].tolist(), distances[:count].tolist(), strict=True))


def check_rows(rows: Tensor) -> None:
    """Refuse what has no neighbours.

    Raises:
        DataError: Fewer than two rows, or rows that are not finite.
    """
    if rows.ndim != 2 or len(rows) < 2 or not rows.shape[1]:
        raise DataError(f"features of {len(rows)} images; neighbours need two or more images")
    together = max(1, CHUNK_VALUES // rows.shape[1])
    parts = torch.split(rows, together)
    broken = sum(int((~torch.isfinite(part).all(dim=1)).sum()) for part in parts)
    if broken:
        raise DataError(
            f"features of {broken} of {len(rows)} images are not finite; the network has diverged: "
            "look at an earlier checkpoint"
        )


def _cosines(rows: Tensor, pairs: Tensor) -> Tensor:
    """Return [P] the cosines of pairs [P, 2] of rows, in float64, to `DECIMALS`."""
    together = max(1, CHUNK_VALUES // (2 * rows.shape[1]))
    parts = [torch.empty(0, dtype=torch.double)]
    for some in torch.split(pairs, together):
        one, other = rows[some[:, 0]].double(), rows[some[:, 1]].double()
        lengths = one.norm(dim=1) * other.norm(dim=1)
        parts.append((one * other).sum(dim=1) / lengths.clamp(min=1e-300))
    return torch.cat(parts).round(decimals=DECIMALS)
