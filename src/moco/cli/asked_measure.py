"""`--measure`: what is scored, and how scores are shown."""

from __future__ import annotations

from moco.errors import UsageError
from moco.evaluation.compare import Measure
from moco.evaluation.feature_set import FeatureSet, task_of

MEASURES: dict[str, tuple[Measure, ...]] = {
    "one_class": ("top1", "balanced_accuracy", "macro_f1", "roc_auc"),
    "several_classes": ("mean_average_precision",),
    "number": ("r2",),
}
"""What may be asked for by kind of labels."""


def asked_measure(asked: str, test: FeatureSet) -> Measure | None:
    """Return the measure that was asked for, None for what suits the labels.

    Raises:
        UsageError: It does not fit the labels.
    """
    if asked == "auto":
        return None
    fitting = MEASURES[task_of(test)]
    found = next((measure for measure in fitting if measure == asked), None)
    if found is None or (found == "roc_auc" and len(test.classes) != 2):
        names = [name for name in fitting if name != "roc_auc" or len(test.classes) == 2]
        raise UsageError(
            f"--measure {asked} does not fit these labels ({len(test.classes)} classes); choose "
            f"{', '.join(names)} or auto"
        )
    return found


def shown(value: float, *, plain: bool) -> str:
    """Return a share in percent, or a number as it is."""
    return f"{value:.4g}" if plain else f"{100 * value:.2f} %"
