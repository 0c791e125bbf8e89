"""The page of one run or several: all that is known of them, in one file."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from moco import __version__
from moco.data.images import StoredImages
from moco.doctor.diagnosis import Diagnosis
from moco.report.browser_page import Part, page, text
from moco.report.curves import curves_part
from moco.report.evaluation_tables import Evaluation, evaluations_section
from moco.report.run_facts import differing_settings, headline, what_differs, what_was_run
from moco.report.run_files import ReportedRun
from moco.report.thinned import number
from moco.report.verdicts import diagnosis_of, verdicts_part
from moco.report.view_samples import views_section

MADE_BY = "moco report"
"""Told in the page's head: a page of ours may be written anew, another's file not."""
LAST_FIGURES = ("loss", "pretext_top1", "positive_similarity", "negative_similarity")


@dataclass(frozen=True)
class Report:
    """What a page is made of, read and checked.

    Attributes:
        diagnoses: of each run.
        images: that the runs trained on, if they are there.
        more: further sections, before the settings.
    """

    runs: Sequence[ReportedRun]
    diagnoses: Sequence[Diagnosis]
    evaluations: Sequence[Evaluation] = ()
    images: StoredImages | None = None
    more: Sequence[Part] = field(default_factory=list)


def make_report(
    runs: Sequence[ReportedRun],
    evaluations: Sequence[Evaluation] = (),
    images: StoredImages | None = None,
    more: Sequence[Part] = (),
) -> Report:
    """Return what the page is made of, the doctor asked."""
    return Report(runs, [diagnosis_of(run) for run in runs], evaluations, images, more)


def report_page(report: Report) -> str:
    """Return the page as HTML."""
    runs = report.runs
    title = runs[0].name if len(runs) == 1 else f"{len(runs)} runs compared"
    parts = [
        verdicts_part(runs, report.diagnoses),
        Part(what_differs(runs), link=("differences", "What differs")),
        curves_part(runs),
        Part(evaluations_section(report.evaluations), link=("evaluations", "Features")),
        Part(_views(report), link=("views", "Views")),
        *report.more,
        Part(what_was_run(runs), link=("run", "What was run")),
        Part(_footer()),
    ]
    return page(title, parts, heading=_heading(title, runs), made_by=MADE_BY)


def report_figures(report: Report) -> dict[str, object]:
    """Return what `moco report --json` writes."""
    return {
        "runs": [
            _run_figures(run, diagnosis)
            for run, diagnosis in zip(report.runs, report.diagnoses, strict=True)
        ],
        "differing_settings": differing_settings(report.runs),
        "evaluations": [
            {"file": each.title, "kind": each.kind, "figures": dict(each.figures)}
            for each in report.evaluations
        ],
    }


def _run_figures(run: ReportedRun, diagnosis: Diagnosis) -> dict[str, object]:
    last: Mapping[str, Any] = run.last_rows[-1]
    return {
        "name": run.name,
        "path": str(run.path),
        "recipe": run.recipe.name,
        "state": run.state,
        "steps_done": run.steps_done,
        "images": run.images,
        "steps_per_epoch": run.steps_per_epoch,
        "chance_loss": run.recipe.chance_loss,
        **{name: number(last.get(name)) for name in LAST_FIGURES},
        "verdict": diagnosis.verdict,
        "words": diagnosis.words,
        "findings": [each.name for each in diagnosis.findings],
    }


def _views(report: Report) -> str:
    return "" if report.images is None else views_section(report.runs, report.images)


def _heading(title: str, runs: Sequence[ReportedRun]) -> str:
    """Return the page's head; of several runs the verdicts tell."""
    words = f'<p class="soft">{text(headline(runs[0]))}</p>' if len(runs) == 1 else ""
    return f'<header><p class="kicker">MoCo pre-training</p><h1>{text(title)}</h1>{words}</header>'


def _footer() -> str:
    when = time.strftime("%Y-%m-%d %H:%M %z")
    return (
        f'<footer><p class="soft">Written by moco {text(__version__)} on {when}. All that this '
        "page shows is in this file: it fetches nothing.</p></footer>"
    )
