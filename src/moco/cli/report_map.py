"""The map of images in `moco report`: its options checked, its features taken."""

from __future__ import annotations

import argparse
import os
import sys
from typing import cast

from torch import nn

from moco.cli.labelled_features import asked_model, told_features
from moco.cli.output import printable
from moco.data.images import Images, StoredImages
from moco.device import pick_device
from moco.errors import CheckpointError, DataError, UsageError
from moco.evaluation.embedding_map import check_tsne
from moco.evaluation.features import Features
from moco.evaluation.frozen import FrozenNetwork
from moco.report.map_data import STEPS
from moco.report.mapped_images import FEWEST, MappedImages, map_images
from moco.report.run_files import ReportedRun


def check_map_options(arguments: argparse.Namespace) -> None:
    """Refuse options of the map that cannot be used, before anything is read.

    Raises:
        UsageError: The first.
    """
    if not FEWEST <= arguments.most_images <= STEPS:
        raise UsageError(
            f"--most-images must be from {FEWEST} to {STEPS:,}, got {arguments.most_images}"
        )
    least = arguments.duplicates
    if least is not None and not -1 <= least <= 1:
        raise UsageError(f"--duplicates is a cosine, from -1 to 1, got {least:g}")
    if arguments.workers < 0:
        raise UsageError(f"--workers must be from 0, got {arguments.workers}")
    pick_device(arguments.device)
    if arguments.map == "tsne":
        check_tsne()


def mapped_images(
    run: ReportedRun, source: StoredImages, arguments: argparse.Namespace
) -> MappedImages | str:
    """Return the map of a run's images, or why there is none: a page can do without."""

    def features_of(images: Images, which: str) -> Features:
        word = os.path.abspath(run.path) if which == "trained" else f"untrained:{run.path}"
        return _features(images, word, which, arguments)

    try:
        return map_images(
            source,
            features_of,
            network=run.name,
            most_images=arguments.most_images,
            kind=arguments.map,
            least_similarity=arguments.duplicates,
        )
    except (CheckpointError, DataError) as error:
        print(printable(f"warning: no map of the images: {error}"), file=sys.stderr)
        return str(error)


def _features(images: Images, word: str, which: str, arguments: argparse.Namespace) -> Features:
    """Return a network's features of images, the network compared to the bit afterwards."""
    model = asked_model(word, "backbone")
    network = cast(nn.Module, model.network)  # a run's
    frozen = FrozenNetwork(network)
    network = network.to(pick_device(arguments.device))
    found = told_features(network, images, model.views, which, arguments)
    frozen.check(network, "after features were taken")
    return found
