"""Features as places on a plane: always by PCA, and by t-SNE where openTSNE is installed.

Distances on a plane are not those of the features: neighbours are of `neighbourhood`.
Letters: N images, D features, k neighbours.
"""

from __future__ import annotations

import importlib.util
import warnings
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from moco.errors import UsageError
from moco.evaluation.neighbourhood import CHUNK_VALUES, Neighbourhood, check_rows
from moco.evaluation.neighbours import SHORTEST

AXES = 2
PERPLEXITY = 30
TSNE_NEIGHBOURS = 3 * PERPLEXITY
"""What t-SNE looks at, as its authors' code has it."""
FEWEST_FOR_TSNE = 12
"""Images; of fewer, three neighbours are hardly told from all."""
MOST_BY_ITSELF = 5000
"""Images that it is taken of where nobody asks for it: some 15 seconds."""


@dataclass(frozen=True)
class PrincipalPlane:
    """Where images lie along the directions in which features vary most."""

    places: Tensor
    """[N, 2] float64, of mean 0; the first axis varies no less than the second."""
    shares: tuple[float, float]
    """The share of all variance along each axis, 0 to 1; 0 where nothing varies."""


@torch.no_grad()
def principal_plane(rows: Tensor) -> PrincipalPlane:
    """Return the first two principal components of rows of length 1.

    In float64, a chunk of the rows at a time. Each axis points to where its largest loading is
    positive, so that the same features give the same plane.

    Args:
        rows: [N, D]; may be memory-mapped. min(N, D) squared float64 numbers are held.

    Raises:
        DataError: Fewer than two rows, or rows that are not finite.
    """
    check_rows(rows)
    parts = torch.split(rows, max(1, CHUNK_VALUES // rows.shape[1]))
    mean = torch.stack([_normalized(part).sum(dim=0) for part in parts]).sum(dim=0) / len(rows)
    if rows.shape[1] <= len(rows):
        scatter = torch.zeros(rows.shape[1], rows.shape[1], dtype=torch.double)
        for part in parts:
            centred = _normalized(part) - mean
            scatter.addmm_(centred.T, centred)
        variances, directions = torch.linalg.eigh(scatter)
        axes = directions.flip(1)[:, :AXES]
    else:
        centred = _normalized(rows) - mean
        variances, directions = torch.linalg.eigh(centred @ centred.T)
        axes = torch.nn.functional.normalize(centred.T @ directions.flip(1)[:, :AXES], dim=0)
    axes = _signed(axes)
    places = torch.cat([(_normalized(part) - mean) @ axes for part in parts])
    total = float(variances.clamp(min=0).sum())
    largest = [float(value) for value in variances.flip(0)[:AXES].clamp(min=0)]
    first, second = (value / total if total > 0 else 0.0 for value in [*largest, 0.0][:AXES])
    if places.shape[1] < AXES:  # features of one number vary along one axis
        places = torch.cat([places, torch.zeros_like(places)], dim=1)
    return PrincipalPlane(places, (first, second))


def has_tsne() -> bool:
    """Return whether openTSNE is installed."""
    return importlib.util.find_spec("openTSNE") is not None


def check_tsne() -> None:
    """Refuse t-SNE where it cannot be had.

    Raises:
        UsageError: openTSNE is not installed.
    """
    if not has_tsne():
        raise UsageError(
            "t-SNE is by openTSNE, which is not installed; pip install 'moco-torch[tsne]', or take "
            "PCA"
        )


def tsne_places(plane: PrincipalPlane, found: Neighbourhood, *, seed: int = 0) -> Tensor:
    """Return [N, 2] float64 where t-SNE lays the images, begun from the principal plane.

    From the neighbours that are known: nothing is searched again. The distance is 1 - cosine,
    perplexity 30, or a third of the neighbours where there are fewer; one thread, so that a seed
    gives the same places.

    Args:
        found: `TSNE_NEIGHBOURS` of each image, or N - 1.

    Raises:
        UsageError: openTSNE is not installed.
    """
    check_tsne()
    from openTSNE import TSNEEmbedding
    from openTSNE.affinity import PerplexityBasedNN
    from openTSNE.nearest_neighbors import PrecomputedNeighbors

    distances = (1 - found.similarities.double()).clamp(min=0)
    index = PrecomputedNeighbors(found.rows.numpy(), distances.numpy())
    with warnings.catch_warnings():  # of its own parts, and of fewer neighbours than it likes
        warnings.simplefilter("ignore")
        affinities = PerplexityBasedNN(
            perplexity=min(PERPLEXITY, found.rows.shape[1] / 3), knn_index=index, n_jobs=1
        )
        scale = plane.places[:, 0].std().clamp(min=SHORTEST)
        places = TSNEEmbedding(
            (plane.places / scale * 1e-4).numpy(), affinities, n_jobs=1, random_state=seed
        )
        places = places.optimize(n_iter=250, exaggeration=12, momentum=0.5)
        places = places.optimize(n_iter=500, momentum=0.8)
    return torch.from_numpy(np.array(places, np.float64))


def _normalized(rows: Tensor) -> Tensor:
    return torch.nn.functional.normalize(rows.double(), dim=1, eps=SHORTEST)


def _signed(axes: Tensor) -> Tensor:
    """Return axes [D, 2] turned so that the first of their largest loadings is positive."""
    largest = axes.abs().argmax(dim=0)
    signs = axes.gather(0, largest[None]).sign()
    return torch.where(signs == 0, 1, signs) * axes
