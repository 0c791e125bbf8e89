"""`moco evaluate knn`."""

from __future__ import annotations

import argparse
from math import isnan

from moco.cli.asked_measure import asked_measure, shown
from moco.cli.json_file import check_json_path, write_json
from moco.cli.labelled_features import labelled_features, warn_of_one_source
from moco.cli.output import say
from moco.cli.terminal import print_table
from moco.device import pick_device
from moco.errors import UsageError
from moco.evaluation.feature_set import task_of
from moco.evaluation.knn import KnnResult, Setting, knn
from moco.evaluation.published import INSTDISC_KNN, NOTEBOOK_KNN, published


def run(arguments: argparse.Namespace) -> int:
    """Print how well nearest neighbours in feature space share their class."""
    check_json_path(arguments.json)
    if arguments.neighbours < 1 or not arguments.temperature > 0:
        raise UsageError("--neighbours must be at least 1 and --temperature above 0")
    found = labelled_features(arguments)
    warn_of_one_source(arguments)
    train, test = found.train, found.test
    measure = asked_measure(arguments.measure, test)
    headline = arguments.neighbours, arguments.temperature
    result = knn(
        train, test, headline=headline, measure=measure, device=pick_device(arguments.device)
    )
    plain = task_of(test) == "number"
    print_table(
        f"kNN {arguments.neighbours} on {found.title}: "
        f"{len(test):,} test images, {len(train):,} vote",
        ["score", "value"],
        [[name, shown(value, plain=plain)] for name, value in result.scores.items()],
    )
    _print_sweep(result, plain=plain)
    for line in _beside_published(result, found.layer):
        say(line)
    write_json(
        arguments.json,
        {
            **{name: None if isnan(value) else value for name, value in result.scores.items()},
            "neighbours": arguments.neighbours,
            "temperature": arguments.temperature,
            "layer": found.layer,
            "classes": len(train.classes),
            "train_images": len(train),
            "test_images": len(test),
            "skipped_files": len(found.skipped),
            "measure": result.measure,
            **_figures("headline", result.headline),
            **_figures("chosen", result.chosen),
            **_figures("best_on_test", result.best),
            "sweep_neighbours": result.neighbours,
            "sweep_temperatures": result.temperatures,
            "sweep": result.sweep,
        },
    )
    return 0


def _print_sweep(result: KnnResult, *, plain: bool) -> None:
    """Print the sweep as a table, and which of it may be quoted."""
    print_table(
        f"{result.measure} by neighbours (rows) and temperature (columns)",
        ["neighbours", *(f"{temperature:g}" for temperature in result.temperatures)],
        [
            [f"{count:,}", *(shown(value, plain=plain) for value in row)]
            for count, row in zip(result.neighbours, result.sweep, strict=True)
        ],
    )
    for name, setting in (
        ("headline", result.headline),
        ("chosen on train images, each left out of its own vote", result.chosen),
        ("best on the test images: optimistic, not to be quoted", result.best),
    ):
        if setting is not None:
            say(
                f"{name}: {result.measure} {shown(setting.value, plain=plain)} with "
                f"{setting.neighbours:,} neighbours, temperature {setting.temperature:g}"
            )


def _beside_published(result: KnnResult, layer: str | None) -> list[str]:
    """Return lines with the published protocols, their numbers, and ours in the same setting."""
    lines = []
    other = ", but on the backbone's features" if layer else ", of whatever layer the file is of"
    if result.measure == "top1" and result.headline.neighbours == 200:
        ours = result.sweep[result.neighbours.index(200)]
        for protocol, temperature, on in (
            (INSTDISC_KNN, 0.07, ""),
            (NOTEBOOK_KNN, 0.1, "" if layer == "head" else other),
        ):
            value = ours[result.temperatures.index(temperature)]
            lines.append(f"{protocol.name}, {protocol.settings}: {100 * value:.2f} % here{on}")
    for recipe in ("cifar10-resnet18", "cifar10-resnet18-symmetric"):
        rows = published("knn", recipe)
        values = " / ".join(f"{100 * row.value:.1f}" for row in rows)
        lines.append(
            f"published by the {rows[0].source}, {recipe}: {values} % at 200 / 400 / 800 epochs"
        )
    row = published("knn")[0]
    return [*lines, f"to reproduce the {100 * row.value:.1f} %: {row.command}"]


def _figures(name: str, setting: Setting | None) -> dict[str, float]:
    if setting is None:
        return {}
    return {
        f"{name}_neighbours": setting.neighbours,
        f"{name}_temperature": setting.temperature,
        f"{name}_value": setting.value,
    }
