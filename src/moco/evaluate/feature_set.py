"""Features with what is known of their images: what every evaluation starts from.

Letters: N images, D features, Y classes.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from moco.errors import DataError

MOST_NAMED = 5


@dataclass(frozen=True)
class FeatureSet:
    """One network's features of some images, and the images' labels."""

    rows: Tensor
    """[N, D] float32 on the CPU."""
    labels: Tensor
    """[N] class numbers, whole numbers from 0."""
    classes: tuple[str, ...]
    """The name of each class number; classes may have no image."""
    paths: tuple[str, ...] = ()
    """What a person calls each image; none where nobody knows."""
    encoder: str = ""
    """Which weights, layer and views made the rows; empty where nobody knows."""
    title: str = "features"
    """What a person calls the set: its file or source."""

    def __len__(self) -> int:
        return len(self.rows)


def check_pair(train: FeatureSet, test: FeatureSet) -> None:
    """Refuse two sets from which no score follows.

    Raises:
        DataError: Rows that are not finite or of other lengths, of another encoder, other or too
            few classes, or a class without a train or test image.
    """
    for features in (train, test):
        _check_rows(features)
    if train.rows.shape[1] != test.rows.shape[1]:
        raise DataError(
            f"{train.title} has {train.rows.shape[1]} features an image and {test.title} "
            f"{test.rows.shape[1]}; take both from the same model and layer"
        )
    if train.encoder and test.encoder and train.encoder != test.encoder:
        raise DataError(
            f"{train.title} and {test.title} are of different models, layers or views "
            f"({train.encoder} and {test.encoder}); embed both with the same model"
        )
    if train.classes != test.classes:
        only = sorted(set(train.classes) ^ set(test.classes))
        raise DataError(
            f"{train.title} and {test.title} have different classes: "
            f"{', '.join(only[:MOST_NAMED]) or 'in another order'}; give both the same"
        )
    if len(train.classes) < 2:
        raise DataError(f"{train.title} has one class only; evaluation needs two or more")
    for features in (train, test):
        _check_classes(features)


def _check_rows(features: FeatureSet) -> None:
    rows, labels = features.rows, features.labels
    if rows.ndim != 2 or not len(rows) or not rows.shape[1]:
        raise DataError(f"{features.title} holds no rows of features; embed the images again")
    if labels.shape != (len(rows),):
        raise DataError(
            f"{features.title} has {len(rows)} rows and labels {list(labels.shape)}; "
            "give one label for each row"
        )
    broken = (~torch.isfinite(rows).all(dim=1)).nonzero().flatten().tolist()
    if broken:
        named = [features.paths[row] if features.paths else f"row {row}" for row in broken]
        raise DataError(
            f"{len(broken)} of {len(rows)} rows of {features.title} are not finite: "
            f"{', '.join(named[:MOST_NAMED])}; embed those images again, or with another model"
        )


def _check_classes(features: FeatureSet) -> None:
    labels, classes = features.labels, features.classes
    if int(labels.min()) < 0 or int(labels.max()) >= len(classes):
        raise DataError(
            f"labels of {features.title} are {int(labels.min())} to {int(labels.max())}, expected "
            f"0 to {len(classes) - 1}"
        )
    counts = labels.bincount(minlength=len(classes)).tolist()
    empty = [name for name, count in zip(classes, counts, strict=True) if not count]
    if empty:
        raise DataError(
            f"{features.title} has no image of class {', '.join(empty[:MOST_NAMED])}; add some or "
            "leave the class out of both"
        )
