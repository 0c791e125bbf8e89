"""`moco embed`."""

from __future__ import annotations

import argparse
import os
import sys
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from moco.cli.json_file import check_json_path, write_json
from moco.cli.labelled_features import TASKS, asked_model
from moco.cli.output import printable, say
from moco.cli.progress_lines import ProgressLines
from moco.data.images import StoredImages
from moco.data.sources.opening import open_images
from moco.device import device_kind, pick_device, pick_precision
from moco.distributed import rank
from moco.errors import UsageError
from moco.evaluation.embedding import PART_IMAGES, Embedded, as_feature_set, embed, source_labels
from moco.evaluation.feature_files import check_feature_path, write_features
from moco.evaluation.feature_parts import FeatureParts, PartsOf
from moco.evaluation.feature_set import FeatureSet, task_of
from moco.evaluation.finetune_training import Compute
from moco.evaluation.frozen import FrozenNetwork
from moco.found_model import FoundModel, views_in_words
from moco.processes import launched_processes, together

PATIENCE_SECONDS = 24 * 3600.0
"""How long processes wait for each other at the end: their shares may take unlike long."""


@dataclass(frozen=True)
class Task:
    """What is to be done, checked."""

    model: FoundModel
    network: nn.Module | None
    """The model's, on the device."""
    images: StoredImages
    labels: tuple[Tensor, tuple[str, ...]]
    compute: Compute
    parts: FeatureParts
    encoder: str


def run(arguments: argparse.Namespace) -> int:
    """Write the features of all images to a file."""
    with launched_processes(PATIENCE_SECONDS):
        task = together(lambda: _checked(arguments))
        frozen = None if task.network is None else FrozenNetwork(task.network)
        try:
            with ProgressLines("embedded") as lines:
                found = embed(
                    task.network,
                    task.images,
                    task.model.views,
                    task.parts,
                    compute=task.compute,
                    report=lines.report if rank() == 0 else None,
                )
            if frozen is not None and task.network is not None:
                frozen.check(task.network, "after features were taken")
            together(lambda: _write(task, found, arguments))
        finally:
            task.parts.leave()
    return 0


def _checked(arguments: argparse.Namespace) -> Task:
    """Return what is to be done.

    Raises:
        UsageError, DataError, CheckpointError, StorageError: An option, the images, the model or
            the file cannot be used.
    """
    check_json_path(arguments.json)
    check_feature_path(arguments.out)
    if os.path.lexists(arguments.out):
        raise UsageError(f"{arguments.out} is there already; name another --out, or remove it")
    if arguments.workers < 0:
        raise UsageError(f"--workers must be from 0, got {arguments.workers}")
    device = pick_device(arguments.device)
    precision = pick_precision(arguments.precision, device)
    model = asked_model(arguments.model, arguments.layer)
    images = open_images(arguments.images)
    labels = source_labels(images, arguments.images, TASKS[arguments.labels])
    computed_in = str(precision or torch.float32).removeprefix("torch.")
    about = PartsOf(
        model=model.weights,
        layer=model.layer,
        views=views_in_words(model.views),
        images=images.fingerprint(),
        precision=computed_in,
        device=device_kind(device),
        count=len(images),
        features=model.features,
        part_images=PART_IMAGES,
    )
    return Task(
        model,
        None if model.network is None else model.network.to(device),
        images,
        labels,
        Compute(device, precision, arguments.workers),
        FeatureParts(arguments.out.with_name(f"{arguments.out.name}.parts"), about),
        model.encoder if precision is None else f"{model.encoder}, {computed_in}",
    )


def _write(task: Task, found: Embedded | None, arguments: argparse.Namespace) -> None:
    """Write the file and say so, in the first process."""
    if found is None:
        return
    title = str(arguments.images)
    features = as_feature_set(found, task.images, task.labels, encoder=task.encoder, title=title)
    write_features(arguments.out, features)
    for image in found.skipped:
        print(printable(f"skipped {image.name}: {image.reason}"), file=sys.stderr)
    say(
        f"{len(features):,} rows of {features.rows.shape[1]:,} features of {task.model.title}, "
        f"{_labels_in_words(features)}: {arguments.out}"
    )
    write_json(
        arguments.json,
        {
            "file": str(arguments.out),
            "bytes": arguments.out.stat().st_size,
            "rows": len(features),
            "features": features.rows.shape[1],
            "labels": task_of(features) if len(features.labels) else "none",
            "classes": len(features.classes),
            "layer": task.model.layer,
            "encoder": features.encoder,
            "skipped_files": len(found.skipped),
        },
    )
    task.parts.drop()


def _labels_in_words(features: FeatureSet) -> str:
    if not len(features.labels):
        return "without labels"
    match task_of(features):
        case "number":
            return "with numbers as labels"
        case "several_classes":
            return f"with several of {len(features.classes):,} classes each"
        case "one_class":
            return f"of {len(features.classes):,} classes"
