"""One cell of a study, a setting with a seed: train it, then say what its features are worth.

RUN/cells/HASH-seedN/  a run directory, so that a stopped cell goes on exactly
                       scores.json  written last: a cell that has it is done
"""

from __future__ import annotations

import hashlib
import json
import os
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from torch import nn

from moco.data.images import Images
from moco.demo import STATISTICS_STEPS, untrained_backbone
from moco.errors import DivergedError, InterruptedRunError, StorageError, storage_remedy
from moco.evaluation.compare import measured
from moco.evaluation.features import extract_features
from moco.evaluation.knn import knn_class_scores
from moco.evaluation.labelled import LabelledImages
from moco.evaluation.linear import linear_class_scores
from moco.evaluation.monitor import knn_monitor
from moco.loading import load_with_recipe
from moco.plain_files import read_small
from moco.plan import Plan, make_plan
from moco.plan import fingerprint as fingerprint_of
from moco.pretraining import train
from moco.progress import Report, SilentReport
from moco.recipe import Recipe
from moco.recipe_files import recipe_to_dict
from moco.run_records import read_lines, taken_steps
from moco.specs import BAD_LIMIT, ViewsSpec

Scores = dict[str, Any]
"""What scores.json holds: linear, knn_200, knn_20, pretext_top1, loss (0 to 1 but the last),
seconds, and failed, the reason why there are no others, or empty."""
MOST_SCORES_BYTES = 1 << 20
MOST_PIXELS = 1 << 28
"""Numbers that the linear probe of raw pixels may fit in memory: 87,000 images of 32 pixels."""
CELL_NAME, CELL_SOURCE = "study-cell", "a cell of `moco study`"
"""Studies share equal cells, whatever the recipes are called."""


@dataclass(frozen=True, kw_only=True)
class Bench:
    """What all cells have in common."""

    train: LabelledImages
    test: LabelledImages
    run: Path
    device: str = "auto"
    workers: int | None = None
    precision: str = "auto"
    bad_limit: float = BAD_LIMIT
    watched: bool = False
    """Whether each epoch's features are scored too."""

    def plan(self, recipe: Recipe, seed: int) -> Plan:
        """Return the plan of a cell."""
        cell = replace(recipe, name=CELL_NAME, source=CELL_SOURCE)
        return make_plan(
            self.train,
            recipe=cell,
            run=self.directory(cell, seed),
            device=self.device,
            seed=seed,
            workers=self.workers,
            precision=self.precision,
            bad_limit=self.bad_limit,
        )

    def directory(self, recipe: Recipe, seed: int) -> Path:
        """Return the cell's directory; a watched cell serves studies that do not watch."""
        cells = self.run / "cells"
        name = short_hash({**recipe_to_dict(recipe), "name": "", "source": ""})
        watched = cells / f"{name}-watched-seed{seed}"
        if self.watched or (watched / "scores.json").exists():
            return watched
        return cells / f"{name}-seed{seed}"

    def folders(self) -> dict[str, Any]:
        """Return which images these are."""
        return {"images": fingerprint(self.train), "test": fingerprint(self.test)}


def fingerprint(images: Images) -> dict[str, Any]:
    """Return which images these are, by number and names."""
    return {"count": len(images), "fingerprint": fingerprint_of(images)}


def short_hash(values: Mapping[str, Any]) -> str:
    """Return a short name for these values."""
    return hashlib.sha256(json.dumps(values, sort_keys=True).encode()).hexdigest()[:12]


def run_cell(
    bench: Bench,
    recipe: Recipe,
    seed: int,
    *,
    report: Report | None = None,
    stop: Callable[[], int | None] = lambda: None,
) -> Scores:
    """Return the cell's scores; train and score it, or what is left of that, where it is not done.

    A cell whose loss is no longer finite is done too: `failed` has the reason.

    Raises:
        InterruptedRunError: `stop` said so; the same call goes on from there.
    """
    plan = bench.plan(recipe, seed)
    known = read_scores(plan.run)
    if known is not None:
        return known
    monitor = None
    if bench.watched:
        monitor = knn_monitor(
            bench.train.source,
            bench.test.source,
            recipe.views,
            plan.device,
            workers=plan.workers,
        )
    try:
        train(plan, monitor=monitor, report=report or SilentReport(), stop=stop)
    except DivergedError as error:
        scores: Scores = {"seed": seed, "failed": str(error)}
        write_scores(plan.run, scores)
        return scores
    if (code := stop()) is not None:
        raise InterruptedRunError("stopped and saved; the same command goes on from there", code)
    began = time.monotonic()
    scores = {"seed": seed, **last_epoch(plan), **score(load_with_recipe(plan.run)[0], bench, plan)}
    scores |= {"seconds": training_seconds(plan) + time.monotonic() - began, "failed": ""}
    write_scores(plan.run, scores)
    return scores


