"""Signs that a run learns nothing, while it goes on: the doctor, asked at each reading.

A loss near ln(K + 1) alone is no such sign: an untrained encoder has it, and while a queue fills
with real keys the loss rises towards it.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from moco.dictionaries import Queue
from moco.doctor.diagnosis import Diagnosis, diagnose_signs
from moco.doctor.signs import WATCHED_STEPS, Signs
from moco.info_nce import NO_IMAGE
from moco.recipe import Recipe

STILL_QUEUE = "queue not updated"
REMEMBERED = 100
"""Rows of signals.jsonl: a run that has collapsed is named by what it was seen to die of."""


class HealthWatch:
    """Asks the doctor at each reading, and says once what is wrong.

    Args:
        images: how many the run trains on.
    """

    def __init__(self, recipe: Recipe, images: int) -> None:
        self.recipe, self.images = recipe, images
        self.diagnosis: Diagnosis | None = None
        """How the run was at the last look."""
        self._metrics: list[Mapping[str, Any]] = []
        self._signals: list[Mapping[str, Any]] = []
        self._told: set[str] = set()

    def hear(self, signals: Mapping[str, Any]) -> None:
        """Take a row of signals.jsonl, for the next look."""
        self._signals = [*self._signals, signals][-REMEMBERED:]

    def remember(self, rows: Iterable[Mapping[str, Any]]) -> None:
        """Take the rows that a continued run had before."""
        for row in deque(rows, maxlen=REMEMBERED):
            self.hear(row)

    def look(self, rows: Sequence[Mapping[str, Any]], dictionary: object, stored: int) -> list[str]:
        """Return a line for each sickness that is found for the first time.

        Args:
            rows: of metrics.jsonl, since the last look.
            stored: keys that the dictionary was given by all processes since the run began.
        """
        self._metrics = [*self._metrics, *rows][-WATCHED_STEPS:]
        signs = Signs(self.recipe, self._metrics, self._signals, self.images)
        self.diagnosis = diagnose_signs(signs, with_past=False)
        found = {
            finding.name: f"{finding.name} at step {self.diagnosis.step}: {finding.evidence}; "
            f"{finding.remedy}"
            for finding in self.diagnosis.findings
            if finding.is_sick
        }
        if line := sign_of_a_still_queue(dictionary, stored):
            found[STILL_QUEUE] = line
        new = {name: line for name, line in found.items() if name not in self._told}
        self._told.update(new)
        return list(new.values())


def sign_of_a_still_queue(dictionary: object, stored: int) -> str | None:
    """Return a line on a queue that does not take in the keys it is given, None where it does.

    Args:
        stored: keys that it was given by all processes since the run began.
    """
    if not isinstance(dictionary, Queue):
        return None
    size = len(dictionary.image_ids)
    empty = int((dictionary.image_ids <= NO_IMAGE).sum())
    if empty <= max(0, size - stored):  # fewer where it began with the keys of another run
        return None
    return (
        f"the queue is not updated: {empty} of its {size} keys are still the random ones of the "
        f"start after {stored} keys were made; Contrast.advance must store them"
    )
