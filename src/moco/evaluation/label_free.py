"""Measures of features that need no labels, to watch a run and to choose among checkpoints.

How many directions features fill, how they spread, and whether two views of an image agree. None is
an accuracy: docs/label_free.md has how well each tracked one.
Letters: N images, D features, k neighbours.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor

from moco.errors import DataError, UsageError

CHUNK_VALUES = 2**23
"""Of a table of N x N similarities, how many are held at a time: 64 MB."""
SAME = 1e-9
"""Cosines no further apart are ties: float32 features tell them apart no more finely, and where a
network has collapsed only rounding would choose the neighbours."""


@dataclass(frozen=True)
class Measure:
    """How a measure is read."""

    title: str
    better: Literal["higher", "lower"]
    """Which of two checkpoints it would choose."""
    limits: str
    """The least and the most it can be."""


MEASURES = {
    "effective_rank": Measure("effective rank", "higher", "1 to min(N, D)"),
    "feature_deviation": Measure("feature deviation", "higher", "0 to 1"),
    "uniformity": Measure("uniformity", "lower", "-8 to 0"),
    "alignment": Measure("alignment", "lower", "0 to 4"),
    "neighbour_consistency": Measure("neighbour consistency", "higher", "0 to 1"),
    "view_match": Measure("view match", "higher", "0 to 1"),
}
"""By the fields of `LabelFreeResult`."""


@dataclass(frozen=True)
class LabelFreeResult:
    """Measures of one network's features; the last three need two views of each image."""

    images: int
    features: int
    neighbours: int
    effective_rank: float
    feature_deviation: float
    uniformity: float
    alignment: float | None = None
    neighbour_consistency: float | None = None
    view_match: float | None = None


def label_free(
    features: Tensor, views: tuple[Tensor, Tensor] | None = None, *, neighbours: int = 10
) -> LabelFreeResult:
    """Return what features [N, D] show without labels.

    Args:
        features: a row for each image, as evaluation sees it.
        views: features of two random views of the same images, in the same order.
        neighbours: k, compared between the two views.

    Raises:
        DataError: Fewer than two rows, values that are not finite, or views of other images.
        UsageError: `neighbours` is not from 1 to N - 2.
    """
    images, width = _checked(features).shape
    plain = (effective_rank(features), feature_deviation(features), uniformity(features))
    if views is None:
        return LabelFreeResult(images, width, neighbours, *plain)
    if len(views[0]) != images:
        raise DataError(f"{images} rows of features and views of {len(views[0])} images")
    return LabelFreeResult(
        images,
        width,
        neighbours,
        *plain,
        alignment=alignment(*views),
        neighbour_consistency=neighbour_consistency(*views, neighbours=neighbours),
        view_match=view_match(*views),
    )


def effective_rank(features: Tensor) -> float:
    """Return how many directions the rows [N, D] fill, 1 to min(N, D); 0 where all rows are 0.

    exp(-sum p ln p) with p the singular values over their sum (Roy and Vetterli, EUSIPCO 2007); on
    features as they are, neither centred nor normalized, it is RankMe (Garrido et al.,
    arXiv:2210.02885, which adds 1e-7 to p). Low values mean that dimensions have collapsed. More
    images can only give more: compare on the same ones.
    """
    values = torch.linalg.svdvals(_checked(features, least=1))
    if not float(values[0]) > 0:
        return 0.0
    shares = values / values.sum()
    return float(torch.special.entr(shares).sum().exp())


def feature_deviation(features: Tensor) -> float:
    """Return how far normalized rows [N, D] spread, 0 (all alike) to 1 (evenly in all directions).

    The standard deviation over images of each feature of rows of length 1, their mean, times
    sqrt(D) (SimSiam, arXiv:2011.10566, section 4.1, which has 1 / sqrt(D) for Gaussian rows). It
    depends on the axes: not the same after a rotation. Non-negative features do not reach 1.
    """
    rows = _normalized(features)
    return float(rows.std(dim=0, correction=0).mean()) * math.sqrt(rows.shape[1])


def uniformity(features: Tensor, *, t: float = 2.0) -> float:
    """Return how evenly normalized rows [N, D] lie on the sphere, -4t (best) to 0 (all alike).

    ln of the mean of exp(-t |x - y|^2) over pairs of different rows (Wang and Isola,
    arXiv:2005.10242, section 4.1).
    """
    rows = _normalized(features)
    squares = rows.square().sum(dim=1)  # 1, or 0 of a row that is 0
    total = 0.0
    for part in _chunks(len(rows)):
        distances = squares[part, None] + squares - 2 * (rows[part] @ rows.T)
        likeness = (-t * distances.clamp(min=0)).exp()
        total += float(likeness.sum() - likeness.diagonal(part.start).sum())
    return math.log(total / (len(rows) * (len(rows) - 1)))


