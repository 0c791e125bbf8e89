"""Time to a score: when a run stops, what its clocks count, and misses told as what they are."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from pathlib import Path

import pytest
import torch

from moco.errors import DataError, InterruptedRunError, UsageError
from moco.plan import make_plan
from moco.recipe import Recipe
from moco.recipe_files import set_fields
from moco.recipes import MOCO_V2
from moco.run_records import read_lines
from moco.time_to import Spread, Target, TimedRun, directories, spread, time_run

STEPS = 4  # an epoch's


@pytest.fixture(scope="module")
def recipe(tiny_settings: list[str]) -> Recipe:
    return set_fields(MOCO_V2, [*tiny_settings, "views.order=[crop]", "epochs=5"])


class Scores:
    """Stands in for the kNN test: gives these scores one after the other, each after a while."""

    def __init__(self, *scores: float, seconds: float = 0.0) -> None:
        self.scores, self.seconds = list(scores), seconds

    def __call__(self, _: object) -> Mapping[str, float]:
        until = time.process_time() + self.seconds
        while time.process_time() < until:
            pass
        score = self.scores.pop(0)
        return {"knn_top1": score, "knn_head_top1": 1 - score}


def timed(
    photos: Path,
    recipe: Recipe,
    run: Path,
    monitor: Callable[[object], Mapping[str, float]],
    target: Target,
) -> TimedRun:
    plan = make_plan(photos, recipe=recipe, run=run, device="cpu", workers=0)
    return TimedRun(plan, target, monitor, lambda _: None)


def steps_of(run: Path) -> int:
    return len(read_lines(run / "metrics.jsonl"))


def test_it_stops_after_the_first_epoch_that_reaches_the_score(
    photos: Path, recipe: Recipe, tmp_path: Path
) -> None:
    run = timed(photos, recipe, tmp_path, Scores(0.2, 0.6, 0.9, 0.3, 0.3), Target(0.6))
    time_run(run)
    assert run.reached is not None
    assert (run.reached.epoch, run.reached.score) == (2, 0.6)
    assert [test.epoch for test in run.tests] == [1, 2]
    assert steps_of(tmp_path) == 2 * STEPS + 1  # a stop is asked for after a step
    assert run.images_of(2) == 128
    assert not run.failed


def test_a_score_that_is_reached_last_is_reached(
    photos: Path, recipe: Recipe, tmp_path: Path
) -> None:
    run = timed(photos, recipe, tmp_path, Scores(0.1, 0.1, 0.1, 0.1, 0.6), Target(0.6))
    time_run(run)
    assert run.reached is not None
    assert run.reached.epoch == 5
    assert steps_of(tmp_path) == 5 * STEPS


def test_a_miss_is_a_result_with_its_best_score(
    photos: Path, recipe: Recipe, tmp_path: Path
) -> None:
    run = timed(photos, recipe, tmp_path, Scores(0.1, 0.5, 0.4, 0.5, 0.3), Target(0.6))
    time_run(run)
    assert run.reached is None
    assert run.best is not None
    assert (run.best.epoch, run.best.score) == (2, 0.5)
    assert steps_of(tmp_path) == 5 * STEPS


def test_tests_may_be_rarer_and_of_the_head(photos: Path, recipe: Recipe, tmp_path: Path) -> None:
    target = Target(0.9, "knn_head_top1", every_epochs=2)
    run = timed(photos, recipe, tmp_path, Scores(0.95, 0.5, 0.05), target)
    time_run(run)
    assert [test.epoch for test in run.tests] == [2, 4, 5]
    assert run.reached is not None
    assert run.reached.epoch == 5


def test_the_tests_own_time_is_counted_apart(photos: Path, recipe: Recipe, tmp_path: Path) -> None:
    scores = Scores(0.1, 0.1, 0.7, seconds=0.3)
    run = timed(photos, recipe, tmp_path, scores, Target(0.6))
    began = time.monotonic(), time.process_time()
    time_run(run)
    wall, own = time.monotonic() - began[0], time.process_time() - began[1]
    assert run.reached is not None
    assert run.monitor_seconds >= 0.9
    assert 0 < run.reached.seconds <= wall - run.monitor_seconds
    assert 0 < run.reached.processor_seconds <= own - 0.9
    assert [test.seconds for test in run.tests] == sorted(test.seconds for test in run.tests)


def test_a_filled_queue_is_counted(photos: Path, recipe: Recipe, tmp_path: Path) -> None:
    filled = set_fields(recipe, ["fill_first=true"])
    run = timed(photos, filled, tmp_path, Scores(0.7), Target(0.6))
    assert run.filling_images == 32
    time_run(run, stop=lambda: None)
    assert run.reached is not None


def test_an_earlier_run_there_does_not_count(photos: Path, recipe: Recipe, tmp_path: Path) -> None:
    for _ in range(2):
        run = timed(photos, recipe, tmp_path / "run", Scores(0.1, 0.7), Target(0.6))
        time_run(run)
        assert [test.epoch for test in run.tests] == [1, 2]
        assert steps_of(tmp_path / "run") == 2 * STEPS + 1


def test_a_run_that_breaks_down_missed(
    photos: Path, recipe: Recipe, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    never = torch.tensor(False)
    monkeypatch.setattr("moco.training_step.is_finite_everywhere", lambda *_: never)
    run = timed(photos, recipe, tmp_path, Scores(0.1), Target(0.6))
    time_run(run)
    assert run.reached is None
    assert "not a finite number in 3 steps" in run.failed


def test_a_stop_from_outside_ends_it_without_a_result(
    photos: Path, recipe: Recipe, tmp_path: Path
) -> None:
    run = timed(photos, recipe, tmp_path, Scores(0.1), Target(0.6))
    with pytest.raises(InterruptedRunError, match="seed 0; its time is lost") as caught:
        time_run(run, stop=lambda: 130)
    assert caught.value.exit_code == 130


def test_a_monitor_that_cannot_look_is_an_error_at_once(
    photos: Path, recipe: Recipe, tmp_path: Path
) -> None:
    def broken(_: object) -> Mapping[str, float]:
        raise DataError("no image can be read")

    run = timed(photos, recipe, tmp_path, broken, Target(0.6))
    with pytest.raises(DataError, match="no image can be read"):
        time_run(run)
    assert steps_of(tmp_path) == STEPS + 1


@pytest.mark.parametrize(
    ("figures", "wanted"),
    [
        ([3.0, 1.0, 2.0], Spread(2.0, 1.0, 3.0)),
        ([3.0, None, 1.0], Spread(3.0, 1.0, 3.0)),  # the miss took longer than 3
        ([None, None, 1.0], Spread(None, 1.0, 1.0)),
        ([None, 1.0], Spread(None, 1.0, 1.0)),
        ([None], Spread(None, None, None)),
        ([4.0, 1.0], Spread(2.5, 1.0, 4.0)),
    ],
)
def test_a_miss_counts_as_longer_than_any(figures: list[float | None], wanted: Spread) -> None:
    assert spread(figures) == wanted


@pytest.mark.parametrize(
    ("score", "every", "told"),
    [(82.6, 1, "did you mean 0.826?"), (0.0, 1, "got 0"), (-1, 1, "got -1"), (0.5, 0, "from 1")],
)
def test_targets_that_make_no_sense(score: float, every: int, told: str) -> None:
    with pytest.raises(UsageError, match=told.replace("?", r"\?")):
        Target(score, every_epochs=every)


def test_runs_without_a_folder_are_deleted(tmp_path: Path) -> None:
    with directories(None) as folder:
        assert folder.is_dir()
    assert not folder.exists()
    with directories(tmp_path / "kept") as folder:
        assert folder == tmp_path / "kept"
