"""`moco evaluate knn`."""

from __future__ import annotations

import argparse
import sys

from moco.cli.json_file import check_json_path, write_json
from moco.cli.output import printable
from moco.cli.terminal import print_table
from moco.device import pick_device
from moco.errors import UsageError
from moco.evaluate.features import Features, extract_features
from moco.evaluate.knn import knn_class_scores
from moco.evaluate.labelled import LabelledImages, matching_images
from moco.evaluate.scores import score_votes
from moco.loading import load_with_recipe


def run(arguments: argparse.Namespace) -> int:
    """Print how well nearest neighbours in feature space share their class."""
    check_json_path(arguments.json)
    if arguments.neighbours < 1 or not arguments.temperature > 0:
        raise UsageError("--neighbours must be at least 1 and --temperature above 0")
    if arguments.workers < 0:
        raise UsageError(f"--workers must be from 0, got {arguments.workers}")
    device = pick_device(arguments.device)
    train_images, test_images = matching_images(arguments.train, arguments.test)
    part = "encoder" if arguments.layer == "head" else "backbone"
    passed_over: list[str] = []
    network, recipe = load_with_recipe(arguments.run, part, passed_over=passed_over)  # type: ignore[arg-type]
    for line in passed_over:
        print(printable(f"an older checkpoint is evaluated: {line}"), file=sys.stderr)
    network.to(device)

    def features(images: LabelledImages, name: str) -> Features:
        found = extract_features(
            network,
            images,
            recipe.views,
            device=device,
            workers=arguments.workers,
            report=lambda done, total: _progress(f"{name} features", done, total),
        )
        for file, reason in found.skipped:
            print(printable(f"skipped {name} {file}: {reason}"), file=sys.stderr)
        return found

    known, asked = features(train_images, "train"), features(test_images, "test")
    votes = knn_class_scores(
        known.rows,
        train_images.labels[known.image_ids],
        asked.rows,
        classes=len(train_images.classes),
        neighbours=arguments.neighbours,
        temperature=arguments.temperature,
    )
    scores = score_votes(votes, test_images.labels[asked.image_ids])
    rows = [[name, f"{100 * value:.2f} %"] for name, value in scores.items()]
    print_table(
        f"kNN {arguments.neighbours} on {arguments.layer} features of {arguments.run}: "
        f"{len(asked.rows):,} test images, {len(known.rows):,} vote",
        ["score", "value"],
        rows,
    )
    write_json(
        arguments.json,
        {
            **scores,
            "neighbours": arguments.neighbours,
            "temperature": arguments.temperature,
            "layer": arguments.layer,
            "classes": len(train_images.classes),
            "train_images": len(known.rows),
            "test_images": len(asked.rows),
            "skipped_files": len(known.skipped) + len(asked.skipped),
        },
    )
    return 0


def _progress(what: str, done: int, total: int) -> None:
    if sys.stderr.isatty():
        end = "\n" if done == total else ""
        print(f"\r{what} {done}/{total}", end=end, file=sys.stderr, flush=True)
