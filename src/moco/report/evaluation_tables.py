"""What evaluations found: tables of the files that `--json` wrote, each known by its keys."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence, Set
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from moco.checkpoint_reading import read_json
from moco.errors import UsageError
from moco.report.browser_page import text
from moco.report.page import paragraph, section, table
from moco.report.run_files import ReportedRun
from moco.report.thinned import number

MOST_FILES = 200
"""Of JSON files in a run's directory that are looked at."""
MEASURES = {
    "top1": "top-1",
    "balanced_accuracy": "balanced accuracy",
    "roc_auc": "ROC AUC",
    "mean_average_precision": "mean average precision",
    "recall_at_1": "recall at 1",
    "r2": "R2",
}
KINDS = {
    "sweep": "kNN",
    "protocol": "linear probe",
    "recall_at_1": "retrieval",
    "best_epoch": "fine-tuning",
}
"""A kind of evaluation by a key that it alone writes."""
LABEL_FREE = {
    "effective_rank": "effective rank",
    "feature_deviation": "deviation",
    "uniformity": "uniformity",
    "alignment": "alignment",
    "neighbour_consistency": "neighbour consistency",
    "view_match": "view match",
}


@dataclass(frozen=True)
class Evaluation:
    """A file that an evaluation wrote.

    Attributes:
        title: the file, or the run and the file.
    """

    title: str
    kind: str
    figures: Mapping[str, Any]


def read_evaluations(given: Sequence[Path], runs: Sequence[ReportedRun]) -> list[Evaluation]:
    """Return what the files say, then what lies as .json in the runs' directories.

    Raises:
        UsageError: A given file is no evaluation's.
    """
    found = []
    seen = {os.path.realpath(path) for path in given}
    for path in given:
        figures = _figures(path)
        kind = kind_of(figures)
        if not kind:
            raise UsageError(
                f"--evaluation {path} is no file that moco evaluate --json or compare --json wrote"
            )
        found.append(Evaluation(path.name, kind, figures))
    for run in runs:
        before = f"{run.name}/" if len(runs) > 1 else ""
        found += evaluations_in(run.path, seen=seen, before=before)
    return found


def evaluations_in(
    folder: Path, *, seen: Set[str] = frozenset(), before: str = ""
) -> list[Evaluation]:
    """Return what the .json files of evaluations in a run's directory say.

    Args:
        seen: real paths of files that are left out.
        before: goes before each file's name in its title.
    """
    found = []
    for path in _beside(folder):
        figures = _figures(path) if os.path.realpath(path) not in seen else {}
        if kind := kind_of(figures):
            found.append(Evaluation(before + path.name, kind, figures))
    return found


def kind_of(figures: Mapping[str, Any]) -> str:
    """Return which evaluation wrote them, empty where none did."""
    if isinstance(figures.get("models"), list) and isinstance(figures.get("leads"), dict):
        return "comparison"
    if isinstance(figures.get("checkpoints"), list) and "chosen" in figures:
        return "label-free"
    if "draws" in figures and "measure" in figures:
        return "few labels"
    return next((kind for key, kind in KINDS.items() if key in figures), "")


def evaluations_section(found: Sequence[Evaluation]) -> str:
    """Return the tables, nothing where there is no evaluation."""
    parts = _scores([each for each in found if each.kind in (*KINDS.values(), "few labels")])
    for each in found:
        if each.kind == "comparison":
            parts += _comparison(each)
        if each.kind == "label-free":
            parts += _label_free(each)
    return section("What the features are worth", *parts, key="evaluations") if parts else ""


def _scores(found: Sequence[Evaluation]) -> list[str]:
    rows = [
        [each.kind + _detail(each.figures), measure, score, *_made_on(each.figures), each.title]
        for each in found
        for measure, score in measured(each)
    ]
    if not rows:
        return []
    columns = ["evaluation", "measure", "score", "layer", "test images", "file"]
    return [table(columns, rows), paragraph("Below each score its 95 % interval.", "soft")]


