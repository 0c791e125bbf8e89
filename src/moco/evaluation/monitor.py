"""A kNN test as training goes on, on labelled images that training does not see labels of."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path

import torch

from moco.data.images import first_usable
from moco.encoders import Encoder
from moco.errors import UsageError
from moco.evaluation.features import extract_features
from moco.evaluation.knn import knn_class_scores
from moco.evaluation.labelled import matching_images
from moco.evaluation.scores import score_votes
from moco.specs import ViewsSpec

HEAD_TEMPERATURE = 0.1
"""The official notebook votes with the head's output and this temperature."""


def knn_monitor(
    train: str | Path | None,
    test: str | Path | None,
    views: ViewsSpec,
    device: torch.device,
    *,
    workers: int = 0,
) -> Callable[[Encoder], Mapping[str, float]] | None:
    """Return a function from an encoder to its kNN scores, None without folders.

    `knn_top1` (and `knn_roc_auc` with two classes) are the backbone's, `knn_head_top1` is the
    head's at temperature 0.1, which the official CIFAR-10 notebook watches; 200 neighbours vote.

    Raises:
        UsageError: One folder without the other.
        DataError: Not folders of the same classes, or with no image that can be read.
    """
    if train is None and test is None:
        return None
    if train is None or test is None:
        raise UsageError("--monitor-train and --monitor-test go together; give both")
    train_images, test_images = matching_images(train, test)
    first_usable(train_images)
    first_usable(test_images)
    classes = len(train_images.classes)

    def monitor(encoder: Encoder) -> Mapping[str, float]:
        known, asked = (
            extract_features(encoder.backbone, images, views, device=device, workers=workers)
            for images in (train_images, test_images)
        )
        train_labels = train_images.labels[known.image_ids]
        test_labels = test_images.labels[asked.image_ids]
        votes = knn_class_scores(known.rows, train_labels, asked.rows, classes=classes)
        scores = score_votes(votes, test_labels)
        with torch.no_grad():
            head_known, head_asked = (
                encoder.head(features.rows.to(device)).float().cpu() for features in (known, asked)
            )
        head_votes = knn_class_scores(
            head_known, train_labels, head_asked, classes=classes, temperature=HEAD_TEMPERATURE
        )
        return {
            **{f"knn_{name}": scores[name] for name in ("top1", "roc_auc") if name in scores},
            "knn_head_top1": score_votes(head_votes, test_labels)["top1"],
        }

    return monitor
