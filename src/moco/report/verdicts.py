"""How each run is: the doctor's verdict with its evidence, as the first thing one reads."""

from __future__ import annotations

from collections.abc import Sequence

from moco.doctor.diagnosis import Diagnosis, Finding, diagnose
from moco.report.browser_page import Part, packaged, text
from moco.report.run_facts import progress
from moco.report.run_files import ReportedRun


def diagnosis_of(run: ReportedRun) -> Diagnosis:
    """Return the doctor's diagnosis of a run."""
    return diagnose(run.recipe, run.last_rows, run.signals, images=run.images)


def verdicts_part(runs: Sequence[ReportedRun], diagnoses: Sequence[Diagnosis]) -> Part:
    """Return a card for each run."""
    cards = [
        _card(diagnosis, run if len(runs) > 1 else None)
        for run, diagnosis in zip(runs, diagnoses, strict=True)
    ]
    return Part(
        f'<section id="verdict" aria-label="Verdict"><div class="cards">{"".join(cards)}</div>'
        "</section>",
        style=packaged("verdicts.css"),
    )


def _card(diagnosis: Diagnosis, run: ReportedRun | None) -> str:
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


def _kind(diagnosis: Diagnosis) -> str:
    """Return how a card is coloured: by what is wrong with the learning, else with its speed."""
    sick = [finding for finding in diagnosis.findings if finding.is_sick]
    if any(not finding.only_speed for finding in sick):
        return "bad"
    return "good" if diagnosis.verdict == "healthy" else "wait"


def _finding(finding: Finding, *, is_first: bool) -> str:
    """Return what was found; the first is what the verdict is called after."""
    since = "" if finding.since_step is None else f"step {finding.since_step:,}"
    if since and finding.until_step is not None:
        since += f", until step {finding.until_step:,}"
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
