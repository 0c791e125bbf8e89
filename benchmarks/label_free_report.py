"""Tables and a figure of what benchmarks/label_free_tracking.py measured.

    python benchmarks/label_free_report.py RUN

Reads RUN/label-free-tracking.json; writes RUN/label-free-tracking.md and .png.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import torch
from matplotlib.figure import Figure

from moco.evaluation.label_free import MEASURES
from moco.evaluation.number_scores import spearman

Checkpoints = list[dict[str, Any]]

SETS = ("cifar10", "keys too fast", "solar")
"""Runs with many checkpoints; the others, with one each, are the fourth set."""
LATE = 4
"""Checkpoints after the first so many, when the run has begun to learn."""
COLOURS = {"cifar10": "#0072B2", "keys too fast": "#D55E00", "settings": "#009E73"}


def readings(checkpoints: Checkpoints, layer: str) -> dict[str, list[float | None]]:
    """Return each measure over the checkpoints, turned so that more is meant to be better."""
    found: dict[str, list[float | None]] = {}
    for name, measure in MEASURES.items():
        sign = 1 if measure.better == "higher" else -1
        found[measure.title] = [sign * point[layer][name] for point in checkpoints]
    found["alignment + uniformity"] = [
        -point[layer]["alignment"] - point[layer]["uniformity"] for point in checkpoints
    ]
    found["pretext top-1 of the log"] = [point["pretext_top1"] for point in checkpoints]
    found["loss of the log"] = [
        None if point["loss"] is None else -point["loss"] for point in checkpoints
    ]
    found["no measure: the step"] = [point["step"] for point in checkpoints]
    return found


def tracked(values: list[float | None], checkpoints: Checkpoints) -> str:
    """Return the correlation with linear accuracy, and how far the choice is below the best."""
    pairs = [
        (value, point["linear"])
        for value, point in zip(values, checkpoints, strict=True)
        if value is not None
    ]
    best = max(point["linear"] for point in checkpoints)
    told, linear = torch.tensor(pairs, dtype=torch.double).T
    correlation = spearman(told, linear)
    if correlation != correlation:
        return "-"
    chosen = max(pairs, key=lambda pair: pair[0])[1]
    short = f" (n = {len(pairs)})" if len(pairs) < len(checkpoints) else ""
    return f"{correlation:+.2f}{short}, {100 * (best - chosen):.1f}"


def sets_of(results: dict[str, Checkpoints]) -> dict[str, Checkpoints]:
    """Return the checkpoints that are compared with each other."""
    sets = {name: results[name] for name in SETS}
    sets |= {f"{name}, late": results[name][LATE:] for name in ("cifar10", "solar")}
    alone = [name for name in results if name not in SETS]
    sets["settings"] = [point for name in alone for point in results[name]]
    every = [name for name in results if name != "solar"]
    sets["all of CIFAR-10"] = [point for name in every for point in results[name]]
    return sets


def tables(results: dict[str, Checkpoints]) -> str:
    """Return Markdown: what tracked what, and every checkpoint."""
    sets = sets_of(results)
    lines = []
    for layer in ("backbone", "head"):
        lines += [f"## {layer}: Spearman's rho, points lost by the choice", ""]
        heads = [f"{name} (n = {len(points)})" for name, points in sets.items()]
        lines += [f"| measure | {' | '.join(heads)} |", "|---" * (len(sets) + 1) + "|"]
        titles = readings(results["solar"], layer)
        for title in titles:
            cells = [tracked(readings(points, layer)[title], points) for points in sets.values()]
            lines.append(f"| {title} | {' | '.join(cells)} |")
        lines.append("")
    lines += ["## every checkpoint, backbone", ""]
    columns = ["run", "step", "linear", *(measure.title for measure in MEASURES.values())]
    lines += [f"| {' | '.join(columns)} |", "|---" * len(columns) + "|"]
    for name, points in results.items():
        for point in points:
            values = [point["backbone"][measure] for measure in MEASURES]
            figures = [f"{values[0]:.1f}", *(f"{value:.3f}" for value in values[1:])]
            row = [name, str(point["step"]), f"{100 * point['linear']:.1f}", *figures]
            lines.append(f"| {' | '.join(row)} |")
    return "\n".join(lines) + "\n"


def draw(results: dict[str, Checkpoints], file: Path) -> None:
    """Write a panel for each measure: CIFAR-10 above, solar cells below."""
    sets = sets_of(results)
    figure = Figure(figsize=(13, 4.8), layout="constrained")
    panels = figure.subplots(2, len(MEASURES), sharey="row")
    for column, (name, measure) in enumerate(MEASURES.items()):
        above, below = panels[0][column], panels[1][column]
        for title, colour in COLOURS.items():
            points = sets[title]
            x = [point["backbone"][name] for point in points]
            y = [100 * point["linear"] for point in points]
            joined = 0.0 if title == "settings" else 0.6  # those are no steps of one run
            above.plot(x, y, "-o", color=colour, linewidth=joined, markersize=4, label=title)
        x = [point["backbone"][name] for point in sets["solar"]]
        y = [100 * point["linear"] for point in sets["solar"]]
        below.plot(x, y, "-o", color="#CC79A7", linewidth=0.6, markersize=4)
        below.set_xlabel(f"{measure.title}\n(meant to be {measure.better})", fontsize=8)
        for axes in (above, below):
            axes.spines[["top", "right"]].set_visible(False)
            axes.tick_params(labelsize=7)
    panels[0][0].set_ylabel("CIFAR-10: linear, top-1 (%)", fontsize=8)
    panels[1][0].set_ylabel("solar: linear, ROC AUC (%)", fontsize=8)
    panels[0][0].legend(frameon=False, fontsize=7)
    figure.savefig(file, dpi=100)


def write_report(root: Path) -> None:
    """Write the tables and the figure beside the results."""
    results = json.loads((root / "label-free-tracking.json").read_text())
    (root / "label-free-tracking.md").write_text(tables(results))
    draw(results, root / "label-free-tracking.png")


if __name__ == "__main__":
    if len(sys.argv) != 2:
        sys.exit("usage: python benchmarks/label_free_report.py RUN")
    write_report(Path(sys.argv[1]))
