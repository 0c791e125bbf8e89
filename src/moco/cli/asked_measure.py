"""`--measure`: what is scored, and how scores are shown."""

from __future__ import annotations

from moco.evaluation.compare import Measure, fitting_measure
from moco.evaluation.feature_set import FeatureSet


def asked_measure(asked: str, test: FeatureSet) -> Measure | None:
    """Return the measure that was asked for, None for what suits the labels.

    Raises:
        UsageError: It does not fit the labels.
    """
    if asked == "auto":
        return None
    return fitting_measure(asked, test.labels, len(test.classes))


def shown(value: float, *, plain: bool) -> str:
    """Return a share in percent, or a number as it is."""
    return f"{value:.4g}" if plain else f"{100 * value:.2f} %"
