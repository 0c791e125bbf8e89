"""`moco study`."""

from __future__ import annotations

import argparse
import time

from moco.cli.json_file import check_json_path, write_json
from moco.cli.pretrain import command_workers
from moco.cli.signals import StopSignals
from moco.cli.terminal import duration, print_table, printable, say
from moco.progress import Report, SilentReport
from moco.report.study_figure import require_matplotlib
from moco.report.study_page import (
    CLAIM_COLUMNS,
    COLUMNS,
    claim_rows,
    plain_results,
    table_rows,
    write_results,
)
from moco.study import (
    Forecast,
    Grid,
    Options,
    Results,
    epochs_within,
    forecast,
    is_budget_open,
    is_done,
    make_grid,
    resolve_base,
    run_study,
)
from moco.study_spec import Setting


def run(arguments: argparse.Namespace) -> int:
    """Run a study, or show what it would do."""
    check_json_path(arguments.json)
    require_matplotlib()
    options = Options(
        study=arguments.study,
        images=arguments.images,
        test=arguments.test,
        run=arguments.run,
        recipe=arguments.recipe,
        settings=arguments.settings,
        seeds=arguments.seeds,
        epochs=arguments.epochs,
        budget_seconds=arguments.budget,
        device=arguments.device,
        workers=command_workers(arguments.workers, arguments.device),
        precision=arguments.precision,
    )
    grid = make_grid(options)
    expected = forecast(grid, keep=not arguments.dry_run)
    if is_budget_open(options):
        epochs = epochs_within(grid, expected, arguments.budget)
        grid = grid.with_epochs(
            epochs, lambda count: resolve_base(options, grid.bench.train, count)
        )
    seconds = expected.total_seconds(grid)
    say(
        printable(
            f"{grid.study.title} ({grid.study.source}): {grid.runs} runs of {grid.base.epochs} "
            f"epochs, about {duration(seconds)}"
        )
    )
    if arguments.dry_run:
        show_grid(grid, expected)
        write_json(
            arguments.json,
            {"runs": grid.runs, "epochs": grid.base.epochs, "predicted_seconds": round(seconds, 1)},
        )
        return 0
    began = time.monotonic()
    with StopSignals() as signals:
        results = run_study(grid, LineReport(grid, expected), signals.asked)
    write_results(results)
    show_results(results)
    say(
        f"done in {duration(time.monotonic() - began)}; "
        f"{printable(str(grid.file.with_suffix('.md')))} has the table and the figure"
    )
    write_json(arguments.json, plain_results(results))
    return 0


class CellReport(SilentReport):
    """Passes on what the user should know of a cell, not its steps."""

    def note(self, text: str) -> None:
        if text.startswith(("passed over", "skipped", "going on")):
            say(printable(f"    {text}"))


class LineReport:
    """One line a cell, and the results so far after each."""

    def __init__(self, grid: Grid, expected: Forecast) -> None:
        self.grid, self.expected = grid, expected
        self.left = {
            (setting.name, seed): expected.cell_seconds(setting)
            for setting in grid.settings
            for seed in range(grid.seeds)
            if not is_done(grid, setting, seed)
        }
        self.foreseen = self.taken = 0.0
        self.began, self.number = 0.0, 0

    def begun(self, number: int, setting: Setting, seed: int) -> Report:
        """Say which cell is next."""
        self.began, self.number = time.monotonic(), number
        if (setting.name, seed) in self.left:
            say(printable(f"{number}/{self.grid.runs} {setting.name}, seed {seed}"))
        return CellReport()

    def scored(self, results: Results, setting: Setting, seed: int) -> None:
        """Say what came of it and how long the rest takes, and write what is known."""
        scores = results.cells[setting.name, seed]
        foreseen = self.left.pop((setting.name, seed), 0.0)
        if foreseen:
            self.foreseen += foreseen
            self.taken += time.monotonic() - self.began
        pace = self.taken / self.foreseen if self.foreseen else 1.0
        what = scores["failed"] or (
            f"linear {100 * scores['linear']:.1f} %  kNN 200 {100 * scores['knn_200']:.1f} %  "
            f"kNN 20 {100 * scores['knn_20']:.1f} %  "
            f"pretext {100 * scores['pretext_top1']:.1f} %  {scores['seconds']:.0f} s"
        )
        left = duration(pace * sum(self.left.values()))
        where = f"{self.number}/{self.grid.runs} {setting.name}, seed {seed}"
        say(printable(f"{where}: {what}" + (f"  {left} left" if self.left else "")))
        if foreseen:
            write_results(results)


def show_grid(grid: Grid, expected: Forecast) -> None:
    """Print what the study compares and how long each run takes."""
    rows = [
        [
            setting.name,
            setting.recipe.dictionary_in_words,
            str(setting.recipe.batch_size),
            f"{setting.recipe.optimizer.learning_rate:g}",
            f"{setting.recipe.key_momentum:g}",
            duration(expected.cell_seconds(setting)),
        ]
        for setting in grid.settings
    ]
    columns = ["setting", "dictionary", "batch", "learning rate", "key momentum", "a run"]
    print_table(f"{grid.seeds} seeds of {len(grid.settings)} settings", columns, rows)


def show_results(results: Results) -> None:
    """Print the table and the verdicts."""
    print_table(results.grid.study.title, COLUMNS, table_rows(results))
    print_table("The paper's claims", CLAIM_COLUMNS, claim_rows(results))
