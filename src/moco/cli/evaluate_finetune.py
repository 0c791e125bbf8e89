"""`moco evaluate finetune`."""

from __future__ import annotations

import argparse
import os
import sys
from dataclasses import asdict
from pathlib import Path

from torch import nn

from moco.cli.finetune_options import asked_spec
from moco.cli.json_file import check_json_path, write_json
from moco.cli.labelled_features import warn_of_one_source
from moco.cli.output import printable, say
from moco.cli.terminal import print_table
from moco.cli.tuning import (
    EpochLines,
    asked_compute,
    make_folder,
    starting_network,
    train_cache_bytes,
)
from moco.errors import UsageError
from moco.evaluation.finetune import FinetuneResult, finetune
from moco.evaluation.finetune_files import ABOUT, FileKeeper, save_finetuned, training_fingerprint
from moco.evaluation.finetune_spec import FinetuneSpec
from moco.evaluation.labelled import LabelledImages, matching_images


def run(arguments: argparse.Namespace) -> int:
    """Fine-tune, print the scores, keep the network."""
    check_json_path(arguments.json)
    spec, compute = asked_spec(arguments), asked_compute(arguments)
    cache_bytes = train_cache_bytes(compute)
    train, test = matching_images(arguments.train, arguments.test, cache_bytes=cache_bytes)
    warn_of_one_source(arguments)
    backbone, recipe = starting_network(arguments)
    keeper = _keeper(arguments, backbone, train, spec)
    found = finetune(
        backbone,
        train,
        test,
        spec,
        views=recipe.views,
        seed=arguments.seed,
        measure=None if arguments.measure == "auto" else arguments.measure,
        compute=compute,
        report=EpochLines().report,
        keeper=keeper,
    )
    for file, reason in found.skipped:
        print(printable(f"skipped {file}: {reason}"), file=sys.stderr)
    figures = _figures(found, arguments)
    if keeper is not None:
        save_finetuned(arguments.out, found.weights, recipe, train.classes, figures)
        keeper.drop()
    _print(found, spec, arguments)
    write_json(arguments.json, figures)
    return 0


def _keeper(
    arguments: argparse.Namespace, backbone: nn.Module, train: LabelledImages, spec: FinetuneSpec
) -> FileKeeper | None:
    """Return what keeps the training in --out, None without it.

    Raises:
        UsageError: A finished network is there.
        StorageError: The folder cannot be made.
    """
    folder: Path | None = arguments.out
    if folder is None:
        return None
    if os.path.lexists(folder / ABOUT):
        raise UsageError(f"{folder} holds a fine-tuned network already; name another --out")
    make_folder(folder)
    measure = arguments.measure
    return FileKeeper(
        folder,
        training_fingerprint(backbone, train, spec, seed=arguments.seed, measure=measure),
    )


def _figures(found: FinetuneResult, arguments: argparse.Namespace) -> dict[str, object]:
    return {
        **found.scores,
        "measure": found.measure,
        "score": found.score.value,
        "score_low": found.score.low,
        "score_high": found.score.high,
        "from": "random weights" if arguments.untrained else "the run",
        "tuning": arguments.tuning,
        "best_epoch": found.best_epoch,
        "epochs": found.epochs,
        "planned_epochs": found.planned_epochs,
        "train_images": found.train_images,
        "held_out_images": found.validation_images,
        "test_images": len(found.votes),
        "skipped_files": len(found.skipped),
        "seed": arguments.seed,
        "rates": found.rates,
        "history": [asdict(figures) for figures in found.history],
    }


def _print(found: FinetuneResult, spec: FinetuneSpec, arguments: argparse.Namespace) -> None:
    start = "random weights, shaped as those of" if arguments.untrained else "the weights of"
    print_table(
        f"Fine-tuned from {start} {arguments.run}: {len(found.votes):,} test images, "
        f"{found.train_images:,} learnt of",
        ["score", "value"],
        [[name, f"{100 * value:.2f} %"] for name, value in found.scores.items()],
    )
    if found.measure == "balanced_accuracy":
        low, high = 100 * found.score.low, 100 * found.score.high
        say(f"balanced accuracy: {low:.2f} to {high:.2f} % (95 %, bootstrap over the test images)")
    if found.validation_images:
        say(
            f"epoch {found.best_epoch} of {found.planned_epochs} is kept: best by {found.measure} "
            f"on {found.validation_images:,} held-out train images; {found.epochs} were run"
        )
    else:
        say(f"the last epoch of {found.epochs} is kept: no train image was held out to choose by")
    for line in spec.not_stated:
        say(f"not stated by the source: {line}")
    if arguments.out is not None:
        say(f"kept in {printable(str(arguments.out))}")
