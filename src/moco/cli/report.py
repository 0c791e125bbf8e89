"""`moco report`."""

from __future__ import annotations

import argparse
import os
from collections.abc import Sequence
from pathlib import Path

from moco.cli.json_file import check_json_path, write_json
from moco.cli.output import printable, say
from moco.cli.progress_lines import ProgressLines
from moco.cli.report_map import check_map_options, mapped_images
from moco.data.sources.opening import open_images
from moco.doctor.diagnosis import Diagnosis
from moco.errors import StorageError, UsageError, storage_remedy
from moco.plain_files import write_own
from moco.report.browser_page import Part, is_made_by
from moco.report.charts import COLOURS
from moco.report.embedding_section import embedding_part, map_figures, no_map
from moco.report.evaluation_tables import read_evaluations
from moco.report.mapped_images import MappedImages
from moco.report.run_facts import progress
from moco.report.run_files import ReportedRun, read_runs
from moco.report.run_report import MADE_BY, make_report, report_figures, report_page


def run(arguments: argparse.Namespace) -> int:
    """Write the page and say where it is."""
    check_json_path(arguments.json)
    check_map_options(arguments)
    if len(arguments.runs) > COLOURS:
        raise UsageError(
            f"{len(arguments.runs)} runs are more than a page tells apart; name at most {COLOURS}"
        )
    runs = read_runs(arguments.runs)
    out = arguments.out or runs[0].path / "report.html"
    check_out(out)
    evaluations = read_evaluations(arguments.evaluation, runs)
    images = None if arguments.images is None else open_images(arguments.images)
    mapped = None
    if images is not None and arguments.map != "none":
        mapped = mapped_images(runs[0], images, arguments)
    report = make_report(runs, evaluations, images, map_parts(mapped, arguments.workers))
    html = report_page(report)
    write_page(out, html)
    tell(runs, report.diagnoses)
    say(printable(f"{out}: {len(html) / 1e6:.1f} MB, opens in any browser"))
    figures = {"report": str(out), **report_figures(report)}
    if isinstance(mapped, MappedImages):
        figures["map"] = map_figures(mapped)
    write_json(arguments.json, figures)
    return 0


def map_parts(mapped: MappedImages | str | None, workers: int) -> list[Part]:
    """Return the map's section, or why there is none."""
    match mapped:
        case None:
            return []
        case str():
            return [no_map(mapped)]
        case _:
            with ProgressLines("pictures") as lines:
                return [embedding_part(mapped, workers=workers, report=lines.report)]


def tell(runs: Sequence[ReportedRun], diagnoses: Sequence[Diagnosis]) -> None:
    """Print a line for each run: how it stands, and the verdict."""
    for each, diagnosis in zip(runs, diagnoses, strict=True):
        say(printable(f"{each.name}: {progress(each)}; {diagnosis.verdict}"))


def check_out(path: Path) -> None:
    """Refuse to replace anything but an earlier report, and a folder that cannot be written.

    Raises:
        UsageError: Something else is there.
        StorageError: Its folder is missing or not writable.
    """
    if os.path.isdir(path):
        raise UsageError(f"{path} is a folder; name a file with --out")
    folder = path.absolute().parent
    if not os.path.isdir(folder) or not os.access(folder, os.W_OK):
        raise StorageError(f"cannot write {path}; name a file in a writable folder with --out")
    if not os.path.lexists(path):
        return
    try:
        is_ours = not os.path.islink(path) and is_made_by(MADE_BY, path)
    except OSError:
        is_ours = False
    if not is_ours:
        raise UsageError(f"{path} is there and no report of ours; name another file with --out")


def write_page(path: Path, html: str) -> None:
    """Write the page aside and put it in its place.

    Raises:
        StorageError: It cannot be written.
    """
    aside = path.with_name(f".{path.name}.tmp-{os.getpid()}")
    try:
        write_own(aside, html)
        os.replace(aside, path)
    except OSError as error:
        raise StorageError(
            f"cannot write {path}: {error.strerror or error}; {storage_remedy(error)}, or name "
            "another --out"
        ) from error
    finally:
        aside.unlink(missing_ok=True)
