"""A run stopped after any step, with any number of loading processes, goes on exactly (R3)."""

from __future__ import annotations

import importlib
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from killed_runs import drawing_monitor
from killing import differing_bytes, metrics_of, tell
from torch import Tensor

from moco.checkpoint import Checkpoint, load_newest
from moco.contrast import Contrast
from moco.errors import InterruptedRunError
from moco.plan import make_plan
from moco.recipe import Recipe
from moco.recipe_files import set_fields
from moco.recipes import MOCO_V2

train = importlib.import_module("moco.pretraining").train
Course = list[tuple[int, list[int]]]
STEPS, STEPS_PER_EPOCH = 24, 4
BOUNDARIES = range(1, 21)
"""The ends of five epochs are among them, and the steps around each."""


@pytest.fixture(scope="module")
def recipe(tiny_settings: list[str]) -> Recipe:
    queue = ["dictionary.size=48", "algorithm=adamw", "learning_rate=1e-3", "key_momentum=0.9"]
    fewer = ["views.order=[crop, horizontal_flip]", "epochs=6", "exclude_same_image=true"]
    return set_fields(MOCO_V2, [*tiny_settings, *queue, *fewer])


@contextmanager
def recorded_course() -> Iterator[Course]:
    """Give a list that receives each step taken and the ids of its images."""
    course: Course = []
    forward = Contrast.forward

    def record(self: Any, view_a: Tensor, view_b: Tensor, image_ids: Tensor, step: int) -> Any:
        course.append((step, image_ids.tolist()))
        return forward(self, view_a, view_b, image_ids, step)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Contrast, "forward", record)
        yield course


class StopsAt:
    """Asks to stop after some of the steps; it counts those of all starts."""

    def __init__(self, steps: set[int]) -> None:
        self.done, self.steps = 0, steps

    def __call__(self) -> int | None:
        self.done += 1
        return 75 if self.done in self.steps else None


def train_with_stops(
    photos: Path, recipe: Recipe, run: Path, *, workers: int, steps: set[int]
) -> Checkpoint:
    """Train to the end, starting again after each stop; return the state at the end."""
    stop = StopsAt(steps)
    for _ in range(len(steps)):
        plan = make_plan(photos, recipe=recipe, run=run, device="cpu", workers=workers)
        with pytest.raises(InterruptedRunError):
            train(plan, monitor=drawing_monitor, stop=stop)
    plan = make_plan(photos, recipe=recipe, run=run, device="cpu", workers=workers)
    train(plan, monitor=drawing_monitor, stop=stop)
    checkpoint = load_newest(run)
    assert checkpoint is not None
    return checkpoint


@pytest.fixture(scope="module")
def unbroken(
    photos: Path, recipe: Recipe, tmp_path_factory: pytest.TempPathFactory
) -> tuple[Path, Course]:
    """Return a run that nobody stopped, and its course."""
    run = tmp_path_factory.mktemp("unbroken") / "run"
    with recorded_course() as course:
        train_with_stops(photos, recipe, run, workers=0, steps=set())
    return run, course


def stop_and_compare(
    photos: Path, recipe: Recipe, run: Path, *, workers: int, steps: set[int], unbroken: Any
) -> None:
    """Each step once, each epoch's images once, and at the end the same bytes as `unbroken`."""
    other, its_course = unbroken
    with recorded_course() as course:
        end = train_with_stops(photos, recipe, run, workers=workers, steps=steps)
    assert course == its_course
    assert [step for step, _ in course] == list(range(STEPS))
    for first in range(0, STEPS, STEPS_PER_EPOCH):
        ids = [image for _, ids in course[first : first + STEPS_PER_EPOCH] for image in ids]
        assert sorted(ids) == list(range(64))  # none twice, none left out
    expected = load_newest(other)
    assert expected is not None
    assert differing_bytes(end, expected) == 0
    assert metrics_of(run) == metrics_of(other)


@pytest.mark.parametrize("workers", [0, 1, 2])
def test_a_run_stopped_at_each_of_twenty_steps_takes_the_same_course(
    workers: int, unbroken: tuple[Path, Course], photos: Path, recipe: Recipe, tmp_path: Path
) -> None:
    began, steps = time.monotonic(), set(BOUNDARIES)
    stop_and_compare(
        photos, recipe, tmp_path / "run", workers=workers, steps=steps, unbroken=unbroken
    )
    seconds = time.monotonic() - began
    tell(f"R3 {workers} workers: 20 stops in one run, 0 differing bytes, {seconds:.1f} s")


@pytest.mark.slow
@pytest.mark.timeout(600)
@pytest.mark.parametrize("workers", [0, 1, 2])
def test_runs_stopped_once_at_any_step_take_the_same_course(
    workers: int, unbroken: tuple[Path, Course], photos: Path, recipe: Recipe, tmp_path: Path
) -> None:
    for step in BOUNDARIES:
        run = tmp_path / str(step)
        stop_and_compare(photos, recipe, run, workers=workers, steps={step}, unbroken=unbroken)
    tell(f"R3 {workers} workers: 20 runs stopped once, 20 bitwise equal")
