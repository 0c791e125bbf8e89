"""`moco study`."""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable

from moco.cli.json_file import check_json_path, write_json
from moco.cli.output import printable, say
from moco.cli.pretrain import command_workers
from moco.cli.signals import StopSignals
from moco.cli.terminal import TerminalReport, duration, print_table
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
from moco.studies.cells import score_pixels
from moco.studies.forecast import Forecast, epochs_within, forecast
from moco.studies.grid import (
    Grid,
    Options,
    Results,
    cells_left,
    is_budget_open,
    make_grid,
    run_study,
    with_epochs,
)
from moco.studies.spec import Setting


def run(arguments: argparse.Namespace) -> int:
    """Run a study, or show what it would do."""
    began = time.monotonic()
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
        bad_limit=arguments.bad_limit,
    )
    grid = make_grid(options)
    expected = None
    if arguments.dry_run or is_budget_open(options) or cells_left(grid):
        expected = forecast(grid, keep=not arguments.dry_run)
    if expected and is_budget_open(options):
        if not arguments.dry_run:
            score_pixels(grid.bench, grid.base)  # its probe may take minutes: before the choice
        left = arguments.budget - (time.monotonic() - began)
        grid = with_epochs(grid, options, epochs_within(grid, expected, left))
    seconds = expected.seconds_left(grid) if expected else 0.0
    say(headline(grid, seconds))
    if expected and arguments.dry_run:
        show_grid(grid, expected)
        figures: dict[str, object] = {"runs": grid.runs, "epochs": grid.base.epochs}
        write_json(arguments.json, {**figures, "predicted_seconds": round(seconds, 1)})
        return 0
    with StopSignals() as signals:
        results = run_study(grid, LineReport(grid, expected), signals.asked)
    write_results(results)
    show_results(results)
    page = printable(str(grid.file.with_suffix(".md")))
    say(f"done in {duration(time.monotonic() - began)}; {page} has the table and the figure")
    write_json(arguments.json, plain_results(results))
    return 0


def headline(grid: Grid, seconds: float) -> str:
    """Return in a line what the study compares, and how long that takes."""
    done = grid.runs - len(cells_left(grid))
    line = (
        f"{grid.study.title} ({grid.study.source}): {grid.runs} runs of {grid.base.epochs} epochs"
    )
    line += f", {done} of them done" if done else ""
    return line + (f", about {duration(seconds)}" if done < grid.runs else "")


class CellReport(SilentReport):
    """Passes on what the user should know of a cell, not its steps."""

    def __init__(self, say_line: Callable[[str], None]) -> None:
        self.say_line = say_line

    def note(self, text: str) -> None:
        if text.startswith(("passed over", "skipped", "going on")):
            self.say_line(f"    {text}")


class LineReport:
    """One line a cell, and the results so far after each."""

    def __init__(self, grid: Grid, expected: Forecast | None) -> None:
        self.grid = grid
        self.left = {
            (setting.name, seed): expected.cell_seconds(setting)
            for setting, seed in cells_left(grid)
            if expected is not None
        }
        self.foreseen = self.taken = 0.0
        self.began, self.number = 0.0, 0
        self.say_line = TerminalReport().note  # goes on when nobody reads any more

    def begun(self, number: int, setting: Setting, seed: int) -> Report:
        """Say which cell is next."""
        self.began, self.number = time.monotonic(), number
        if (setting.name, seed) in self.left:
            self.say_line(f"{number}/{self.grid.runs} {setting.name}, seed {seed}")
        return CellReport(self.say_line)

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
        self.say_line(f"{where}: {what}" + (f"  {left} left" if self.left else ""))
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
