"""`moco compare`."""

from __future__ import annotations

import argparse
import os
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass

from torch import Tensor

from moco.cli.asked_measure import asked_measure
from moco.cli.json_file import check_json_path, write_json
from moco.cli.labelled_features import (
    LabelledFeatures,
    asked_model,
    features_of,
    labelled_pair,
    warn_of_one_source,
)
from moco.cli.output import say
from moco.cli.terminal import print_table
from moco.device import pick_device
from moco.errors import DataError, UsageError
from moco.evaluation.compare import Interval, Measure
from moco.evaluation.comparison import TITLES, Comparison, compare_rivals, in_words, shown_value
from moco.evaluation.knn import HEADLINE, KnnResult, knn
from moco.evaluation.linear_fast import LinearResult, linear
from moco.found_model import FoundModel
from moco.report.comparison_figure import check_figure_path, draw_comparisons

BASELINES = ("untrained", "pixels")
"""Words before the first run: rivals that every training has to beat."""
CLASSIFIERS = {"linear": "linear probe", "knn": f"kNN {HEADLINE[0]}"}
CELLS = 25
"""Of an interval that is drawn in text."""


@dataclass(frozen=True)
class Judged:
    """What one network's features are worth."""

    linear: LinearResult
    knn: KnnResult


@dataclass(frozen=True)
class Results:
    """What all networks are worth, on the same images."""

    judged: dict[str, Judged]
    labels: Tensor
    """Of the test images."""
    train_images: int
    skipped: int

    def compared(self) -> dict[str, Comparison]:
        """Return the comparison by each classifier, the first network as reference."""
        measure = next(iter(self.judged.values())).linear.measure
        votes: dict[str, dict[str, Tensor]] = {
            "linear": {name: each.linear.votes for name, each in self.judged.items()},
            "knn": {name: each.knn.votes for name, each in self.judged.items()},
        }
        return {kind: compare_rivals(measure, votes[kind], self.labels) for kind in CLASSIFIERS}


def run(arguments: argparse.Namespace) -> int:
    """Print which of several networks is better, and whether the data suffice to say so."""
    check_json_path(arguments.json)
    check_figure_path(arguments.plot)
    if not 0 <= arguments.seed < 1 << 31:
        raise UsageError(f"--seed must be from 0 to 2^31 - 1, got {arguments.seed}")
    models = _asked_models(arguments)
    results = _judge_all(models, arguments)
    compared = results.compared()
    title = (
        f"{len(results.labels):,} test images of {arguments.test}, "
        f"{results.train_images:,} to learn of"
    )
    _print(compared, title)
    if arguments.plot is not None:
        panels = {CLASSIFIERS[kind]: comparison for kind, comparison in compared.items()}
        draw_comparisons(panels, title, arguments.plot)
        say(f"figure: {arguments.plot}")
    write_json(arguments.json, _figures(results, compared, arguments))
    return 0


def _judge_all(models: Sequence[FoundModel], arguments: argparse.Namespace) -> Results:
    """Judge one network after the other: features of two at most are in memory."""
    pair = labelled_pair(arguments)
    warn_of_one_source(arguments)
    judged: dict[str, Judged] = {}
    first: LabelledFeatures | None = None
    for model in models:
        say(f"{model.title} ...")
        found = features_of(model, pair, arguments, told=first is None)
        first = first or found
        if found.test.paths != first.test.paths or found.train.paths != first.train.paths:
            raise DataError(
                f"{model.title} can read other images than {models[0].title}; leave out those that "
                "one cannot read (`moco data check` names them), or the network"
            )
        measure = asked_measure(arguments.measure, found.test)
        judged[model.title] = Judged(
            linear(found.train, found.test, measure=measure, seed=arguments.seed),
            knn(found.train, found.test, measure=measure, device=pick_device(arguments.device)),
        )
    if first is None:
        raise UsageError("name a network at least")
    return Results(judged, first.test.labels, len(first.train), len(first.skipped))


def _asked_models(arguments: argparse.Namespace) -> list[FoundModel]:
    """Return the networks that were named, and what the first run has to beat.

    All are loaded before any image is read, so that a wrong word costs no time.
    """
    words = list(dict.fromkeys(arguments.models))
    models = [asked_model(word, arguments.layer) for word in words]
    first = next((model.title for model in models if model.recipe), None)
    if first is None or arguments.no_baselines:
        return models
    for kind in BASELINES:
        word = f"{kind}:{os.path.normpath(first)}"
        if not any(model.title.startswith(f"{kind}:") for model in models):
            layer = arguments.layer if arguments.layer != "head" and kind == "untrained" else ""
            models.append(asked_model(word, layer or "backbone"))
    return models


def _print(compared: Mapping[str, Comparison], title: str) -> None:
    """Print a table with intervals for each way to classify, then words."""
    say(title)
    for kind, comparison in compared.items():
        measure, scores = comparison.measure, comparison.scores
        ends = min(score.low for score in scores.values()), max(s.high for s in scores.values())
        leads = {lead.rival: lead for lead in comparison.leads}
        print_table(
            f"{CLASSIFIERS[kind]}, {TITLES[measure]} with its 95 % interval; differences from "
            f"{comparison.reference}",
            ["network", "score", "95 % interval", "", "points", "p"],
            [
                [
                    name,
                    shown_value(score.value, measure),
                    f"{shown_value(score.low, measure)} to {shown_value(score.high, measure)}",
                    interval_in_text(score, *ends),
                    _in_points(-leads[name].difference.value, measure) if name in leads else "",
                    f"{leads[name].p:.2g}" if name in leads else "",
                ]
                for name, score in scores.items()
            ],
        )
        for line in in_words(comparison):
            say(line)
    say(
        "intervals and tests are over the test images: of these networks, not of other seeds of "
        "their training"
    )


def _in_points(value: float, measure: Measure) -> str:
    return f"{value:+.3f}" if measure == "r2" else f"{100 * value:+.1f}"


def interval_in_text(score: Interval, low: float, high: float) -> str:
    """Return ..|--o--|.. at its place between two ends, `CELLS` letters."""
    width = max(high - low, 1e-12)

    def place(value: float) -> int:
        return round((value - low) / width * (CELLS - 1))

    letters = ["."] * CELLS  # a table would cut spaces off
    for at in range(place(score.low), place(score.high) + 1):
        letters[at] = "-"
    letters[place(score.low)] = letters[place(score.high)] = "|"
    letters[place(score.value)] = "o"
    return "".join(letters)


def _figures(
    results: Results, compared: Mapping[str, Comparison], arguments: argparse.Namespace
) -> dict[str, object]:
    return {
        "measure": compared["linear"].measure,
        "reference": compared["linear"].reference,
        "models": [
            {
                "name": name,
                "linear": {
                    **asdict(compared["linear"].scores[name]),
                    "penalty": each.linear.penalty,
                    "held_out_images": each.linear.held_out,
                },
                "knn": {
                    **asdict(compared["knn"].scores[name]),
                    "neighbours": each.knn.headline.neighbours,
                    "temperature": each.knn.headline.temperature,
                },
            }
            for name, each in results.judged.items()
        ],
        "leads": {
            kind: [{**asdict(lead), "is_shown": lead.is_shown} for lead in comparison.leads]
            for kind, comparison in compared.items()
        },
        "words": {kind: in_words(comparison) for kind, comparison in compared.items()},
        "layer": arguments.layer,
        "seed": arguments.seed,
        "train_images": results.train_images,
        "test_images": len(results.labels),
        "skipped_files": results.skipped,
    }
