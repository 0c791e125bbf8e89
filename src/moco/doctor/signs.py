"""What the doctor looks at: a run's recipe and its figures, whatever their files hold.

Torch-free. A figure that is missing, null or no number is None here, and says nothing.
"""

from __future__ import annotations

import json
import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeGuard

from moco.errors import CheckpointError
from moco.plain_files import read_small
from moco.recipe import Recipe
from moco.recipe_files import read_recipe
from moco.run_records import read_lines

Row = Mapping[str, Any]
WATCHED_STEPS = 40
"""Rows of metrics.jsonl that a judgement looks back on."""
WATCHED_SIGNALS = 3
"""Rows of signals.jsonl that it looks back on."""
LOOKED_AT_EVERY = 20
"""Steps between judgements of a run that has no signals."""
MOST_STATUS_BYTES = 1 << 20


@dataclass(frozen=True)
class Moment:
    """A run as it stood after a step, with what is needed to judge it."""

    recipe: Recipe
    step: int
    """The last step whose figures are known, from 0."""
    metrics: Sequence[Row]
    """The last rows of metrics.jsonl up to it, of steps that were taken."""
    signals: Sequence[Row]
    """The last rows of signals.jsonl up to it."""
    images: int | None = None
    """How many the run trains on, None where that is not known."""

    def signal(self, name: str) -> float | None:
        """Return a signal's latest value."""
        return number(self.signals[-1].get(name)) if self.signals else None

    def lately(self, name: str) -> list[float]:
        """Return a signal's values in the last rows, those that are there, oldest first."""
        values = [number(row.get(name)) for row in self.signals]
        return [value for value in values if value is not None]

    def mean(self, name: str) -> float | None:
        """Return the mean of a figure of metrics.jsonl over the last steps."""
        values = [number(row.get(name)) for row in self.metrics]
        known = [value for value in values if value is not None]
        return sum(known) / len(known) if known else None

    @property
    def gap(self) -> float | None:
        """How much nearer a query is to its own key than to others, in the last steps' mean."""
        own, other = self.mean("positive_similarity"), self.mean("negative_similarity")
        return None if own is None or other is None else own - other

    @property
    def consistency(self) -> list[tuple[float, float]]:
        """Age in steps and cosine of keys of that age with the same views' keys now."""
        pairs = self.signals[-1].get("consistency") if self.signals else None
        if not isinstance(pairs, list):
            return []
        known = [
            (number(pair[0]), number(pair[1]))
            for pair in pairs
            if isinstance(pair, list) and len(pair) == 2
        ]
        return sorted((age, same) for age, same in known if age is not None and same is not None)

    @property
    def epochs_done(self) -> float | None:
        """Passes over the images until now."""
        return self.steps_done * self.recipe.batch_size / self.images if self.images else None

    @property
    def steps_done(self) -> int:
        """Steps until now."""
        return self.step + 1

    @property
    def filled(self) -> float:
        """Share of the dictionary that holds keys, 0 to 1; 1 where it is no queue."""
        recipe = self.recipe
        if recipe.mechanism != "queue":
            return 1.0
        known = self.signal("queue_filled")
        stored = recipe.keys_stored(self.steps_done) / recipe.dictionary.size
        return min(1.0, stored) if known is None else known


@dataclass(frozen=True)
class Signs:
    """All that a run left for the doctor, oldest first."""

    recipe: Recipe
    metrics: Sequence[Row]
    signals: Sequence[Row]
    images: int | None = None

    def moments(self) -> Iterator[Moment]:
        """Yield the run as it stood, the latest first, then after each row of signals."""
        metrics = [row for row in ordered(self.metrics) if number(row.get("loss")) is not None]
        signals = ordered(self.signals)
        steps = [row["step"] for row in metrics]
        looked_at = {row["step"] for row in signals} or set(
            steps[LOOKED_AT_EVERY - 1 :: LOOKED_AT_EVERY]
        )
        looked_at |= set(steps[-1:])
        until, taken = len(signals), len(metrics)
        for step in sorted(looked_at, reverse=True):
            while until and signals[until - 1]["step"] > step:
                until -= 1
            while taken and metrics[taken - 1]["step"] > step:
                taken -= 1
            yield Moment(
                self.recipe,
                step,
                metrics[max(0, taken - WATCHED_STEPS) : taken],
                signals[max(0, until - WATCHED_SIGNALS) : until],
                self.images,
            )


def number(value: object) -> float | None:
    """Return a finite number, None for anything else; true and false are none."""
    if isinstance(value, bool) or not isinstance(value, int | float):
        return None
    try:
        known = float(value)
    except OverflowError:
        return None
    return known if math.isfinite(known) else None


def ordered(rows: Sequence[Row]) -> list[Row]:
    """Return the rows whose step is one, in the order of their steps."""
    known = [row for row in rows if is_step(row.get("step"))]
    return sorted(known, key=lambda row: int(row["step"]))


def is_step(value: object) -> TypeGuard[int]:
    """Say whether a value can be the number of a step; larger ones a page's script would round."""
    return isinstance(value, int) and not isinstance(value, bool) and 0 <= value < 1 << 50


def read_signs(run: Path) -> Signs:
    """Return what a run directory holds for the doctor.

    Raises:
        CheckpointError: It is not there, is no run's, or its recipe cannot be read.
        OSError: A file cannot be read, or is no regular file.
    """
    if not run.is_dir():
        raise CheckpointError(f"{run} is no run directory; name one that moco pretrain made")
    if not (run / "recipe.yaml").exists():
        raise CheckpointError(
            f"{run} has no recipe.yaml, so it is no run's; name a directory that moco pretrain made"
        )
    return Signs(
        read_recipe(run / "recipe.yaml"),
        read_lines(run / "metrics.jsonl"),
        read_lines(run / "signals.jsonl"),
        images_of(run),
    )


def images_of(run: Path) -> int | None:
    """Return how many images a run trains on, as its status.json says; None where it does not."""
    try:
        status = json.loads(read_small(run / "status.json", MOST_STATUS_BYTES))
    except (OSError, ValueError, RecursionError):
        return None
    images = status.get("images") if isinstance(status, dict) else None
    return images if is_step(images) and images > 0 else None
