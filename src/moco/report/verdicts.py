"""How each run is: the doctor's verdict with its evidence, as the first thing one reads."""

from __future__ import annotations

from collections.abc import Sequence
from importlib import import_module
from importlib.util import find_spec
from typing import Any

from moco.report.browser_page import Part, packaged, text
from moco.report.run_facts import progress
from moco.report.run_files import ReportedRun


def diagnosis_of(run: ReportedRun) -> Any:
    """Return the doctor's diagnosis of a run; None without a doctor."""
    if find_spec("moco.doctor") is None:
        return None
    doctor = import_module("moco.doctor")
    return doctor.diagnose(run.recipe, run.last_rows, run.signals, images=run.images)


def verdicts_part(runs: Sequence[ReportedRun], diagnoses: Sequence[Any]) -> Part:
    """Return a card for each run that there is a diagnosis of."""
    cards = [
        _card(diagnosis, run if len(runs) > 1 else None)
        for run, diagnosis in zip(runs, diagnoses, strict=True)
        if diagnosis is not None
    ]
    if not cards:
        return Part("")
    return Part(
        f'<section id="verdict" aria-label="Verdict"><div class="cards">{"".join(cards)}</div>'
        "</section>",
        style=packaged("verdicts.css"),
    )


def _card(diagnosis: Any, run: ReportedRun | None) -> str:
    """Return a diagnosis; of one run among several with that run's name."""
    title = ""
    if run:
        title = f'<p class="kicker"><b>{text(run.name)}</b>: {text(progress(run))}</p>'
    verdict = diagnosis.verdict[:1].upper() + diagnosis.verdict[1:]
    findings = "".join(
        _finding(finding, is_first=number == 0) for number, finding in enumerate(diagnosis.findings)
    )
    return (
        f'<article class="card {_kind(diagnosis)}">{title}<h2>{text(verdict)}</h2>'
        f"<p>{text(diagnosis.words)}</p>{findings}</article>"
    )


def _kind(diagnosis: Any) -> str:
    """Return how a card is coloured: by what is wrong with the learning, else with its speed."""
    sick = [finding for finding in diagnosis.findings if finding.is_sick]
    if any(not getattr(finding, "only_speed", False) for finding in sick):
        return "bad"
    return "good" if diagnosis.verdict == "healthy" else "wait"


def _finding(finding: Any, *, is_first: bool) -> str:
    """Return what was found; the first is what the verdict is called after."""
    since = "" if finding.since_step is None else f"step {finding.since_step:,}"
    until = getattr(finding, "until_step", None)
    since += "" if until is None or not since else f", until step {until:,}"
    rows = {
        "evidence": finding.evidence,
        "seen since": since,
        "to change": finding.remedy,
        "reference": finding.reference,
    }
    listed = "".join(
        f"<dt>{title}</dt><dd>{text(words)}</dd>" for title, words in rows.items() if words
    )
    title = "" if is_first else f"<h3>{text(finding.name[:1].upper() + finding.name[1:])}</h3>"
    return f'<div class="finding">{title}<dl>{listed}</dl></div>'
