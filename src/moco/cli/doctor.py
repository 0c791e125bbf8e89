"""`moco doctor`; no torch in here."""

from __future__ import annotations

import argparse
from collections.abc import Iterator, Sequence
from dataclasses import asdict
from pathlib import Path

from moco.cli.json_file import check_json_path, write_json
from moco.cli.output import printable, say
from moco.doctor.bands import SIGNALS, Band, healthy_bands
from moco.doctor.diagnosis import Diagnosis, Finding, diagnose_signs
from moco.doctor.signs import Signs, number, ordered, read_signs

SICK = 8
"""Exit code of a sick run or an unfit machine where --strict asks for one."""


def run(arguments: argparse.Namespace) -> int:
    """Say whether a run is healthy, or without one whether this machine is fit for runs."""
    check_json_path(arguments.json)
    if arguments.run is None:
        return look_at_the_machine(arguments)
    return look_at_a_run(arguments.run, arguments)


def look_at_the_machine(arguments: argparse.Namespace) -> int:
    """Print what was seen of this machine and what to do; return the exit code."""
    from moco.cli.doctor_machine import show_machine

    figures = show_machine()
    write_json(arguments.json, figures)
    return SICK if arguments.strict and figures["verdict"] == "bad" else 0


def look_at_a_run(path: Path, arguments: argparse.Namespace) -> int:
    """Print the verdict on a run, why, and what to do; return the exit code."""
    signs = read_signs(path)
    diagnosis = diagnose_signs(signs)
    latest = latest_signals(signs)
    bands = healthy_bands(signs.recipe.mechanism)
    for line in lines_of(path, signs, diagnosis):
        say(line)
    if latest:
        for line in table_of(latest, bands):
            say(line)
    write_json(arguments.json, figures_of(path, diagnosis, latest, bands))
    return SICK if arguments.strict and diagnosis.is_sick else 0


def lines_of(path: Path, signs: Signs, diagnosis: Diagnosis) -> Iterator[str]:
    """Yield the verdict and the findings, for people."""
    images = f", {signs.images:,} images" if signs.images else ""
    at = "no step yet" if diagnosis.step is None else f"after step {diagnosis.step:,}"
    yield printable(f"{path}: recipe {signs.recipe.name}{images}, {at}")
    yield f"verdict: {diagnosis.verdict}. {diagnosis.words}"
    if not signs.signals:
        yield (
            "no signals.jsonl: trained for fewer steps than the first signals take, without them, "
            "or by an older moco; judged by metrics.jsonl alone"
        )
    for finding in diagnosis.findings:
        yield ""
        yield f"{finding.name}{when(finding)}"
        if finding is not diagnosis.findings[0]:
            yield f"  {finding.words}"
        parts = {
            "evidence": finding.evidence,
            "remedy": finding.remedy,
            "threshold from": finding.reference if finding.is_sick else "",
        }
        yield from (f"  {title}: {text}" for title, text in parts.items() if text)


def when(finding: Finding) -> str:
    """Return since when a finding is to be seen, in words."""
    if finding.since_step is None:
        return ""
    if finding.until_step is None:
        return f", since step {finding.since_step:,}"
    return f", seen from step {finding.since_step:,} to {finding.until_step:,}"


def latest_signals(signs: Signs) -> dict[str, float]:
    """Return the newest value of each signal that has one."""
    rows = ordered(signs.signals)[-1:]
    known = {name: number(row.get(name)) for row in rows for name in SIGNALS}
    return {name: value for name, value in known.items() if value is not None}


def table_of(latest: dict[str, float], bands: dict[str, Band]) -> Iterator[str]:
    """Yield the signals' latest values beside those of healthy runs."""
    yield ""
    yield f"{'signal':<20} {'latest':>10}   seen in our healthy runs"
    for name, value in latest.items():
        band = bands.get(name)
        seen = f"{shown(band.low)} to {shown(band.high)}" if band else ""
        outside = "" if band is None or band.low <= value <= band.high else "  (outside)"
        yield f"{name:<20} {shown(value):>10}   {seen}{outside}".rstrip()
    if bands:
        yield (
            "Those were small runs on a CPU (docs/doctor.md): outside of their range is no sickness"
        )


def shown(value: float) -> str:
    """Return a figure in few letters."""
    return f"{value:,.0f}" if abs(value) >= 1000 else f"{value:.3g}"


def figures_of(
    path: Path, diagnosis: Diagnosis, latest: dict[str, float], bands: dict[str, Band]
) -> dict[str, object]:
    """Return what --json gives."""
    return {
        "run": str(path),
        "verdict": diagnosis.verdict,
        "words": diagnosis.words,
        "is_sick": diagnosis.is_sick,
        "step": diagnosis.step,
        "findings": plain(diagnosis.findings),
        "signals": latest,
        "healthy": {name: [band.low, band.high] for name, band in bands.items()},
    }


def plain(findings: Sequence[Finding]) -> list[dict[str, object]]:
    """Return the findings as JSON has them."""
    return [asdict(finding) for finding in findings]
