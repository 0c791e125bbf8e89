"""Features as every kind of file holds them, and as evaluation takes them.

Letters: N images, D features, Y classes.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from moco.data.sources.base import class_names
from moco.errors import DataError
from moco.evaluation.feature_set import FeatureSet

CHUNK_BYTES = 32 << 20
"""Of rows that are written or converted at a time."""
FLOATS = ("float32", "float16")


@dataclass(frozen=True)
class StoredFeatures:
    """Arrays and words, nothing of torch."""

    features: NDArray[Any]
    """[N, D] float32 or float16; may be memory-mapped."""
    labels: NDArray[Any] | None
    """[N] int64 class numbers, [N, Y] bool, or [N] float64; None for images without labels."""
    paths: Sequence[str]
    """What a person calls each image; none where nobody knows."""
    classes: Sequence[str]
    encoder: str = ""

    def chunks(self) -> Iterator[NDArray[Any]]:
        """Yield the features from the first row to the last, few at a time."""
        rows = max(1, CHUNK_BYTES // max(1, self.features.shape[1] * self.features.itemsize))
        for first in range(0, len(self.features), rows):
            yield np.ascontiguousarray(self.features[first : first + rows])


def to_stored(features: FeatureSet) -> StoredFeatures:
    """Return what a file is to hold."""
    rows = features.rows.detach().cpu()
    kept = rows if rows.dtype in (torch.float32, torch.float16) else rows.float()
    return StoredFeatures(
        kept.numpy(),
        features.labels.cpu().numpy() if len(features.labels) else None,
        features.paths,
        features.classes,
        features.encoder,
    )


def from_stored(stored: StoredFeatures, path: Path) -> FeatureSet:
    """Return what a file holds, once it makes sense.

    Raises:
        DataError: It does not, and why.
    """
    rows = stored.features
    if rows.ndim != 2 or rows.dtype.name not in FLOATS or not rows.size:
        raise DataError(
            f"{path} holds features of {rows.dtype} {list(rows.shape)}; rows of float32, one an "
            "image, are read: store them so, or embed the images again"
        )
    if len(stored.paths) not in (0, len(rows)):
        raise DataError(f"{path} has {len(rows)} rows and {len(stored.paths)} paths; embed again")
    if len(set(stored.classes)) < len(stored.classes):
        raise DataError(f"{path} has a class twice; give each its own name")
    labels, classes = _labels(stored, path)
    return FeatureSet(
        torch.from_numpy(rows),
        labels,
        classes,
        paths=tuple(stored.paths),
        encoder=stored.encoder,
        title=str(path),
    )


def _labels(stored: StoredFeatures, path: Path) -> tuple[torch.Tensor, tuple[str, ...]]:
    labels, classes, count = stored.labels, tuple(stored.classes), len(stored.features)
    if labels is None:
        return torch.empty(0, dtype=torch.long), classes
    if labels.shape == (count, 1) and labels.dtype.kind != "b":
        labels = labels[:, 0]
    found = None
    if labels.shape == (count,):
        found = _one_each(labels, classes)
    elif labels.ndim == 2 and len(labels) == count and labels.dtype.kind == "b":
        names = classes or tuple(str(number) for number in range(labels.shape[1]))
        if 0 < len(names) == labels.shape[1]:
            found = torch.from_numpy(labels), names
    if found is None:
        raise DataError(
            f"{path} holds labels of {labels.dtype} {list(labels.shape)} for {count} rows and "
            f"{len(classes)} classes; give a class, a row of booleans or a number for each row"
        )
    return found


def _one_each(
    labels: NDArray[Any], classes: tuple[str, ...]
) -> tuple[torch.Tensor, tuple[str, ...]] | None:
    """Return [N] labels as evaluation takes them, None for a type that says nothing."""
    match labels.dtype.kind:
        case "U":
            return _named([str(name) for name in labels])
        case "S":
            return _named([name.decode("utf-8", "replace") for name in labels.tolist()])
        case "f":
            return torch.from_numpy(labels.astype(np.float64)), ()
        case "i" | "u" if classes:
            return torch.from_numpy(labels.astype(np.int64)), classes
        case "i" | "u" | "b":
            return _named(class_names(labels, []))
    return None


def _named(names: Sequence[str]) -> tuple[torch.Tensor, tuple[str, ...]]:
    classes = tuple(sorted(set(names)))
    numbers = {name: number for number, name in enumerate(classes)}
    return torch.tensor([numbers[name] for name in names]), classes
