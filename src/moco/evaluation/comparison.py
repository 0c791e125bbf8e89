"""Which of several networks is better, and whether the data suffice to say so.

Letters: T test rows, Y classes.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass

from torch import Tensor

from moco.evaluation.compare import Interval, Measure, compare_votes
from moco.evaluation.permutation import holm, permutation_p

LEVEL = 0.05
TITLES: dict[Measure, str] = {
    "roc_auc": "ROC AUC",
    "balanced_accuracy": "balanced accuracy",
    "top1": "top-1",
    "macro_f1": "macro F1",
    "mean_average_precision": "mean average precision",
    "r2": "R2",
}


@dataclass(frozen=True)
class Lead:
    """How far the reference lies above a rival, on the same test images."""

    rival: str
    difference: Interval
    """Reference - rival, with its 95 % paired bootstrap interval."""
    p: float
    """Of the paired permutation test, for all rivals together (Holm)."""
    images_needed: int | None
    """About how many test images would tell a difference of this size; None where as many as
    these do, or where the two are equal."""

    @property
    def is_shown(self) -> bool:
        """Whether the data suffice to say which is better: the test and the interval say so."""
        return self.p < LEVEL and self.difference.low * self.difference.high > 0


@dataclass(frozen=True)
class Comparison:
    """Several networks on the same test images, each against the reference."""

    measure: Measure
    reference: str
    test_images: int
    scores: dict[str, Interval]
    """By network, in the order given."""
    leads: tuple[Lead, ...]
    """Of the reference over each of the others."""


def compare_rivals(
    measure: Measure, votes: Mapping[str, Tensor], labels: Tensor, *, reference: str | None = None
) -> Comparison:
    """Return scores with intervals, and how sure each difference from the reference is.

    The intervals and tests are of the test images alone: of these networks, not of their methods,
    which other seeds would train to others.

    Args:
        votes: [T, Y] of each network, for the same images.
        reference: one of them, the first by default. It must not be chosen by these scores.

    Raises:
        ValueError: No votes, votes of other shapes, or an unknown reference.
    """
    reference = reference or next(iter(votes), "")
    if reference not in votes:
        raise ValueError(f"no votes of {reference!r} among {', '.join(votes)}")
    scores, leads = compare_votes(measure, votes, labels, reference)
    p_values = holm(
        {
            name: permutation_p(measure, (votes[reference], votes[name]), labels)
            for name in votes
            if name != reference
        }
    )
    return Comparison(
        measure,
        reference,
        len(labels),
        scores,
        tuple(
            Lead(name, lead, p_values[name], images_needed(lead, len(labels)))
            for name, lead in leads.items()
        ),
    )


def in_words(comparison: Comparison) -> list[str]:
    """Return a sentence for each rival, and one on what is best, for people."""
    title, reference = TITLES[comparison.measure], comparison.reference
    lines = [_sentence(reference, lead, title, comparison.measure) for lead in comparison.leads]
    if not comparison.leads:
        return lines
    highest = max(comparison.scores, key=lambda name: comparison.scores[name].value)
    if highest == reference and all(lead.is_shown for lead in comparison.leads):
        lines.append(f"best: {reference}, and the data suffice to say so")
    else:
        lines.append(f"highest {title}: {highest}")
    return lines


def shown_value(value: float, measure: Measure) -> str:
    """Return a score as people read it: R2 as it is, all others in percent."""
    return f"{value:.3f}" if measure == "r2" else f"{100 * value:.2f} %"


def _sentence(reference: str, lead: Lead, title: str, measure: Measure) -> str:
    points = abs(lead.difference.value)
    ends = sorted((abs(lead.difference.low), abs(lead.difference.high)))
    if measure == "r2":
        much, low, high = (f"{value:.3f}" for value in (points, *ends))
    else:
        much, low, high = (f"{100 * value:.1f}" for value in (points, *ends))
        much += " points"
    way = "better" if lead.difference.value > 0 else "worse"
    test = f"p = {lead.p:.2g}"
    if lead.is_shown:
        return (
            f"{reference} is {way} than {lead.rival} by {much} of {title} (95 % interval {low} to "
            f"{high}; {test}): the data suffice to say so"
        )
    if not points:
        return f"{reference} and {lead.rival} have the same {title}"
    needed = f"; about {lead.images_needed:,} test images would tell" if lead.images_needed else ""
    return (
        f"{reference} is {way} than {lead.rival} by {much} of {title}, but the data do not suffice "
        f"to say so ({test}){needed}"
    )


def images_needed(lead: Interval, images: int) -> int | None:
    """Return how many images would make the interval as short as the difference is far from 0.

    Intervals shorten as the root of the number of images. Rounded up to two digits.
    """
    half = (lead.high - lead.low) / 2
    if half <= abs(lead.value) or not lead.value:
        return None
    needed = images * (half / lead.value) ** 2
    digits: int = 10 ** max(0, math.floor(math.log10(needed)) - 1)
    return math.ceil(needed / digits) * digits
