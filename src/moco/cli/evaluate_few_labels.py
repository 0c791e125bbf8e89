"""`moco evaluate few-labels`."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

import torch

from moco.cli.finetune_options import asked_spec
from moco.cli.json_file import check_json_path, write_json
from moco.cli.labelled_features import labelled_features, warn_of_one_source
from moco.cli.output import printable, say
from moco.cli.terminal import print_table
from moco.cli.tuning import asked_compute, make_folder, starting_network
from moco.errors import UsageError
from moco.evaluation.feature_set import FeatureSet, check_pair
from moco.evaluation.few_labels import FewLabelsResult, Level, asked_splits, few_labels_on
from moco.evaluation.few_labels_finetuned import few_labels_finetuned
from moco.evaluation.finetune import FinetuneResult
from moco.evaluation.label_splits import Split, read_split, write_split
from moco.evaluation.labelled import LabelledImages, matching_images
from moco.evaluation.labelled_part import LabelledPart, part_of


def run(arguments: argparse.Namespace) -> int:
    """Print how far a few labels go."""
    check_json_path(arguments.json)
    if not arguments.finetune:
        _refuse_tuning(arguments)
    spec, compute = asked_spec(arguments) if arguments.finetune else None, asked_compute(arguments)
    if spec is not None and arguments.run is None:
        raise UsageError("name a RUN: --finetune trains its network, and needs images")
    found = labelled_features(arguments)
    warn_of_one_source(arguments)
    train, test = found.train, found.test
    check_pair(train, test)
    splits = _splits(arguments, train)
    if arguments.write_splits is not None:
        _write_splits(arguments.write_splits, splits, train.paths)
    measure = None if arguments.measure == "auto" else arguments.measure
    results = [few_labels_on(train, test, splits, measure=measure)]
    if spec is not None:
        backbone, recipe = starting_network(arguments)
        images = matching_images(arguments.train, arguments.test)
        known, asked = (
            _readable(of, features) for of, features in zip(images, (train, test), strict=True)
        )
        results.append(
            few_labels_finetuned(
                backbone,
                known,
                asked,
                splits,
                spec,
                views=recipe.views,
                seed=arguments.seed,
                measure=measure,
                compute=compute,
                report=_report,
            )
        )
    for result in results:
        _print(result, found.title, arguments)
    figures = _figures(results, arguments)
    figures["layer"] = found.layer
    write_json(arguments.json, {**figures, "skipped_files": len(found.skipped)})
    return 0


def _refuse_tuning(arguments: argparse.Namespace) -> None:
    """Refuse what would be ignored.

    Raises:
        UsageError: An option that goes with --finetune, without it.
    """
    given = {
        "--untrained": arguments.untrained,
        "--set": arguments.settings,
        "--tuning": arguments.tuning != "default",
    }
    for option, is_given in given.items():
        if is_given:
            raise UsageError(f"{option} is of fine-tuning; add --finetune, or leave it out")


def _splits(arguments: argparse.Namespace, train: FeatureSet) -> list[Split]:
    if arguments.split and not train.paths:
        raise UsageError("--split needs the images' names, which the features are without")
    given = [read_split(path, train.labels, train.paths, train.classes) for path in arguments.split]
    return asked_splits(
        train,
        shares=arguments.shares,
        per_class=arguments.per_class,
        given=given,
        draws=arguments.draws,
        seed=arguments.seed,
    )


def _write_splits(folder: Path, splits: Sequence[Split], names: Sequence[str]) -> None:
    if not names:
        raise UsageError("--write-splits needs the images' names, which the features are without")
    make_folder(folder)
    for split in splits:
        title = split.title.replace(" %", "percent").replace(" ", "-")
        write_split(folder / f"{title}-draw-{split.draw}.txt", split, names)


def _readable(images: LabelledImages, features: FeatureSet) -> LabelledPart:
    """Return the images that have features, in their order."""
    numbers = {images.name(image_id): image_id for image_id in range(len(images))}
    try:
        return part_of(images, torch.tensor([numbers[path] for path in features.paths]))
    except KeyError as error:
        raise UsageError(
            f"{features.title} has features of {error}, which is not in {images.source}; give the "
            "images that they are of"
        ) from error


def _report(split: Split, found: FinetuneResult) -> None:
    line = f"{split.title}, draw {split.draw}: {100 * found.score.value:.2f} %, epoch "
    line += f"{found.best_epoch} of {found.epochs}"
    print(printable(line), file=sys.stderr, flush=True)


def _print(result: FewLabelsResult, title: str, arguments: argparse.Namespace) -> None:
    what = "A linear probe" if result.classifier == "linear" else "The whole network, fine-tuned"
    if result.classifier != "linear" and arguments.untrained:
        what = "The whole network, from random weights"
    print_table(
        f"{what}, {result.measure} of {title} on {result.test_images:,} test images",
        ["labels", "images", "draws", "mean", "95 %", "over", "spread"],
        [_row(level) for level in result.levels],
    )
    fixed = [level for level in result.levels if not level.chosen]
    for level in fixed if result.classifier == "linear" else []:
        say(
            f"{printable(level.title)}: a class has one label, so no penalty can be chosen; it is "
            f"{level.settings[0]:g}"
        )
    for level in fixed if result.classifier == "fine-tuned" else []:
        say(f"{printable(level.title)}: no image was held out of so few; the last epoch counts")


def _row(level: Level) -> list[str]:
    low, high = (f"{100 * end:.2f}" if end is not None else "" for end in (level.low, level.high))
    return [
        printable(level.title),
        f"{level.labels:,}",
        str(len(level.scores)),
        f"{100 * level.mean:.2f} %",
        f"{low} to {high}",
        level.interval_over,
        f"{100 * level.spread:.2f}",
    ]


def _figures(
    results: Sequence[FewLabelsResult], arguments: argparse.Namespace
) -> dict[str, object]:
    figures: dict[str, object] = {}
    for result in results:
        name = result.classifier.replace("-", "_")
        for level in result.levels:
            key = f"{name}_{level.title.replace(' %', 'percent').replace(' ', '_')}"
            figures |= {
                key: level.mean,
                f"{key}_low": level.low,
                f"{key}_high": level.high,
                f"{key}_spread": level.spread,
                f"{key}_labels": level.labels,
                f"{key}_scores": list(level.scores),
                f"{key}_interval_over": level.interval_over,
                f"{key}_{'penalties' if name == 'linear' else 'epochs'}": list(level.settings),
                f"{key}_chosen": level.chosen,
            }
    first = results[0]
    return {
        **figures,
        "measure": first.measure,
        "draws": arguments.draws,
        "seed": arguments.seed,
        "train_images": first.train_images,
        "test_images": first.test_images,
    }
