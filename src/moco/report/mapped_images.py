"""What a map of images shows: where a network puts each, what lies nearest, doubles and loners.

Letters: N images, k neighbours.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

from moco.data.images import Images, StoredImages, SubsetImages, spread
from moco.errors import DataError
from moco.evaluation.embedding_map import (
    FEWEST_FOR_TSNE,
    MOST_BY_ITSELF,
    TSNE_NEIGHBOURS,
    PrincipalPlane,
    check_tsne,
    has_tsne,
    principal_plane,
    tsne_places,
)
from moco.evaluation.features import Features
from moco.evaluation.neighbourhood import (
    NEIGHBOURS,
    AlikeGroup,
    Neighbourhood,
    alike_groups,
    near_duplicates,
    neighbourhood,
    outliers,
)

Kind = Literal["auto", "pca", "tsne"]
FEWEST = 3
"""Images that a plane can be of."""
LONERS = 12
CLOSE = 0.25
"""Of the usual distance to the nearest other image: nearer ones are held to be near-duplicates."""
FeaturesOf = Callable[[Images, str], Features]
"""A network's features: of these images, and "trained" or "untrained" for which network."""


@dataclass(frozen=True)
class MappedImages:
    """Some images of a source as a network sees them; row n is of image n of `images`."""

    images: Images
    """[N] those that could be read."""
    total: int
    """Images in the source."""
    unreadable: int
    """Of those that were to be shown."""
    labels: Sequence[str]
    """[N] what the source says of each, empty without labels."""
    network: str
    """Whose features these are."""
    plane: PrincipalPlane
    tsne: Tensor | None
    """[N, 2], None where it was not asked for."""
    trained: Neighbourhood
    """[N, k]"""
    untrained: Neighbourhood
    """[N, k] of the network before any training."""
    least_similarity: float
    """The cosine from which on two images are near-duplicates."""
    duplicates: Sequence[AlikeGroup]
    loners: Sequence[tuple[int, float]]
    """Rows of the most isolated images and how far they are from their neighbours."""

    def same_class(self, found: Neighbourhood) -> float | None:
        """Return the share of neighbours that have their image's label, None without labels."""
        if not self.labels:
            return None
        numbers = {label: number for number, label in enumerate(dict.fromkeys(self.labels))}
        of = torch.tensor([numbers[label] for label in self.labels])
        return float((of[found.rows] == of[:, None]).double().mean())


def map_images(
    source: StoredImages,
    features_of: FeaturesOf,
    *,
    network: str,
    most_images: int,
    kind: Kind = "auto",
    least_similarity: float | None = None,
) -> MappedImages:
    """Return the map of at most `most_images` images that are spread over the source.

    Args:
        kind: tsne lays them out by t-SNE besides PCA; auto does where openTSNE is installed and
            there are at most `MOST_BY_ITSELF`.
        least_similarity: of near-duplicates; None for `usual_closeness`.

    Raises:
        UsageError: t-SNE is asked for and openTSNE is not installed.
        DataError: Fewer than three images can be read, or features are not finite.
    """
    if kind == "tsne":
        check_tsne()
    asked = spread(len(source), most_images)
    found = features_of(SubsetImages(source, asked), "trained")
    if len(found.rows) < FEWEST:
        raise DataError(f"{len(found.rows)} images can be read; a map needs three or more")
    ids = [asked[place] for place in found.image_ids.tolist()]
    images = SubsetImages(source, ids)
    labels = source.labels()
    with_tsne = kind == "tsne" or (kind == "auto" and has_tsne() and len(ids) <= MOST_BY_ITSELF)
    with_tsne = with_tsne and len(ids) >= FEWEST_FOR_TSNE
    nearest = neighbourhood(found.rows, TSNE_NEIGHBOURS if with_tsne else NEIGHBOURS)
    plane, first = principal_plane(found.rows), nearest.first(NEIGHBOURS)
    before = features_of(images, "untrained")
    if len(before.rows) < len(ids):
        raise DataError("images went away while the map was made; leave them in place")
    least = usual_closeness(first) if least_similarity is None else least_similarity
    return MappedImages(
        images=images,
        total=len(source),
        unreadable=len(asked) - len(ids),
        labels=[] if labels is None else [labels[image_id] for image_id in ids],
        network=network,
        plane=plane,
        tsne=tsne_places(plane, nearest) if with_tsne else None,
        trained=first,
        untrained=neighbourhood(before.rows),
        least_similarity=least,
        duplicates=alike_groups(near_duplicates(found.rows, first, least_similarity=least)),
        loners=outliers(first, min(LONERS, len(ids))),
    )


def usual_closeness(found: Neighbourhood) -> float:
    """Return the cosine from which on images are far closer than images of this source are.

    `CLOSE` of the median distance 1 - cosine to the nearest other image: networks put all images
    into a cone that is wide for one and narrow for another, so that no cosine suits all.
    """
    usual = float((1 - found.similarities[:, 0].double()).median())
    return 1 - CLOSE * max(0.0, usual)
