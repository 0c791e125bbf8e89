"""`moco evaluate linear --protocol official`."""

from __future__ import annotations

import argparse
import sys
from dataclasses import asdict

from moco.cli.asked_measure import shown
from moco.cli.json_file import write_json
from moco.cli.labelled_features import warn_of_one_source
from moco.cli.linear_options import FAST, refuse_options
from moco.cli.output import printable, say
from moco.cli.published_table import print_published
from moco.cli.terminal import print_table
from moco.cli.tuning import (
    EpochLines,
    asked_compute,
    make_folder,
    train_cache_bytes,
    trained_network,
)
from moco.errors import UsageError
from moco.evaluation.labelled import LabelledImages, matching_images
from moco.evaluation.linear_files import ProbeFile, probe_fingerprint
from moco.evaluation.linear_official import OfficialLinearResult, official_linear
from moco.evaluation.linear_protocols import linear_protocol, with_changes


def run_official(arguments: argparse.Namespace) -> int:
    """Train the layer by the paper's protocol, print its scores beside the paper's."""
    refuse_options(arguments, FAST, "--protocol fast")
    if arguments.labels not in ("auto", "one-class"):
        raise UsageError("the papers' protocol is for one class an image; leave --labels out")
    if arguments.layer != "backbone":
        raise UsageError("the papers' protocol is for the backbone; leave --layer out")
    if arguments.run is None:
        raise UsageError("name a RUN: the papers' protocol looks at new crops of images each epoch")
    compute = asked_compute(arguments)
    cache_bytes = train_cache_bytes(compute)
    train, test = matching_images(arguments.train, arguments.test, cache_bytes=cache_bytes)
    warn_of_one_source(arguments)
    backbone, recipe = trained_network(arguments)
    protocol = with_changes(
        linear_protocol(recipe),
        epochs=arguments.epochs,
        batch_size=arguments.batch_size,
        learning_rate=arguments.learning_rate,
    )
    if protocol.batch_warning:
        print(f"warning: {protocol.batch_warning}", file=sys.stderr)
    keeper = None
    if arguments.out is not None:
        make_folder(arguments.out)
        of_this = probe_fingerprint(
            backbone,
            train,
            test,
            protocol,
            views=recipe.views,
            seed=arguments.seed,
            precision=compute.precision,
        )
        keeper = ProbeFile(arguments.out, of_this)
    found = official_linear(
        backbone,
        train,
        test,
        protocol,
        views=recipe.views,
        seed=arguments.seed,
        compute=compute,
        report=EpochLines().report,
        keeper=keeper,
    )
    for file, reason in found.skipped:
        print(printable(f"skipped {file}: {reason}"), file=sys.stderr)
    _print(found, arguments)
    print_published(recipe.name, found.scores["top1"], "official")
    write_json(arguments.json, _figures(found, train, arguments))
    return 0


def _print(found: OfficialLinearResult, arguments: argparse.Namespace) -> None:
    protocol = found.protocol
    print_table(
        f"linear probe by {protocol.name} on {arguments.run}: {len(found.votes):,} test images, "
        f"{found.train_images:,} to learn of",
        ["score", "value"],
        [[name, shown(value, plain=False)] for name, value in found.scores.items()],
    )
    top1, low, high = (
        shown(value, plain=False) for value in (found.top1.value, found.top1.low, found.top1.high)
    )
    say(f"top1 {top1}, 95 % interval over test images {low} to {high}")
    say(found.warning)
    say("the network is the same to the bit as before")
    for line in protocol.departures:
        say(f"not the published protocol: {line}")
    if arguments.out is not None:
        say(f"kept in {printable(str(arguments.out))}")


def _figures(
    found: OfficialLinearResult, train: LabelledImages, arguments: argparse.Namespace
) -> dict[str, object]:
    return {
        **found.scores,
        "measure": "top1",
        "value": found.top1.value,
        "value_low": found.top1.low,
        "value_high": found.top1.high,
        "protocol": "official",
        "protocol_name": found.protocol.name,
        "protocol_source": found.protocol.source,
        "departures": list(found.protocol.departures),
        "epochs": found.protocol.epochs,
        "batch_size": found.protocol.batch_size,
        "learning_rate": found.protocol.first_rate,
        "best_top1_on_test": found.best_top1,
        "best_epoch_on_test": found.best_epoch,
        "history": [asdict(figures) for figures in found.history],
        "seconds": found.seconds,
        "cpu_seconds": found.cpu_seconds,
        "seed": arguments.seed,
        "layer": "backbone",
        "classes": len(train.classes),
        "train_images": found.train_images,
        "test_images": len(found.votes),
        "skipped_files": len(found.skipped),
    }
