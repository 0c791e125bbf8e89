"""The doctor: from a run's figures to a verdict in words, with evidence and remedy; torch-free.

What it knows is the table of `rules`. One verdict results: the first rule of the table that
finds a sickness, since causes come before what they cause; a cause that was seen earlier still
counts where all that is left to see is the collapse. What else is found stands below. What is about
speed alone never hides how the learning goes: "healthy, data bound".
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from moco.doctor.evidence import has_not_recovered
from moco.doctor.rules import CONSEQUENCES, LEARNS_WELL, RULES, STATES, Rule
from moco.doctor.signs import Moment, Signs, read_signs
from moco.recipe import Recipe


@dataclass(frozen=True)
class Finding:
    """One thing that was found."""

    name: str
    """A word or a few, such as "dictionary stale"."""
    is_sick: bool
    """False for what is normal, and told since people ask, and for what was found and has gone."""
    words: str
    """What it is, a sentence."""
    evidence: str
    """The figures that show it."""
    remedy: str
    """The setting to change; "" where nothing is to be done."""
    since_step: int | None
    """The step, from 0, after which it was first to be seen; None where that says nothing."""
    until_step: int | None
    """The last at which it was seen, None where it still is."""
    reference: str
    """Where the threshold is from."""
    only_speed: bool = False
    """It costs time and does not change what is learnt."""


@dataclass(frozen=True)
class Diagnosis:
    """How a run is."""

    verdict: str
    """Healthy, still filling, too early to say, or the name of the first sickness; with ", data
    bound" where that is found beside it."""
    words: str
    """The same as a sentence."""
    findings: tuple[Finding, ...]
    """The first is the verdict's, if any."""
    step: int | None
    """The last that was looked at, from 0; None before the first."""

    @property
    def is_sick(self) -> bool:
        """Whether something is wrong with the learning."""
        return any(finding.is_sick and not finding.only_speed for finding in self.findings)


def diagnose(
    recipe: Recipe,
    metrics: Sequence[Mapping[str, Any]],
    signals: Sequence[Mapping[str, Any]],
    *,
    images: int | None = None,
) -> Diagnosis:
    """Return how a run is, of its rows; anything in them may be missing, null or wrong.

    Args:
        metrics: rows of metrics.jsonl.
        signals: rows of signals.jsonl.
        images: how many images the run trains on, None where that is not known.
    """
    return diagnose_signs(Signs(recipe, metrics, signals, images))


def diagnose_run(run: Path) -> Diagnosis:
    """Return how the run in a directory is.

    Raises:
        CheckpointError: It is no run's directory, or its recipe cannot be read.
        OSError: A file cannot be read.
    """
    return diagnose_signs(read_signs(run))


def diagnose_signs(signs: Signs, *, with_past: bool = True) -> Diagnosis:
    """Return how a run is, of what it left.

    Args:
        with_past: also name, below a verdict that is not sick, what was found earlier and has gone.
    """
    moments = list(signs.moments())
    if not moments:
        return Diagnosis("too early to say", "Too early to say: no step is done yet.", (), None)
    now = moments[0]
    found = [of_moments(rule, moments) for rule in RULES if rule.find(now)]
    sick = [finding for finding in found if not finding.only_speed]
    slow = [finding for finding in found if finding.only_speed]
    if sick and sick[0].name in CONSEQUENCES:
        sick = [*earlier(causes_of(sick[0]), moments), *sick]
    if sick:
        return concluded(sick, slow, now)
    has_lasted = has_not_recovered(now)
    lasting = [rule for rule in RULES if not rule.only_speed]
    gone = earlier(lasting, moments) if with_past or has_lasted else []
    if gone and has_lasted:
        return concluded(gone, slow, now)
    gone = [replace(finding, is_sick=False) for finding in gone]
    return concluded([state_of(now), *gone], slow, now)


def concluded(findings: Sequence[Finding], slow: Sequence[Finding], now: Moment) -> Diagnosis:
    """Return the verdict of what was found; what costs time alone comes last."""
    main = findings[0]
    return Diagnosis(
        verdict=", ".join([main.name, *(finding.name for finding in slow)]),
        words=" ".join([main.words, *(finding.words for finding in slow)]),
        findings=(*findings, *slow),
        step=now.step,
    )


def state_of(now: Moment) -> Finding:
    """Return what a run is in which nothing is wrong."""
    rule = next((state for state in STATES if state.find(now)), LEARNS_WELL)
    return finding_of(rule, now, since_step=None)


def of_moments(rule: Rule, moments: Sequence[Moment], until_step: int | None = None) -> Finding:
    """Return what a rule finds in the first of the moments, and since when it did."""
    first = moments[0].step
    for moment in moments[1:]:
        if not rule.find(moment):
            break
        first = moment.step
    return finding_of(rule, moments[0], since_step=first, until_step=until_step)


def causes_of(main: Finding) -> Sequence[Rule]:
    """Return the rules of what may have brought about what is found: those above it in the table.

    A network that has collapsed hardly moves any more, and shows no longer what it died of.
    """
    return RULES[: [rule.name for rule in RULES].index(main.name)]


def earlier(rules: Sequence[Rule], moments: Sequence[Moment]) -> list[Finding]:
    """Return what these rules found before, last."""
    found = []
    for rule in rules:
        at = next((number for number, moment in enumerate(moments) if rule.find(moment)), None)
        if at is not None:
            found.append(of_moments(rule, moments[at:], until_step=moments[at].step))
    return found


def finding_of(
    rule: Rule, moment: Moment, *, since_step: int | None, until_step: int | None = None
) -> Finding:
    """Return what a rule found in a moment, for people."""
    return Finding(
        name=rule.name,
        is_sick=rule.is_sick,
        words=rule.sickness,
        evidence=rule.find(moment) or "",
        remedy=rule.remedy(moment),
        since_step=since_step,
        until_step=until_step,
        reference=rule.reference,
        only_speed=rule.only_speed,
    )
