"""The features that evaluation starts from, as the command line asks for them."""

from __future__ import annotations

import argparse
import sys
from dataclasses import dataclass
from pathlib import Path

from torch import nn

from moco.cli.output import printable
from moco.cli.progress_lines import ProgressLines
from moco.data.images import Images
from moco.device import pick_device
from moco.errors import DataError, UsageError
from moco.evaluation.feature_files import FORMATS, is_feature_file, read_features
from moco.evaluation.feature_set import FeatureSet, Task, check_pair, task_of
from moco.evaluation.features import Features, extract_features
from moco.evaluation.frozen import FrozenNetwork
from moco.evaluation.labelled import LabelledImages, matching_images
from moco.found_model import FoundModel, find_model
from moco.specs import ViewsSpec

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
    """The name of the recipe that the network was trained by, "" where none is known."""
    title: str
    """What a person calls the features: the network and layer, or the file."""
    layer: str | None
    """The layer that was asked for; None of files, whose `encoder` says it."""


def warn_of_one_source(arguments: argparse.Namespace) -> None:
    """Say that a score is of images that were learnt from, where one source is named as both."""
    if arguments.train.resolve() == arguments.test.resolve():
        print(
            "warning: --train and --test are one source: the score is of images that were learnt "
            "from, and too high; name others as --test",
            file=sys.stderr,
        )


def labelled_features(arguments: argparse.Namespace) -> LabelledFeatures:
    """Return the features of --train and --test; images that cannot be read are named.

    Raises:
        UsageError, DataError, CheckpointError: An option, the images, the files of features or the
            model cannot be used.
    """
    files = [
        path
        for path in (arguments.train, arguments.test)
        if is_feature_file(path) or (arguments.run is None and path.suffix.lower() in FORMATS)
    ]
    if files:
        return _stored_features(arguments, files)
    if arguments.run is None:
        raise UsageError("name a MODEL, or files of features as --train and --test")
    pair = labelled_pair(arguments)
    return features_of(asked_model(arguments.run, arguments.layer), pair, arguments)


def _stored_features(arguments: argparse.Namespace, files: list[Path]) -> LabelledFeatures:
    """Return what files of features hold.

    Raises:
        UsageError: A model beside them, one file and one source of images, or an option that only
            images have.
        DataError: A file cannot be read.
    """
    if len(files) < 2:
        raise UsageError(
            f"{files[0]} is a file of features and the other source is not; embed both, or give "
            "images as both"
        )
    if arguments.run is not None:
        raise UsageError(
            f"{files[0]} is a file of features, taken by its own network; leave {arguments.run} out"
        )
    if arguments.layer != "backbone" or arguments.labels not in ("auto", "one-class"):
        raise UsageError("files of features have their layer and labels; leave the option out")
    train = read_features(arguments.train)
    one_source = arguments.train.resolve() == arguments.test.resolve()
    test = train if one_source else read_features(arguments.test)
    check_pair(train, test)
    if arguments.labels == "one-class" and task_of(train) != "one_class":
        raise DataError(f"{train.title} has other labels than one class an image")
    return LabelledFeatures(train, test, (), "", str(arguments.train), None)


def labelled_pair(arguments: argparse.Namespace) -> tuple[LabelledImages, LabelledImages]:
    """Return the images of --train and --test, and say what their labels were taken for.

    Raises:
        UsageError, DataError: An option or the images cannot be used.
    """
    if arguments.workers < 0:
        raise UsageError(f"--workers must be from 0, got {arguments.workers}")
    pick_device(arguments.device)
    pair = matching_images(arguments.train, arguments.test, task=TASKS[arguments.labels])
    task = pair[0].task
    if arguments.labels == "auto" and task != "one_class":
        taken = "numbers" if task == "number" else "several classes an image"
        line = f"labels are taken as {taken}; --labels one-class takes them as classes"
        print(line, file=sys.stderr)
    return pair


def asked_model(word: str, layer: str) -> FoundModel:
    """Return the network that a word means; a damaged checkpoint before it is told."""
    passed_over: list[str] = []
    found = find_model(word, layer=layer, passed_over=passed_over)
    for line in passed_over:
        print(printable(f"an older checkpoint is evaluated: {line}"), file=sys.stderr)
    return found


def told_features(
    network: nn.Module | None,
    images: Images,
    views: ViewsSpec,
    name: str,
    arguments: argparse.Namespace,
) -> Features:
    """Return a network's features of images, and say how far that is.

    Args:
        network: on the device that was asked for.
        name: of the features, for people.
    """
    with ProgressLines(f"{name} features") as lines:
        return extract_features(
            network,
            images,
            views,
            device=pick_device(arguments.device),
            workers=arguments.workers,
            report=lines.report,
        )


def features_of(
    model: FoundModel,
    pair: tuple[LabelledImages, LabelledImages],
    arguments: argparse.Namespace,
    *,
    told: bool = True,
) -> LabelledFeatures:
    """Return a network's features of both sources, the network compared to the bit afterwards.

    Args:
        told: name the images that cannot be read; not where that was done for another network.

    Raises:
        DataError: No image can be read.
        ChangedNetworkError: The network changes itself.
    """
    skipped: list[str] = []
    frozen = None if model.network is None else FrozenNetwork(model.network)
    network = None if model.network is None else model.network.to(pick_device(arguments.device))

    def features(images: LabelledImages, name: str) -> FeatureSet:
        found = told_features(network, images, model.views, name, arguments)
        for file, reason in found.skipped:
            if told:
                print(printable(f"skipped {name} {file}: {reason}"), file=sys.stderr)
            skipped.append(file)
        return FeatureSet(
            found.rows,
            images.labels[found.image_ids],
            tuple(images.classes),
            paths=tuple(images.name(image_id) for image_id in found.image_ids.tolist()),
            encoder=model.encoder,
            title=str(images.source),
        )

    train = features(pair[0], "train")
    one_source = arguments.train.resolve() == arguments.test.resolve()
    test = train if one_source else features(pair[1], "test")
    if frozen is not None and network is not None:
        frozen.check(network, "after features were taken")
    title = f"{model.layer} features of {model.title}"
    return LabelledFeatures(train, test, tuple(skipped), model.recipe, title, arguments.layer)
