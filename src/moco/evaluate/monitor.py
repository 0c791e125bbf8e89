"""A kNN test as training goes on, on labelled images that training does not see labels of."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path

import torch

from moco.encoders import Encoder
from moco.errors import UsageError
from moco.evaluate.features import extract_features
from moco.evaluate.knn import knn_class_scores
from moco.evaluate.labelled import matching_folders
from moco.evaluate.scores import score_votes
from moco.specs import ViewsSpec


def knn_monitor(
    train: str | Path | None, test: str | Path | None, views: ViewsSpec, device: torch.device
) -> Callable[[Encoder], Mapping[str, float]] | None:
    """Return a function from an encoder to `knn_top1` of its backbone, None without folders.

    Raises:
        UsageError: One folder without the other.
        DataError: Not folders of the same classes.
    """
    if train is None and test is None:
        return None
    if train is None or test is None:
        raise UsageError("--monitor-train and --monitor-test go together; give both")
    train_images, test_images = matching_folders(train, test)

    def monitor(encoder: Encoder) -> Mapping[str, float]:
        known = extract_features(encoder.backbone, train_images, views, device=device)
        asked = extract_features(encoder.backbone, test_images, views, device=device)
        votes = knn_class_scores(
            known.rows,
            train_images.labels[known.image_ids],
            asked.rows,
            classes=len(train_images.classes),
        )
        scores = score_votes(votes, test_images.labels[asked.image_ids])
        return {f"knn_{name}": scores[name] for name in ("top1", "roc_auc") if name in scores}

    return monitor
