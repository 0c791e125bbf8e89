"""A study's results as text: the table, the verdicts, and everything as plain values."""

from __future__ import annotations

import json
from collections.abc import Sequence
from statistics import mean, stdev
from typing import Any

from moco.recipe_files import recipe_to_dict
from moco.report.study_figure import draw
from moco.studies.cells import epoch_curves, write_whole
from moco.studies.grid import Results, plan_of
from moco.studies.spec import MEASURES, Claim

MEASURE_NAMES = {
    "linear": "linear",
    "knn_200": "kNN 200",
    "knn_20": "kNN 20",
    "pretext_top1": "pretext top-1",
}
COLUMNS = ["setting", "paper, ImageNet", *MEASURE_NAMES.values()]
UNTRAINED, PIXELS = "untrained with statistics", "raw pixels"


def write_results(results: Results) -> None:
    """Write RUN/study-NAME.json, .md, .png and .svg.

    Raises:
        StorageError: One cannot be written.
    """
    file = results.grid.file
    write_whole(file, json.dumps(plain_results(results), indent=1) + "\n")
    write_whole(file.with_suffix(".md"), markdown(results))
    draw(results, file)


def table_rows(results: Results) -> list[list[str]]:
    """Return a row for each setting and reference: mean and deviation over seeds, in percent."""
    rows = []
    for setting in results.grid.settings:
        figures = [
            spread(list(results.values(setting.name, measure).values())) for measure in MEASURES
        ]
        failures = results.diverged()[setting.name]
        name = setting.name + (f" ({failures} diverged)" if failures else "")
        rows.append([name, setting.paper, *figures])
    for name, scored in ((UNTRAINED, results.untrained), (PIXELS, [results.pixels])):
        if not any(scored):
            continue
        found = [
            spread([scores[measure] for scores in scored if measure in scores])
            for measure in MEASURES
        ]
        rows.append([name, "", *found])
    return rows


def spread(values: Sequence[float]) -> str:
    """Return mean ± standard deviation over seeds in percent, empty without values."""
    if not values:
        return ""
    middle = f"{100 * mean(values):.1f}"
    return middle if len(values) == 1 else f"{middle} ± {100 * stdev(values):.1f}"


def claim_rows(results: Results) -> list[list[str]]:
    """Return a row for each claim: what it says, the measure, the difference in points, verdict."""
    rows = []
    for claim in claims(results):
        found = results.difference(claim)
        lead = "" if found.mean is None else f"{100 * found.mean:+.1f}"
        if found.low is not None and found.high is not None:
            lead += f" ({100 * found.low:+.1f} to {100 * found.high:+.1f})"
        rows.append([claim.text, MEASURE_NAMES[claim.measure], lead, found.verdict])
    return rows


CLAIM_COLUMNS = ["claim", "measure", "difference in points (95 %)", "verdict"]


def claims(results: Results) -> tuple[Claim, ...]:
    """Return the study's claims."""
    return results.grid.study.claims(results.grid.settings)


def markdown(results: Results) -> str:
    """Return the results as a page of Markdown."""
    grid = results.grid
    study, base = grid.study, grid.base
    failed = [
        f"- {name}, seed {seed}: {scores['failed']}"
        for (name, seed), scores in results.cells.items()
        if scores["failed"]
    ]
    lines = [
        f"# {study.title}",
        "",
        f"{study.source}. Recipe {base.name}, {base.epochs} epochs, batch {base.batch_size}, "
        f"{len(grid.bench.train):,} images, {len(grid.bench.test):,} test images; "
        f"{len(results.cells)} of {grid.runs} runs, seeds 0 to {grid.seeds - 1}.",
        "",
        "Top-1 in percent, mean ± standard deviation over seeds. Pretext top-1 is of the last "
        "epoch. The paper's figures are of ImageNet's linear probe.",
        "",
        *_table(COLUMNS, table_rows(results)),
        "",
        "## The paper's claims",
        "",
        *_table(CLAIM_COLUMNS, claim_rows(results)),
        "",
        *(["## Diverged", "", *failed, ""] if failed else []),
        f"![{study.title}]({grid.file.with_suffix('.png').name})",
    ]
    return "\n".join(lines) + "\n"


def plain_results(results: Results) -> dict[str, Any]:
    """Return everything as JSON has it: each seed's figures, the recipes, the verdicts."""
    grid = results.grid
    return {
        "plan": plan_of(grid),
        "source": grid.study.source,
        "settings": [
            {
                "name": setting.name,
                "series": setting.series,
                "x": setting.x,
                "paper": setting.paper,
                "recipe": recipe_to_dict(setting.recipe),
                "seeds": [
                    {
                        **scores,
                        "cell": grid.bench.directory(setting.recipe, seed).name,
                        **(_curves(results, setting.name, seed) if grid.bench.watched else {}),
                    }
                    for (name, seed), scores in results.cells.items()
                    if name == setting.name
                ],
            }
            for setting in grid.settings
        ],
        "untrained": results.untrained,
        "pixels": results.pixels,
        "claims": [
            {
                "text": claim.text,
                "measure": claim.measure,
                "better": list(claim.better),
                "worse": list(claim.worse),
                "seeds": found.seeds,
                "difference": found.mean,
                "low": found.low,
                "high": found.high,
                "verdict": found.verdict,
            }
            for claim in claims(results)
            for found in (results.difference(claim),)
        ],
    }


def _curves(results: Results, name: str, seed: int) -> dict[str, Any]:
    setting = next(setting for setting in results.grid.settings if setting.name == name)
    return {"epochs": epoch_curves(results.grid.bench.directory(setting.recipe, seed))}


def _table(columns: list[str], rows: list[list[str]]) -> list[str]:
    lines = [columns, ["---"] * len(columns), *rows]
    return [f"| {' | '.join(line)} |" for line in lines]
