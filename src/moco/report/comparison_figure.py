"""The figure of `moco compare`: scores with their intervals, and what lies apart."""

from __future__ import annotations

import importlib.util
import os
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING

from moco.errors import StorageError, UsageError, storage_remedy
from moco.evaluation.compare import Measure
from moco.evaluation.comparison import TITLES, Comparison, shown_value

if TYPE_CHECKING:
    from matplotlib.axes import Axes

SUFFIXES = (".png", ".svg", ".pdf")
SHOWN, OPEN = "#0072B2", "#999999"
"""Okabe and Ito's blue for what is told apart from the reference, grey for what is not."""
LONGEST_NAME = 40


def check_figure_path(file: Path | None) -> None:
    """Refuse to begin what could not be drawn.

    Raises:
        UsageError: Another kind of file, or matplotlib is not installed.
        StorageError: Its folder is missing or not writable.
    """
    if file is None:
        return
    if file.suffix.lower() not in SUFFIXES:
        raise UsageError(f"--plot must end in {', '.join(SUFFIXES)}, got {file}")
    folder = file.absolute().parent
    if not os.path.isdir(folder) or not os.access(folder, os.W_OK) or os.path.isdir(file):
        raise StorageError(f"cannot write --plot {file}; name a file in a writable folder")
    if importlib.util.find_spec("matplotlib") is None:
        raise UsageError(
            "a figure is drawn with matplotlib, which is not installed; "
            "pip install 'moco-torch[viz]'"
        )


def draw_comparisons(comparisons: Mapping[str, Comparison], title: str, file: Path) -> None:
    """Write a panel for each way to classify: a point and its interval for each network.

    Args:
        comparisons: by what a person calls the classifier; all of the same networks.

    Raises:
        StorageError: The file cannot be written.
    """
    from matplotlib.figure import Figure

    networks = len(next(iter(comparisons.values())).scores)
    size = (3.0 + 3.6 * len(comparisons), 1.5 + 0.42 * networks)
    figure = Figure(figsize=size, layout="constrained")
    panels = figure.subplots(1, len(comparisons), sharey=True, squeeze=False)[0]
    for axes, (classifier, comparison) in zip(panels, comparisons.items(), strict=True):
        _panel(axes, comparison)
        axes.set_title(classifier, fontsize=10)
    figure.suptitle(title, fontsize=10)
    try:
        figure.savefig(file, dpi=150)
    except OSError as error:
        raise StorageError(
            f"cannot write {file}: {error.strerror or error}; {storage_remedy(error)}"
        ) from error


def _panel(axes: Axes, comparison: Comparison) -> None:
    """One row a network, the first at the top; the reference's interval as a band over all."""
    measure, names = comparison.measure, list(comparison.scores)
    shown = {lead.rival: lead.is_shown for lead in comparison.leads}
    band = comparison.scores[comparison.reference]
    axes.axvspan(_scaled(band.low, measure), _scaled(band.high, measure), color="0.92", zorder=0)
    for row, name in enumerate(names):
        score = comparison.scores[name]
        low, value, high = (_scaled(x, measure) for x in (score.low, score.value, score.high))
        own = name == comparison.reference
        colour = "black" if own else SHOWN if shown[name] else OPEN
        axes.errorbar(
            [value],
            [row],
            xerr=[[max(value - low, 0)], [max(high - value, 0)]],
            marker="D" if own else "o",
            markersize=5,
            color=colour,
            capsize=3,
        )
        axes.annotate(
            shown_value(score.value, measure),
            (value, row),
            textcoords="offset points",
            xytext=(0, 6),
            ha="center",
            fontsize=8,
            color=colour,
        )
    axes.set_yticks(range(len(names)), [_short(name) for name in names], fontsize=8)
    axes.set_ylim(len(names) - 0.4, -0.7)
    axes.spines[["top", "right"]].set_visible(False)
    axes.set_xlabel(TITLES[measure] + ("" if measure == "r2" else " (%)"), fontsize=9)


def _scaled(value: float, measure: Measure) -> float:
    return value if measure == "r2" else 100 * value


def _short(name: str) -> str:
    """Return a name that fits beside the figure, dollars kept from becoming mathematics."""
    if len(name) > LONGEST_NAME:
        name = f"...{name[3 - LONGEST_NAME :]}"
    return name.replace("$", r"\$")
