"""How long a recipe trains until a kNN test reaches a score: what a faster schedule is judged by.

Images per second do not tell whether the same is learnt; seconds to the same score do.
"""

from __future__ import annotations

import statistics
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from moco.encoders import Encoder
from moco.errors import DataError, DivergedError, InterruptedRunError, UsageError
from moco.plan import Plan
from moco.pretraining import train
from moco.queue_filling import filling_steps
from moco.session import Monitor

STOPPED = 75
"""The exit code with which a run that has reached its score is stopped, as a launcher would."""


@dataclass(frozen=True)
class Target:
    """What is to be reached."""

    score: float
    """Share of the monitor's test images that neighbours vote right, above 0 to 1."""
    measure: str = "knn_top1"
    """Which of the monitor's scores: knn_top1, the backbone's, or knn_head_top1."""
    every_epochs: int = 1
    """It is tested after so many epochs each, and after the last."""

    def __post_init__(self) -> None:
        if not 0 < self.score <= 1:
            meant = f"; did you mean {self.score / 100:g}?" if 1 < self.score <= 100 else ""
            raise UsageError(f"the score must be a share above 0 to 1, got {self.score:g}{meant}")
        if self.every_epochs < 1:
            raise UsageError(f"epochs between tests must be from 1, got {self.every_epochs}")


@dataclass(frozen=True)
class Test:
    """One test of the encoder as it was after an epoch."""

    epoch: int
    """Epochs done."""
    score: float
    seconds: float
    """Of training up to here, on the wall, tests not counted."""
    processor_seconds: float
    """The same, of this process's own work on all its threads."""


@dataclass
class TimedRun:
    """One seed's run: its tests, and what they cost."""

    plan: Plan
    target: Target
    monitor: Monitor
    note: Callable[[str], None]
    tests: list[Test] = field(default_factory=list)
    monitor_seconds: float = 0.0
    failed: str = ""
    """Why it ended without reaching the score, where training broke down."""
    unusable: DataError | None = None
    """Why it cannot be tested."""
    _began: tuple[float, float] = (0.0, 0.0)
    _epochs: int = 0

    @property
    def reached(self) -> Test | None:
        """The first test that reaches the score, None where none does."""
        return next((test for test in self.tests if test.score >= self.target.score), None)

    @property
    def best(self) -> Test | None:
        """The first of the tests with the best score, None without tests."""
        return max(self.tests, key=lambda test: test.score, default=None)

    @property
    def filling_images(self) -> int:
        """Images whose keys filled the queue before the first step; their time is counted."""
        return len(filling_steps(self.plan)) * self.plan.recipe.batch_size

    def images_of(self, epochs: int) -> int:
        """Return how many images were trained on in so many epochs, each time counted."""
        return epochs * self.plan.steps_per_epoch * self.plan.recipe.batch_size

    def begin(self) -> None:
        """Start the clocks."""
        self._began = time.monotonic(), time.process_time()

    def watch(self, encoder: Encoder) -> Mapping[str, float]:
        """Test the encoder where it is time to: the monitor that training calls at epoch ends."""
        self._epochs += 1
        recipe = self.plan.recipe
        if self._epochs % self.target.every_epochs and self._epochs != recipe.epochs:
            return {}
        at, at_processor = time.monotonic(), time.process_time()
        try:
            scores = self.monitor(encoder)
        except DataError as error:
            self.unusable = error
            raise
        score = scores[self.target.measure]
        seconds, processor_seconds = at - self._began[0], at_processor - self._began[1]
        self.tests.append(Test(self._epochs, score, seconds, processor_seconds))
        self.note(
            f"seed {self.plan.seed}, epoch {self._epochs} of {recipe.epochs}: "
            f"{100 * score:.1f} % after {seconds:.1f} s"
        )
        took, took_processor = time.monotonic() - at, time.process_time() - at_processor
        self.monitor_seconds += took
        self._began = self._began[0] + took, self._began[1] + took_processor
        return scores

    def asks_to_stop(self) -> int | None:
        """Return an exit code once there is nothing left to find out."""
        return STOPPED if self.unusable is not None or self.reached is not None else None


def time_run(
    run: TimedRun, *, stop: Callable[[], int | None] = lambda: None, report: Any = None
) -> None:
    """Train afresh until the score is reached or all epochs are done; all is noted in `run`.

    Raises:
        InterruptedRunError: `stop` said so.
        DataError: The monitor's images, or the run's, cannot be used.
    """
    run.begin()
    try:
        train(
            run.plan,
            resume="never",
            monitor=run.watch,
            report=report,
            stop=lambda: stop() or run.asks_to_stop(),
        )
    except InterruptedRunError as error:
        if (code := stop()) is not None:
            raise InterruptedRunError(
                f"stopped in the run of seed {run.plan.seed}; its time is lost", code
            ) from error
    except DivergedError as error:
        run.failed = str(error)
    if run.unusable is not None:
        raise run.unusable


@contextmanager
def directories(out: Path | None) -> Iterator[Path]:
    """Give runs a folder, a temporary one where none is asked for."""
    if out is not None:
        yield out
        return
    with tempfile.TemporaryDirectory(prefix="moco-time-to-") as folder:
        yield Path(folder)


@dataclass(frozen=True)
class Spread:
    """A figure over seeds, a miss counting as longer than any."""

    median: float | None
    """None where the median seed missed."""
    low: float | None
    high: float | None
    """Extremes of those that reached; None where none did."""


def spread(figures: Sequence[float | None]) -> Spread:
    """Return the median and extremes of figures, None for each run that missed."""
    reached = [figure for figure in figures if figure is not None]
    if not reached:
        return Spread(None, None, None)
    all_of_them = [float("inf") if figure is None else figure for figure in figures]
    median = statistics.median(all_of_them)
    return Spread(None if median == float("inf") else median, min(reached), max(reached))