def score_untrained(bench: Bench, recipe: Recipe, seed: int, *, keep: bool = True) -> Scores:
    """Return the scores of the encoder before training, its batch norm's statistics the images'.

    Args:
        keep: write them, so that they are not computed again.
    """
    plan = bench.plan(recipe, seed)
    shape = recipe_to_dict(recipe)
    parts = {part: shape[part] for part in ("encoder", "views", "batch_size", "batch_norm_groups")}
    name = short_hash({**parts, **bench.folders()})
    directory = bench.run / "cells" / f"{name}-untrained-seed{seed}"
    known = read_scores(directory)
    if known is not None:
        return known
    network = untrained_backbone(plan, statistics_steps=STATISTICS_STEPS)
    return _scored_reference(bench, plan, network, directory, keep=keep)


def score_pixels(bench: Bench, recipe: Recipe) -> Scores:
    """Return the scores of the raw pixels that evaluation looks at; empty if they are too many."""
    pixels = recipe.views.channels * recipe.views.evaluation_size**2 * len(bench.train)
    if pixels > MOST_PIXELS:
        return {}
    plan = bench.plan(recipe, 0)
    name = short_hash({"views": recipe_to_dict(recipe)["views"], **bench.folders()})
    directory = bench.run / "cells" / f"{name}-pixels"
    known = read_scores(directory)
    return known or _scored_reference(bench, plan, None, directory, keep=True)


def _scored_reference(
    bench: Bench, plan: Plan, network: nn.Module | None, directory: Path, *, keep: bool
) -> Scores:
    began = time.monotonic()
    scores: Scores = {"seed": plan.seed, **score(network, bench, plan)}
    scores |= {"seconds": time.monotonic() - began, "failed": ""}
    if keep:
        write_scores(directory, scores)
    return scores


def score(network: nn.Module | None, bench: Bench, plan: Plan) -> dict[str, float]:
    """Return top-1 on the test images: a linear probe's, and 200 and 20 nearest neighbours'."""
    known, asked = (_features(network, images, plan) for images in (bench.train, bench.test))
    labels = bench.train.labels[known.image_ids]
    test_labels = bench.test.labels[asked.image_ids]
    classes = len(bench.train.classes)
    votes = {
        f"knn_{count}": knn_class_scores(
            known.rows, labels, asked.rows, classes=classes, neighbours=count
        )
        for count in (200, 20)
    }
    votes["linear"] = linear_class_scores(known.rows, labels, asked.rows, classes=classes)
    return {name: measured("top1", vote, test_labels) for name, vote in votes.items()}


def last_epoch(plan: Plan) -> dict[str, float]:
    """Return the means of the last epoch's loss and pretext accuracy."""
    rows = [
        row
        for row in taken_steps(read_lines(plan.run / "metrics.jsonl"))
        if row["epoch"] == plan.recipe.epochs - 1
    ]
    return {
        name: sum(float(row[name]) for row in rows) / len(rows) for name in ("loss", "pretext_top1")
    }


def training_seconds(plan: Plan) -> float:
    """Return how long the steps took, over all the times that the cell was taken up."""
    rows = read_lines(plan.run / "metrics.jsonl")
    return sum(plan.recipe.batch_size / float(row["images_per_second"]) for row in rows)


def epoch_curves(directory: Path) -> dict[str, list[float]]:
    """Return each epoch's pretext accuracy, and kNN accuracy where it was watched."""
    pretext: dict[int, list[float]] = {}
    knn: dict[int, float] = {}
    for row in taken_steps(read_lines(directory / "metrics.jsonl")):
        pretext.setdefault(row["epoch"], []).append(row["pretext_top1"])
        if "knn_top1" in row:
            knn[row["epoch"]] = row["knn_top1"]
    return {
        "pretext_top1": [sum(values) / len(values) for _, values in sorted(pretext.items())],
        "knn_200": [value for _, value in sorted(knn.items())],
    }


def read_scores(directory: Path) -> Scores | None:
    """Return a cell's scores, None where it is not done."""
    try:
        scores = json.loads(read_small(directory / "scores.json", MOST_SCORES_BYTES))
    except (OSError, ValueError, RecursionError):
        return None
    return scores if isinstance(scores, dict) else None


def write_scores(directory: Path, scores: Scores) -> None:
    """Write scores.json, whole or not at all."""
    write_whole(directory / "scores.json", json.dumps(scores, indent=1) + "\n")


def write_whole(path: Path, text: str) -> None:
    """Write a file so that it is there whole or as it was before.

    Raises:
        StorageError: It cannot be written.
    """
    aside = path.with_name(f".{path.name}.{os.getpid()}.tmp")  # studies may run side by side
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        aside.write_text(text, encoding="utf-8")
        os.replace(aside, path)
    except OSError as error:
        raise StorageError(
            f"cannot write {path}: {error.strerror or error}; {storage_remedy(error)} or "
            "choose another --run"
        ) from error


def _features(network: nn.Module | None, images: LabelledImages, plan: Plan) -> Any:
    if network is not None:
        network.to(plan.device)
    views: ViewsSpec = plan.recipe.views
    with torch.no_grad():
        return extract_features(network, images, views, device=plan.device, workers=plan.workers)
