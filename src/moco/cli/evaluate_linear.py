"""`moco evaluate linear`."""

from __future__ import annotations

import argparse
from collections.abc import Mapping
from math import isnan

from moco.cli.asked_measure import asked_measure, shown
from moco.cli.json_file import check_json_path, write_json
from moco.cli.labelled_features import labelled_features
from moco.cli.output import say
from moco.cli.terminal import print_table
from moco.errors import UsageError
from moco.evaluation.feature_set import task_of
from moco.evaluation.linear_fast import LinearResult, linear
from moco.evaluation.published import published

OFFICIAL = {
    "epochs": None,
    "batch_size": None,
    "learning_rate": None,
    "precision": "float32",
    "out": None,
}
"""Options of the official protocols, and what they are where nobody gave them."""


def run(arguments: argparse.Namespace) -> int:
    """Print what a linear classifier makes of a run's features."""
    check_json_path(arguments.json)
    if arguments.protocol == "official":
        from moco.cli.evaluate_linear_official import run_official

        return run_official(arguments)
    refuse(arguments, OFFICIAL, "--protocol official")
    if not 0 <= arguments.seed < 1 << 31:
        raise UsageError(f"--seed must be from 0 to 2^31 - 1, got {arguments.seed}")
    found = labelled_features(arguments)
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


def refuse(arguments: argparse.Namespace, options: Mapping[str, object], of: str) -> None:
    """Refuse options that have no meaning here.

    Raises:
        UsageError: One of them was given.
    """
    given = [name for name, unset in options.items() if getattr(arguments, name) != unset]
    if given:
        words = ", ".join("--" + name.replace("_", "-") for name in given)
        raise UsageError(f"{words} {'is' if len(given) == 1 else 'are'} of {of}; leave it out")


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


def print_published(recipe: str, top1: float | None, protocol: str) -> None:
    """Print published scores beside ours, those of the run's recipe where there are any."""
    own = published("linear", recipe) if recipe else ()
    heads = {row.recipe: row for row in reversed(published("linear"))}
    rows = own or tuple(reversed(heads.values()))
    ours = "-" if top1 is None else f"{100 * top1:.1f} %"
    print_table(
        f"published, beside this run by the {protocol} protocol"
        + ("" if own else "; none of its recipe"),
        ["published", "data", "protocol", "top-1", "here"],
        [
            [
                row.model,
                row.data,
                row.protocol.name,
                f"{100 * row.value:.1f}{f' ± {100 * row.spread:.1f}' if row.spread else ''} %",
                ours,
            ]
            for row in rows
        ],
    )
    for named in dict.fromkeys(row.protocol for row in rows):
        say(f"{named.name}: {named.settings} ({named.source})")
    say(f"to reproduce the {100 * rows[0].value:.1f} %: {rows[0].command}")
