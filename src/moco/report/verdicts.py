"""How each run is: the doctor's verdict with its evidence, as the first thing one reads."""

from __future__ import annotations

from collections.abc import Sequence
from importlib import import_module
from importlib.util import find_spec
from typing import Any

from moco.report.browser_page import Part, packaged, text
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
        _card(diagnosis, run.name if len(runs) > 1 else "")
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


def _card(diagnosis: Any, name: str) -> str:
    findings = "".join(_finding(finding) for finding in diagnosis.findings)
    title = f'<p class="kicker">{text(name)}</p>' if name else ""
    verdict = diagnosis.verdict[:1].upper() + diagnosis.verdict[1:]
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


def _finding(finding: Any) -> str:
    remedy = f"<dt>to change</dt><dd>{text(finding.remedy)}</dd>" if finding.remedy else ""
    since = "" if finding.since_step is None else f", since step {finding.since_step:,}"
    return (
        f'<dl class="finding"><dt>{text(finding.name)}</dt>'
        f"<dd>{text(finding.evidence)}{since}</dd>{remedy}"
        f'<dt>from</dt><dd class="soft">{text(finding.reference)}</dd></dl>'
    )
