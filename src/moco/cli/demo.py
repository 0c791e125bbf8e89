"""`moco demo`."""

from __future__ import annotations

import argparse
import time
from pathlib import Path

from moco.cli.json_file import check_json_path, write_json
from moco.cli.output import say
from moco.cli.signals import StopSignals
from moco.cli.terminal import TerminalReport, duration, print_table
from moco.demo import RIVALS, Compared, compare, flat_figures, rival_features, verdict
from moco.demo_data import own_folder, solar_cells
from moco.device import pick_device
from moco.errors import StorageError
from moco.plan import make_plan
from moco.pretraining import train
from moco.report.demo_page import MEASURES, METHODS, demo_page, shown


def run(arguments: argparse.Namespace) -> int:
    """Pre-train, compare, write the page, end with the table."""
    check_json_path(arguments.json)
    began = time.monotonic()
    data = (
        solar_cells() if arguments.images is None else own_folder(arguments.images, arguments.seed)
    )
    device = pick_device(arguments.device)
    epochs = arguments.epochs
    if epochs is None and device.type == "cpu":
        epochs = data.cpu_epochs
    plan = make_plan(
        data.train,
        settings=data.settings,
        epochs=epochs,
        run=arguments.run or run_directory(arguments.images, arguments.seed),
        device=arguments.device,
        seed=arguments.seed,
        bad_limit=arguments.bad_limit,
    )
    report = TerminalReport()
    report.note(f"{data.title}: {data.about}")
    with StopSignals() as signals:
        train(plan, resume=arguments.resume, report=report, stop=signals.asked)
    rivals = rival_features(plan, data, report.note)
    compared = compare(rivals, data, report.note)
    page = plan.run / "report.html"
    try:
        html = demo_page(plan, data, compared, rivals)
        page.write_text(html, encoding="utf-8", errors="backslashreplace")
    except OSError as error:
        raise StorageError(f"cannot write {page}: {error}") from error
    print_comparison(compared)
    seconds = time.monotonic() - began
    say(f"done in {duration(seconds)}; the report is {page.resolve()}")
    write_json(
        arguments.json,
        {**flat_figures(compared), "seconds": round(seconds, 1), "report": str(page)},
    )
    return 0


def run_directory(images: Path | None, seed: int) -> Path:
    """Return where a demo is kept: apart for each folder and seed."""
    parts = ["demo", *([images.resolve().name] if images else []), *([str(seed)] if seed else [])]
    return Path("runs") / "-".join(parts)


def print_comparison(compared: list[Compared]) -> None:
    """Print the table and what it means in words."""
    if not compared:
        return
    columns = ["features"] + [
        f"{METHODS[row.method]}: {MEASURES[row.measure]} % (95 % interval)" for row in compared
    ]
    rows = [
        [name] + [shown(row.scores[name]).replace("\n", "  (") + ")" for row in compared]
        for name in RIVALS
    ]
    print_table("What the features are worth", columns, rows)
    say(verdict(compared))