def alignment(view_a: Tensor, view_b: Tensor, *, alpha: float = 2.0) -> float:
    """Return how far two views of an image lie apart, 0 (best) to 2^alpha; 2 where unrelated.

    The mean of |x - y|^alpha over images, rows [N, D] normalized (Wang and Isola, arXiv:2005.10242,
    section 4.1). A collapsed network has 0: it says nothing without uniformity.
    """
    _check_alike(view_a, view_b)
    apart = (_normalized(view_a) - _normalized(view_b)).square().sum(dim=1).sqrt()
    return float(apart.pow(alpha).mean())


def neighbour_consistency(view_a: Tensor, view_b: Tensor, *, neighbours: int = 10) -> float:
    """Return which share of an image's k nearest images stay so when seen in another view.

    The mean over images of |A and B| / k: A are the k nearest other rows of view_a [N, D] by cosine
    to the image's own row of it, B the same in view_b: the mutual neighbours of Huh et al.
    (arXiv:2405.07987), there between two networks. 0 to 1; unrelated or collapsed
    features have k / (N - 1), as ties share their places.

    Raises:
        UsageError: `neighbours` is not from 1 to N - 2, where every choice would be the same.
    """
    _check_alike(view_a, view_b)
    if not 1 <= neighbours <= len(view_a) - 2:
        raise UsageError(
            f"neighbours must be from 1 to {len(view_a) - 2} with {len(view_a)} images, got "
            f"{neighbours}; fewer neighbours or more images"
        )
    rows_a, rows_b = _normalized(view_a), _normalized(view_b)
    shared = 0.0
    for part in _chunks(len(rows_a)):
        near_a, near_b = (_nearness(rows, part, neighbours) for rows in (rows_a, rows_b))
        shared += float((near_a * near_b).sum())
    return shared / (neighbours * len(rows_a))


def view_match(view_a: Tensor, view_b: Tensor) -> float:
    """Return how often the row of view_a nearest to an image's row of view_b is the same image's.

    0 to 1; 1 / N where rows are unrelated or all alike, as ties share. It is the task of
    pre-training with N - 1 negatives (MoCo v1, arXiv:1911.05722, section 3.1), so it says more of
    the task than of classes.
    """
    _check_alike(view_a, view_b)
    rows_a, rows_b = _normalized(view_a), _normalized(view_b)
    matched = 0.0
    for part in _chunks(len(rows_a)):
        cosines = rows_b[part] @ rows_a.T
        own = cosines.diagonal(part.start)[:, None]
        nearer, alike = cosines > own + SAME, (cosines - own).abs() <= SAME
        first = (~nearer.any(dim=1)).double()
        matched += float((first / alike.sum(dim=1)).sum())
    return matched / len(rows_a)


def chosen(results: Sequence[LabelFreeResult]) -> dict[str, int]:
    """Return which of the results each measure would choose, the first of equal ones.

    A measure that one of them lacks chooses none.
    """
    picked = {}
    for name, measure in MEASURES.items():
        values = [getattr(result, name) for result in results]
        if not values or None in values:
            continue
        best = max(values) if measure.better == "higher" else min(values)
        picked[name] = values.index(best)
    return picked


def _nearness(rows: Tensor, part: slice, neighbours: int) -> Tensor:
    """Return [n, N]: 1 for the k nearest other rows of each, shares where ties are cut."""
    cosines = rows[part] @ rows.T
    cosines.diagonal(part.start).fill_(-math.inf)
    last = cosines.topk(neighbours, dim=1).values[:, -1:]
    nearer, alike = cosines > last + SAME, (cosines - last).abs() <= SAME
    left = neighbours - nearer.double().sum(dim=1, keepdim=True)
    return nearer + alike * (left / alike.sum(dim=1, keepdim=True))


def _chunks(total: int) -> Iterator[slice]:
    size = max(1, CHUNK_VALUES // total)
    return (slice(first, min(first + size, total)) for first in range(0, total, size))


def _normalized(features: Tensor) -> Tensor:
    """Return rows of length 1 in float64; a row of zeros stays so."""
    return F.normalize(_checked(features), dim=1, eps=1e-300)


def _checked(features: Tensor, *, least: int = 2) -> Tensor:
    """Return the rows in float64.

    Raises:
        DataError: They say nothing.
    """
    if features.ndim != 2 or not features.shape[1]:
        raise DataError(f"features must be [N, D] rows, got {list(features.shape)}")
    if len(features) < least:
        raise DataError(
            f"{len(features)} image is too few: rows are compared with others; give two or more"
        )
    finite = torch.isfinite(features).all(dim=1)
    if not bool(finite.all()):
        raise DataError(
            f"features of {int((~finite).sum())} of {len(features)} images are not finite, first "
            f"row {int((~finite).nonzero()[0])}; embed those images again, or with another model"
        )
    return features.double()


def _check_alike(view_a: Tensor, view_b: Tensor) -> None:
    if view_a.shape != view_b.shape:
        raise DataError(
            f"the two views have shapes {list(view_a.shape)} and {list(view_b.shape)}; take both "
            "from the same images and model"
        )
