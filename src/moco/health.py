"""Signs that a run learns nothing, from the figures that it writes anyway.

A loss near ln(K + 1) alone is no such sign: an untrained encoder has it, and while a queue fills
with real keys the loss rises towards it. What a healthy encoder never shows for long is that other
images' keys are as near to a query as its own.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from moco.dictionaries import Queue
from moco.info_nce import NO_IMAGE

SMALLEST_GAP = 1e-3
"""Between similarities to own and to other keys, in the mean of `WATCHED_STEPS`; the smallest of
our recorded runs' is 0.01, in their first steps."""
WATCHED_STEPS = 40


class HealthWatch:
    """Looks at each reading's figures and says once what is wrong.

    Args:
        chance_loss: ln(K + 1), or what it is with the recipe's terms.
    """

    def __init__(self, chance_loss: float) -> None:
        self.chance_loss = chance_loss
        self._recent: list[Mapping[str, Any]] = []
        self._told: set[str] = set()

    def look(self, rows: Sequence[Mapping[str, Any]], dictionary: object, stored: int) -> list[str]:
        """Return a line for each thing that is found wrong for the first time.

        Args:
            rows: of metrics.jsonl, since the last look.
            stored: keys that the dictionary was given by all processes since the run began.
        """
        self._recent = [*self._recent, *rows][-WATCHED_STEPS:]
        signs = {
            "collapse": sign_of_collapse(self._recent, self.chance_loss),
            "queue": sign_of_a_still_queue(dictionary, stored),
        }
        new = {kind: line for kind, line in signs.items() if line and kind not in self._told}
        self._told.update(new)
        return list(new.values())


def sign_of_collapse(rows: Sequence[Mapping[str, Any]], chance_loss: float) -> str | None:
    """Return a line on an encoder that gives all images one embedding, None where there is no sign.

    Args:
        rows: of metrics.jsonl, the latest last; the last `WATCHED_STEPS` that were taken count.
        chance_loss: ln(K + 1), or what it is with the recipe's terms.
    """
    taken = [row for row in rows if row["loss"] is not None][-WATCHED_STEPS:]
    if len(taken) < WATCHED_STEPS:
        return None
    gaps = [row["positive_similarity"] - row["negative_similarity"] for row in taken]
    loss = taken[-1]["loss"]
    if abs(sum(gaps)) / len(gaps) >= SMALLEST_GAP or abs(loss - chance_loss) > 0.02 * chance_loss:
        return None
    return (
        f"collapsed at step {taken[-1]['step']}: for {WATCHED_STEPS} steps other images' keys were "
        f"as near to a query as its own, and the loss sits at {loss:.3f}, chance, ln(K+1), being "
        f"{chance_loss:.3f}; lower optimizer.learning_rate, and look at the views with moco data "
        "preview"
    )


def sign_of_a_still_queue(dictionary: object, stored: int) -> str | None:
    """Return a line on a queue that does not take in the keys it is given, None where it does.

    Args:
        stored: keys that it was given by all processes since the run began.
    """
    if not isinstance(dictionary, Queue):
        return None
    size = len(dictionary.image_ids)
    empty = int((dictionary.image_ids <= NO_IMAGE).sum())
    if empty == max(0, size - stored):
        return None
    return (
        f"the queue is not updated: {empty} of its {size} keys are still the random ones of the "
        f"start after {stored} keys were made; Contrast.advance must store them"
    )
