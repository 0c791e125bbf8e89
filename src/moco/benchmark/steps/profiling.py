"""Where a step's time goes, part by part, and how far it is from the floor."""

from __future__ import annotations

import contextlib
import os
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import torch
from torch.profiler import ProfilerActivity, profile, record_function

from moco.benchmark.steps.comparing import StepComparison, StepResult
from moco.benchmark.steps.floor import Ceilings, bytes_of_step, measure_ceilings
from moco.benchmark.steps.learner import PARTS, Learner, Parts, StepRow
from moco.benchmark.timing import elapsed, one_thread
from moco.errors import StorageError

REST = "rest"
PROFILED = ("ours", "official")
STEPS = {"cpu": 2}
"""Steps that parts are measured over, by kind of device; elsewhere 20."""


class Stopwatch:
    """Gives each moment to the innermost part that is being done."""

    def __init__(self, clock: Callable[[], float]) -> None:
        self.seconds = dict.fromkeys((*PARTS, REST), 0.0)
        self._clock, self._inside = clock, [REST]
        self._since = clock()

    @contextmanager
    def __call__(self, name: str) -> Iterator[None]:
        """Give what is done within the block to the part of this name."""
        self.change()
        self._inside.append(name)
        with record_function(name):
            yield
            self.change()
        self._inside.pop()

    def change(self) -> None:
        """Give the time since the last change to the part that was being done."""
        now = self._clock()
        self.seconds[self._inside[-1]] += now - self._since
        self._since = now


@dataclass(frozen=True)
class StepProfile:
    """Where a row's time goes."""

    name: str
    title: str
    shares: dict[str, float]
    """Of the time of a step, by part."""
    bytes_per_step: int
    operations_per_step: int
    ceilings: Ceilings
    seconds_per_step: float
    """The median of what was timed, without the waiting between parts."""

    @property
    def operation_seconds(self) -> float:
        """What the operations alone would take."""
        return self.operations_per_step / self.ceilings.operations_per_second

    @property
    def byte_seconds(self) -> float:
        """What reading and writing alone would take."""
        return self.bytes_per_step / self.ceilings.bytes_per_second

    @property
    def floor_share(self) -> float:
        """The longer of both, as a share of what a step takes."""
        return max(self.operation_seconds, self.byte_seconds) / self.seconds_per_step


def profile_steps(comparison: StepComparison, trace: Path) -> list[StepProfile]:
    """Return our and the official step's profiles; write a trace of a step of ours.

    Raises:
        StorageError: The trace cannot be written.
    """
    results = {result.row.name: result for result in comparison.results}
    with one_thread():
        write_trace(results["ours"].row, trace)
        return [profile_of(results[name]) for name in PROFILED]


def profile_of(result: StepResult) -> StepProfile:
    """Take some more steps of a row and return where their time goes."""
    row = result.row
    precision = torch.float32 if row.exact else torch.bfloat16
    return StepProfile(
        row.name,
        row.title,
        shares_of_parts(row, STEPS.get(row.device.type, 20)),
        bytes_of_step(row),
        result.work.operations,
        measure_ceilings(row.device, precision),
        row.images / result.rate,
    )


def shares_of_parts(row: StepRow, steps: int) -> dict[str, float]:
    """Return the share of each part, the device waited for wherever one begins or ends."""
    watch = Stopwatch(lambda: elapsed(row))
    with told(row.learner, watch):
        for number in range(steps):
            row.run(number)
    watch.change()
    total = sum(watch.seconds.values())
    return {name: seconds / total for name, seconds in watch.seconds.items()}


def write_trace(row: StepRow, path: Path) -> None:
    """Write what torch's profiler saw of a step; chrome://tracing and ui.perfetto.dev show it.

    Raises:
        StorageError: It cannot be written.
    """
    os.environ.setdefault("KINETO_LOG_LEVEL", "99")  # it says much that nobody asked for
    activities = [ProfilerActivity.CPU]
    if row.device.type == "cuda":
        activities.append(ProfilerActivity.CUDA)
    with profile(activities=activities) as profiler, told(row.learner, record_function):
        row.run(0)
    began = time.time()
    with contextlib.suppress(RuntimeError):  # what torch says names no file
        profiler.export_chrome_trace(str(path))
    if not path.is_file() or path.stat().st_mtime < began - 2:
        raise StorageError(f"cannot write --profile {path}; name a file in a writable folder")


@contextmanager
def told(learner: Learner, parts: Parts) -> Iterator[None]:
    """Have the parts of the steps within the block told."""
    end = learner.tell(parts)
    try:
        yield
    finally:
        end()
