"""A study's figure, laid out as the paper's; matplotlib without a display."""

from __future__ import annotations

import importlib.util
from collections.abc import Sequence
from pathlib import Path
from statistics import mean, stdev
from typing import TYPE_CHECKING, Any

from moco.errors import StorageError, UsageError, storage_remedy
from moco.studies.cells import epoch_curves
from moco.studies.grid import Results
from moco.studies.spec import Setting

if TYPE_CHECKING:
    from matplotlib.axes import Axes

COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7")
"""Okabe and Ito's, told apart by colour-blind readers."""
MARKERS = ("o", "^", "s", "D")
PANELS = {"linear": "linear probe, top-1 (%)", "knn_200": "kNN 200, top-1 (%)"}


def require_matplotlib() -> None:
    """Refuse to begin what could not be drawn.

    Raises:
        UsageError: matplotlib is not installed.
    """
    if importlib.util.find_spec("matplotlib") is None:
        raise UsageError(
            "a study draws its figure with matplotlib, which is not installed; "
            "pip install 'moco-torch[viz]'"
        )


def draw(results: Results, file: Path) -> None:
    """Write the figure as .png and .svg beside `file`.

    Raises:
        StorageError: One cannot be written.
    """
    from matplotlib.figure import Figure

    figure = Figure(figsize=(9.6, 4.0), layout="constrained")
    left, right = figure.subplots(1, 2)
    match results.grid.study.figure:
        case "curves":
            _curves(left, results, "pretext_top1", "pretext task, top-1 (%)")
            _curves(right, results, "knn_200", "kNN 200, top-1 (%)")
        case kind:
            for axes, (measure, label) in zip((left, right), PANELS.items(), strict=True):
                draw_kind = _lines if kind == "lines" else _bars
                draw_kind(axes, results, measure)
                _untrained(axes, results, measure)
                axes.set_xlabel(results.grid.study.x_label)
                axes.set_ylabel(label)
    for axes in (left, right):
        axes.spines[["top", "right"]].set_visible(False)
        if axes.get_legend_handles_labels()[0]:
            axes.legend(frameon=False, fontsize=8)
    figure.suptitle(f"{results.grid.study.title} ({results.grid.study.source})", fontsize=10)
    for suffix in (".png", ".svg"):
        try:
            figure.savefig(file.with_suffix(suffix), dpi=150)
        except OSError as error:
            raise StorageError(
                f"cannot write {file.with_suffix(suffix)}: {error.strerror or error}; "
                f"{storage_remedy(error)} or choose another --run"
            ) from error


def _lines(axes: Axes, results: Results, measure: str) -> None:
    """Accuracy over a number, a line for each series."""
    series: dict[str, list[Setting]] = {}
    for setting in results.grid.settings:
        series.setdefault(setting.series, []).append(setting)
    ticks = sorted({int(setting.x) for setting in series[next(iter(series))]})
    for number, (name, settings) in enumerate(series.items()):
        points = [
            (float(setting.x), values)
            for setting in settings
            if (values := _percent(results, setting.name, measure))
        ]
        axes.errorbar(
            [x for x, _ in points],
            [mean(values) for _, values in points],
            yerr=[_deviation(values) for _, values in points],
            label=name,
            color=COLOURS[number],
            marker=MARKERS[number],
            capsize=3,
        )
    axes.set_xscale("log", base=2)
    axes.set_xticks(ticks, [f"{tick:,}" for tick in ticks])
    axes.minorticks_off()


def _bars(axes: Axes, results: Results, measure: str) -> None:
    """A bar for each setting."""
    for place, setting in enumerate(results.grid.settings):
        values = _percent(results, setting.name, measure)
        if values:
            bar = axes.bar(
                place, mean(values), yerr=_deviation(values), color=COLOURS[0], capsize=3, width=0.7
            )
            axes.bar_label(bar, fmt="%.1f", fontsize=8, padding=2)
        elif setting.name in results.diverged():
            axes.text(place, 0, "diverged", rotation=90, ha="center", va="bottom", fontsize=8)
    settings = results.grid.settings
    axes.set_xticks(range(len(settings)), [str(setting.x) for setting in settings], fontsize=8)


def _curves(axes: Axes, results: Results, measure: str, label: str) -> None:
    """Accuracy over epochs, the mean of the seeds and its deviation as a band."""
    from matplotlib.ticker import MaxNLocator

    for number, setting in enumerate(results.grid.settings):
        runs = _complete_curves(results, setting, measure)
        if not runs:
            continue
        epochs = list(range(1, len(runs[0]) + 1))
        middle = [100 * mean(values) for values in zip(*runs, strict=True)]
        deviation = [100 * _deviation(values) for values in zip(*runs, strict=True)]
        style = "-" if number == 0 else "--"
        axes.plot(epochs, middle, style, label=setting.name, color=COLOURS[number])
        low = [value - half for value, half in zip(middle, deviation, strict=True)]
        high = [value + half for value, half in zip(middle, deviation, strict=True)]
        axes.fill_between(epochs, low, high, color=COLOURS[number], alpha=0.2, linewidth=0)
    if measure != "pretext_top1":
        _untrained(axes, results, measure)
    axes.xaxis.set_major_locator(MaxNLocator(integer=True))
    axes.set_xlabel(results.grid.study.x_label)
    axes.set_ylabel(label)


def _complete_curves(results: Results, setting: Setting, measure: str) -> list[list[float]]:
    curves = [
        epoch_curves(results.grid.bench.directory(setting.recipe, seed))[measure]
        for (name, seed), scores in results.cells.items()
        if name == setting.name and not scores["failed"]
    ]
    return [curve for curve in curves if len(curve) == setting.recipe.epochs]


def _untrained(axes: Axes, results: Results, measure: str) -> None:
    values = [100 * scores[measure] for scores in results.untrained]
    if values:
        axes.axhline(mean(values), linestyle="--", color="0.45", linewidth=1, label="untrained")


def _percent(results: Results, setting: str, measure: str) -> list[float]:
    return [100 * value for value in results.values(setting, measure).values()]


def _deviation(values: Sequence[Any]) -> float:
    return float(stdev(values)) if len(values) > 1 else 0.0
