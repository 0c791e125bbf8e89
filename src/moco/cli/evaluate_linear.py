"""`moco evaluate linear`."""

from __future__ import annotations

import argparse
from math import isnan

from moco.cli.asked_measure import asked_measure, shown
from moco.cli.evaluate_linear_official import run_official
from moco.cli.json_file import check_json_path, write_json
from moco.cli.labelled_features import labelled_features, warn_of_one_source
from moco.cli.linear_options import OFFICIAL, refuse_options
from moco.cli.output import say
from moco.cli.published_table import print_published
from moco.cli.terminal import print_table
from moco.errors import UsageError
from moco.evaluation.feature_set import task_of
from moco.evaluation.linear_fast import LinearResult, linear


def run(arguments: argparse.Namespace) -> int:
    """Print what a linear classifier makes of a run's features."""
    check_json_path(arguments.json)
    if arguments.protocol == "official":
        return run_official(arguments)
    refuse_options(arguments, OFFICIAL, "--protocol official")
    if not 0 <= arguments.seed < 1 << 31:
        raise UsageError(f"--seed must be from 0 to 2^31 - 1, got {arguments.seed}")
    found = labelled_features(arguments)
    warn_of_one_source(arguments)
    train, test = found.train, found.test
    result = linear(
        train,
        test,
        measure=asked_measure(arguments.measure, test),
        standardized=not arguments.no_standardize,
        seed=arguments.seed,
    )
    plain = task_of(test) == "number"
    print_table(
        f"linear probe on {found.title}: {len(test):,} test images, {len(train):,} to learn of",
        ["score", "value"],
        [[name, shown(value, plain=plain)] for name, value in result.scores.items()],
    )
    low, high = (shown(end, plain=plain) for end in (result.low, result.high))
    say(
        f"{result.measure} {shown(result.value, plain=plain)}, 95 % interval over test images "
        f"{low} to {high}"
    )
    say(how_chosen(result))
    print_published(found.recipe, result.scores.get("top1"), "fast")
    write_json(
        arguments.json,
        {
            **{name: None if isnan(value) else value for name, value in result.scores.items()},
            "measure": result.measure,
            "value": result.value,
            "value_low": result.low,
            "value_high": result.high,
            "protocol": "fast",
            "penalty": result.penalty,
            "penalties_tried": [each.penalty for each in result.tried],
            "held_out_losses": [each.loss for each in result.tried],
            "held_out_images": result.held_out,
            "standardized": result.standardized,
            "seed": arguments.seed,
            "layer": found.layer,
            "classes": len(train.classes),
            "train_images": len(train),
            "test_images": len(test),
            "skipped_files": len(found.skipped),
        },
    )
    return 0


def how_chosen(result: LinearResult) -> str:
    """Return what set the classifier."""
    scaled = "standardized" if result.standardized else "plain"
    if not result.tried:
        return f"weight penalty {result.penalty:g} on {scaled} features, fixed: too few images"
    return (
        f"weight penalty {result.penalty:.3g} on {scaled} features, of {len(result.tried)} tried, "
        f"chosen on {result.held_out:,} train images that were held out, then fitted to all"
        + (f"; the {result.at_end} there is" if result.at_end else "")
    )
