"""The features that evaluation starts from, as the command line asks for them."""

from __future__ import annotations

import argparse
import sys
from dataclasses import dataclass

from moco.cli.output import printable
from moco.cli.progress_lines import ProgressLines
from moco.device import pick_device
from moco.errors import UsageError
from moco.evaluation.feature_set import FeatureSet, Task
from moco.evaluation.features import extract_features
from moco.evaluation.frozen import FrozenNetwork
from moco.evaluation.labelled import LabelledImages, matching_images
from moco.loading import load_with_recipe

TASKS: dict[str, Task | None] = {
    "auto": None,
    "one-class": "one_class",
    "several-classes": "several_classes",
    "numbers": "number",
}
"""What --labels asks for."""


@dataclass(frozen=True)
class LabelledFeatures:
    """What evaluation learns of, and what it is asked about."""

    train: FeatureSet
    test: FeatureSet
    """The same object as train, where one source was named as both."""
    skipped: tuple[str, ...]
    """Names of images that could not be read."""
    recipe: str
    """The name of the recipe that the network was trained by."""


def labelled_features(arguments: argparse.Namespace) -> LabelledFeatures:
    """Return the features of --train and --test; images that cannot be read are named.

    Raises:
        UsageError, DataError, CheckpointError: An option, the images or the model cannot be used.
    """
    if arguments.workers < 0:
        raise UsageError(f"--workers must be from 0, got {arguments.workers}")
    device = pick_device(arguments.device)
    pair = matching_images(arguments.train, arguments.test, task=TASKS[arguments.labels])
    part = "encoder" if arguments.layer == "head" else "backbone"
    passed_over: list[str] = []
    network, recipe = load_with_recipe(arguments.run, part, passed_over=passed_over)  # type: ignore[arg-type]
    for line in passed_over:
        print(printable(f"an older checkpoint is evaluated: {line}"), file=sys.stderr)
    frozen = FrozenNetwork(network)
    network.to(device)
    _say_task(pair[0], arguments.labels)
    skipped: list[str] = []

    def features(images: LabelledImages, name: str) -> FeatureSet:
        with ProgressLines(f"{name} features") as lines:
            found = extract_features(
                network,
                images,
                recipe.views,
                device=device,
                workers=arguments.workers,
                report=lines.report,
            )
        for file, reason in found.skipped:
            print(printable(f"skipped {name} {file}: {reason}"), file=sys.stderr)
            skipped.append(file)
        return FeatureSet(
            found.rows,
            images.labels[found.image_ids],
            tuple(images.classes),
            paths=tuple(images.name(image_id) for image_id in found.image_ids.tolist()),
            encoder=f"{arguments.run}, {arguments.layer}",
            title=str(images.source),
        )

    train = features(pair[0], "train")
    one_source = arguments.train.resolve() == arguments.test.resolve()
    test = train if one_source else features(pair[1], "test")
    frozen.check(network, "after features were taken")
    return LabelledFeatures(train, test, tuple(skipped), recipe.name)


def _say_task(images: LabelledImages, asked: str) -> None:
    """Say what the labels were taken for, where nobody asked for it and it is no class each."""
    if asked != "auto" or images.task == "one_class":
        return
    taken = "numbers" if images.task == "number" else "several classes an image"
    print(f"labels are taken as {taken}; --labels one-class takes them as classes", file=sys.stderr)
