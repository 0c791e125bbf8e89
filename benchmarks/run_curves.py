"""Draw what runs wrote: loss against chance, similarities, pretext accuracy, side by side.

    python benchmarks/run_curves.py RUN [RUN ...] --out docs/figures/run-curves.png

A column a run, by its directory's name. Each point is the mean of 10 steps. The dashed line is
chance: ln(K + 1), or what it is with the recipe's terms. Needs matplotlib.
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path
from statistics import mean
from typing import Any

from matplotlib.axes import Axes
from matplotlib.figure import Figure

from moco.loading import load_with_recipe
from moco.run_records import read_lines, taken_steps

TOGETHER = 10
"""Steps of which one point is the mean."""


def means(rows: Sequence[dict[str, Any]], name: str) -> list[float]:
    """Return the mean of a figure over every so many steps."""
    values = [row[name] for row in rows]
    return [mean(values[start : start + TOGETHER]) for start in range(0, len(values), TOGETHER)]


def draw(run: Path, panels: Sequence[Axes]) -> None:
    """Draw one run's column."""
    _, recipe = load_with_recipe(run)
    rows = taken_steps(read_lines(run / "metrics.jsonl"))
    steps = means(rows, "step")
    loss, similarity, top1 = panels
    loss.plot(steps, means(rows, "loss"))
    loss.axhline(recipe.chance_loss, color="grey", linestyle="--", linewidth=0.8)
    loss.set_title(run.name.replace("-", " "))
    for name, style in (("positive", "-"), ("negative", ":")):
        similarity.plot(steps, means(rows, f"{name}_similarity"), style, label=name)
    top1.plot(steps, [100 * value for value in means(rows, "pretext_top1")])
    top1.set_xlabel("step")


def main() -> None:
    """Draw the runs."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("runs", type=Path, nargs="+")
    parser.add_argument("--out", type=Path, default=Path("run-curves.png"))
    options = parser.parse_args()
    figure = Figure(figsize=(2.6 * len(options.runs) + 0.6, 6), layout="constrained")
    grid = figure.subplots(3, len(options.runs), sharex=True, sharey="row", squeeze=False)
    for column, run in enumerate(options.runs):
        draw(run, grid[:, column])
    for panel, name in zip(grid[:, 0], ("loss", "similarity", "pretext top-1, %"), strict=True):
        panel.set_ylabel(name)
    grid[1][0].legend()
    figure.savefig(options.out, dpi=100)


if __name__ == "__main__":
    main()