def measured(each: Evaluation) -> list[tuple[str, str]]:
    """Return the evaluation's measures and scores; of kNN the headline, whatever is best."""
    figures = each.figures
    measure = str(figures.get("measure", "recall_at_1" if each.kind == "retrieval" else "top1"))
    title = MEASURES.get(measure, measure)
    if each.kind == "few labels":
        names = [name.removesuffix("_labels") for name in figures if name.endswith("_labels")]
        return [
            (f"{title}, {_plain(name)}", _interval(figures, name, measure))
            for name in names
            if number(figures.get(name)) is not None
        ]
    key = {"kNN": "headline_value", "linear probe": "value", "fine-tuning": "score"}.get(
        each.kind, measure
    )
    return [(title, _interval(figures, key if key in figures else measure, measure))]


def _comparison(each: Evaluation) -> list[str]:
    measure = str(each.figures.get("measure", ""))
    rows = []
    for model in each.figures["models"]:
        if isinstance(model, dict):
            scores = [model.get(kind) for kind in ("linear", "knn")]
            shown = [_interval(score, "value", measure, flat=False) for score in scores]
            rows.append([str(model.get("name", "")), *shown])
    title = MEASURES.get(measure, measure)
    columns = ["network", f"linear probe, {title}", f"kNN, {title}"]
    words = each.figures.get("words")
    kinds = words.values() if isinstance(words, dict) else []
    lines = [line for kind in kinds if isinstance(kind, list) for line in kind]
    return [
        f'<h3 class="group">{text(each.title)}: networks compared</h3>',
        table(columns, rows),
        *(paragraph(str(line), "soft") for line in dict.fromkeys(map(str, lines))),
    ]


def _label_free(each: Evaluation) -> list[str]:
    rows = []
    for checkpoint in each.figures["checkpoints"]:
        if isinstance(checkpoint, dict):
            values = [number(checkpoint.get(name)) for name in LABEL_FREE]
            figures = ["" if value is None else f"{value:.3g}" for value in values]
            rows.append([str(checkpoint.get("path", "")), *figures])
    return [
        f'<h3 class="group">{text(each.title)}: without labels</h3>',
        table(["checkpoint", *LABEL_FREE.values()], rows),
    ]


def _interval(figures: Any, key: str, measure: str, *, flat: bool = True) -> str:
    """Return a score over its interval: `key_low` and `key_high`, or `low` and `high`."""
    if not isinstance(figures, dict):
        return ""
    value = number(figures.get(key))
    ends = [number(figures.get(f"{key}_{end}" if flat else end)) for end in ("low", "high")]
    if value is None:
        return ""
    low, high = ends

    def shown(score: float) -> str:
        return f"{score:.3f}" if measure == "r2" else f"{100 * score:.1f}"

    large = shown(value) if measure == "r2" else f"{shown(value)} %"
    return large if low is None or high is None else f"{large}\n{shown(low)} to {shown(high)}"


def _detail(figures: Mapping[str, Any]) -> str:
    neighbours = number(figures.get("headline_neighbours", figures.get("neighbours")))
    if "sweep" in figures and neighbours is not None:
        return f", {neighbours:.0f} neighbours"
    return f", {figures['protocol']}" if isinstance(figures.get("protocol"), str) else ""


def _made_on(figures: Mapping[str, Any]) -> list[str]:
    images = number(figures.get("test_images", figures.get("queries")))
    layer = figures.get("layer")
    return [str(layer) if layer else "", "" if images is None else f"{images:,.0f}"]


def _plain(name: str) -> str:
    return name.replace("_", " ").replace("percent", " %")


def _figures(path: Path) -> dict[str, Any]:
    try:
        value = read_json(path)
    except (OSError, ValueError):
        return {}
    return value if isinstance(value, dict) else {}


def _beside(run: Path) -> list[Path]:
    try:
        names = sorted(name for name in os.listdir(run) if name.endswith(".json"))
    except OSError:
        return []
    return [run / name for name in names[:MOST_FILES] if name != "status.json"]
