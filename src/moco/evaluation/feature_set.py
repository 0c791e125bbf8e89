"""Features with what is known of their images: what every evaluation starts from.

Letters: N images, D features, Y classes.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

from moco.errors import DataError

MOST_NAMED = 5
CHECKED_NUMBERS = 1 << 20
"""Looked at together: some 8 MB, however wide the rows."""

Task = Literal["one_class", "several_classes", "number"]


@dataclass(frozen=True)
class FeatureSet:
    """One network's features of some images, and the images' labels."""

    rows: Tensor
    """[N, D] float32 (or float16) on the CPU; may be memory-mapped, so look at few at a time."""
    labels: Tensor
    """[N] class numbers, whole numbers from 0; or bool [N, Y], each image's several classes; or
    float [N], a number for each image. Of length 0 where there are none: no score follows."""
    classes: tuple[str, ...]
    """The name of each class number; classes may have no image. Empty where labels are numbers."""
    paths: tuple[str, ...] = ()
    """What a person calls each image; none where nobody knows."""
    encoder: str = ""
    """Which weights, layer and views made the rows; empty where nobody knows."""
    title: str = "features"
    """What a person calls the set: its file or source."""

    def __len__(self) -> int:
        return len(self.rows)


def task_of(features: FeatureSet) -> Task:
    """Return what is asked of the images: one class each, several classes, or a number."""
    if features.labels.is_floating_point():
        return "number"
    return "several_classes" if features.labels.ndim == 2 else "one_class"


def check_pair(train: FeatureSet, test: FeatureSet) -> None:
    """Refuse two sets from which no score follows.

    Raises:
        DataError: Rows that are not finite or of other lengths, of another encoder, other or too
            few classes, a class without a train or test image, or numbers that are all equal.
    """
    for features in (train, test):
        _check_rows(features)
    _check_encoders(train, test)
    _check_labels(train, test)


def _check_encoders(train: FeatureSet, test: FeatureSet) -> None:
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


def _check_labels(train: FeatureSet, test: FeatureSet) -> None:
    if task_of(train) != task_of(test):
        raise DataError(
            f"{train.title} has labels {_said(train)} and {test.title} {_said(test)}; "
            "give both the same kind"
        )
    if train.classes != test.classes:
        only = sorted(set(train.classes) ^ set(test.classes))
        raise DataError(
            f"{train.title} and {test.title} have different classes: "
            f"{', '.join(only[:MOST_NAMED]) or 'in another order'}; give both the same"
        )
    if task_of(train) == "number":
        for features in (train, test):
            _check_numbers(features)
        return
    if len(train.classes) < 2 and task_of(train) == "one_class":
        raise DataError(f"{train.title} has one class only; evaluation needs two or more")
    for features in (train, test):
        _check_classes(features)


def _check_rows(features: FeatureSet) -> None:
    rows, labels = features.rows, features.labels
    if rows.ndim != 2 or not len(rows) or not rows.shape[1]:
        raise DataError(f"{features.title} holds no rows of features; embed the images again")
    if not len(labels):
        raise DataError(
            f"{features.title} has no labels; evaluation needs them beside the images "
            "(docs/sources.md)"
        )
    several = labels.dtype == torch.bool and labels.shape == (len(rows), len(features.classes))
    if labels.shape != (len(rows),) and not several:
        raise DataError(
            f"{features.title} has {len(rows)} rows and labels {list(labels.shape)}; "
            "give one label for each row"
        )
    together = max(1, CHECKED_NUMBERS // rows.shape[1])
    broken = [
        row
        for first in range(0, len(rows), together)
        for row in _broken(rows[first : first + together], first)
    ]
    if broken:
        named = [features.paths[row] if features.paths else f"row {row}" for row in broken]
        raise DataError(
            f"{len(broken)} of {len(rows)} rows of {features.title} are not finite: "
            f"{', '.join(named[:MOST_NAMED])}; embed those images again, or with another model"
        )


def _broken(rows: Tensor, first: int) -> list[int]:
    broken: list[int] = (~torch.isfinite(rows).all(dim=1)).nonzero().flatten().tolist()
    return [first + row for row in broken]


def _said(features: FeatureSet) -> str:
    said = {"one_class": "of one class", "several_classes": "of several classes"}
    return said.get(task_of(features), "that are numbers")


def _check_numbers(features: FeatureSet) -> None:
    labels = features.labels
    if not bool(torch.isfinite(labels).all()):
        raise DataError(f"labels of {features.title} are not all finite; leave those images out")
    if float(labels.min()) == float(labels.max()):
        raise DataError(
            f"labels of {features.title} are all {float(labels[0]):g}; evaluation needs numbers "
            "that differ"
        )


def _check_classes(features: FeatureSet) -> None:
    labels, classes = features.labels, features.classes
    several = task_of(features) == "several_classes"
    if not several and (int(labels.min()) < 0 or int(labels.max()) >= len(classes)):
        raise DataError(
            f"labels of {features.title} are {int(labels.min())} to {int(labels.max())}, expected "
            f"0 to {len(classes) - 1}"
        )
    counts = (labels.sum(dim=0) if several else labels.bincount(minlength=len(classes))).tolist()
    empty = [name for name, count in zip(classes, counts, strict=True) if not count]
    if empty:
        raise DataError(
            f"{features.title} has no image of class {', '.join(empty[:MOST_NAMED])}; add some or "
            "leave the class out of both"
        )
