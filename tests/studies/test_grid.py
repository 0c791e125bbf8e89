"""Studies carried out with a network of milliseconds a step."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from moco.errors import InterruptedRunError, UsageError
from moco.progress import Report, SilentReport
from moco.run_records import read_lines
from moco.studies import cells
from moco.studies.cells import write_whole
from moco.studies.forecast import Forecast, epochs_within
from moco.studies.grid import (
    Grid,
    Options,
    Results,
    cells_left,
    make_grid,
    plan_of,
    run_study,
    with_epochs,
)
from moco.studies.spec import Setting

Make = Callable[..., Options]


@pytest.fixture(autouse=True)
def few_steps_for_statistics(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cells, "STATISTICS_STEPS", 2)


class Quiet:
    def begun(self, number: int, setting: Setting, seed: int) -> Report:
        return SilentReport()

    def scored(self, results: Results, setting: Setting, seed: int) -> None: ...


@pytest.fixture
def options(class_folders: Path, tiny_settings: list[str], tmp_path: Path) -> Make:
    def make(study: str, **changes: Any) -> Options:
        settings = [*tiny_settings, "batch_size=4", "optimizer.schedule=cosine"]
        base = Options(
            study=study,
            images=class_folders / "train",
            test=class_folders / "test",
            run=tmp_path / "run",
            recipe="cifar10-resnet18",
            settings=settings,
            seeds=1,
            epochs=2,
            device="cpu",
            workers=0,
            precision="float32",
        )
        return replace(base, **changes)

    return make


@pytest.fixture
def trainings(monkeypatch: pytest.MonkeyPatch) -> list[Path]:
    """Return the list to which the directory of each run that is trained is added."""
    trained: list[Path] = []
    real = cells.train

    def counted(plan: Any, **more: Any) -> Path:
        trained.append(plan.run)
        return real(plan, **more)

    monkeypatch.setattr(cells, "train", counted)
    return trained


def figures(results: Results) -> dict[tuple[str, int], dict[str, Any]]:
    return {
        cell: {name: value for name, value in scores.items() if name != "seconds"}
        for cell, scores in results.cells.items()
    }


def stops_after(calls: int) -> Callable[[], int | None]:
    left = [calls]

    def stop() -> int | None:
        left[0] -= 1
        return 75 if left[0] < 0 else None

    return stop


def test_a_study_that_is_stopped_again_and_again_ends_as_one_that_was_not(
    options: Make, tmp_path: Path, trainings: list[Path]
) -> None:
    whole = run_study(make_grid(options("queue-size", run=tmp_path / "whole")), Quiet())
    assert set(whole.cells) == {("MoCo, K 4", 0), ("MoCo, K 16", 0)}
    assert len(trainings) == 2
    codes = []
    results = None
    for calls in (5, 0, *[5] * 8):  # a run has 12 steps: it would never end if it began again
        try:
            results = run_study(make_grid(options("queue-size")), Quiet(), stops_after(calls))
        except InterruptedRunError as error:
            codes.append(error.exit_code)
        else:
            break
    assert len(codes) >= 4
    assert set(codes) == {75}
    assert results is not None
    assert figures(results) == figures(whole)
    assert all(scores["loss"] > 0 for scores in results.cells.values())


def test_finished_runs_are_not_trained_again_and_studies_share_them(
    options: Make, trainings: list[Path]
) -> None:
    first = run_study(make_grid(options("mechanisms")), Quiet())
    assert len(trainings) == len(set(trainings)) == 2 + 2 + 2
    assert figures(run_study(make_grid(options("mechanisms")), Quiet())) == figures(first)
    shared = run_study(make_grid(options("queue-size")), Quiet())
    assert len(trainings) == 6
    assert figures(shared) == {cell: figures(first)[cell] for cell in shared.cells}
    more = make_grid(options("queue-size", seeds=2))
    assert [seed for _, seed in cells_left(more)] == [1, 1]
    run_study(more, Quiet())
    assert len(trainings) == 8


def test_watched_runs_have_a_score_each_epoch_and_serve_other_studies(
    options: Make, trainings: list[Path]
) -> None:
    grid = make_grid(options("shuffle-bn"))
    watched = run_study(grid, Quiet())
    for setting in grid.settings:
        directory = grid.bench.directory(setting.recipe, 0)
        curves = cells.epoch_curves(directory)
        assert len(curves["pretext_top1"]) == len(curves["knn_200"]) == 2
        assert curves["knn_200"][-1] == watched.cells[setting.name, 0]["knn_200"]
        rows = read_lines(directory / "metrics.jsonl")
        last = [row["pretext_top1"] for row in rows if row["epoch"] == 1]
        assert len(last) == 6  # 24 images, 4 a step
        assert curves["pretext_top1"][-1] == pytest.approx(sum(last) / 6)
        assert watched.cells[setting.name, 0]["pretext_top1"] == curves["pretext_top1"][-1]
    before = len(trainings)
    run_study(make_grid(options("key-momentum")), Quiet())
    assert len(trainings) == before + 4  # 0.99 is the base recipe's own


def test_a_run_that_diverges_is_recorded_and_the_study_goes_on(
    options: Make, trainings: list[Path]
) -> None:
    broken = [*options("queue-size").settings, "optimizer.learning_rate=1e30"]
    grid = make_grid(options("queue-size", settings=broken))
    results = run_study(grid, Quiet())
    assert len(trainings) == 2
    for scores in results.cells.values():
        assert "learning_rate" in scores["failed"]
        assert "linear" not in scores
    assert results.values("MoCo, K 4", "linear") == {}
    for claim in grid.study.claims(grid.settings):
        assert results.difference(claim).verdict == "no figures"
    run_study(grid, Quiet())
    assert len(trainings) == 2


def results_with(grid: Grid, linear: dict[tuple[str, int], float | None]) -> Results:
    cells = {
        cell: {"failed": "the loss is nan"} if value is None else {"failed": "", "linear": value}
        for cell, value in linear.items()
    }
    return Results(grid, cells=cells)  # type: ignore[arg-type]


def test_differences_are_of_the_same_seeds(options: Make) -> None:
    grid = make_grid(options("queue-size", seeds=4))
    small, large = (setting.name for setting in grid.settings)
    known = {(small, 0): 0.3, (small, 1): 0.5, (small, 2): 0.1, (large, 0): 0.4, (large, 1): 0.8}
    results = results_with(grid, {**known, (large, 2): None, (large, 3): 0.9})
    claim = grid.study.claims(grid.settings)[0]
    found = results.difference(claim)
    assert found.seeds == 2  # seed 2 diverged on one side, seed 3 is not done on the other
    assert found.mean == pytest.approx((0.1 + 0.3) / 2)


def test_a_claim_about_several_settings_is_about_their_mean(options: Make) -> None:
    grid = make_grid(options("key-momentum"))
    names = [setting.name for setting in grid.settings]
    values = dict(zip(names, (0.1, 0.3, 0.5, 0.6, 0.2), strict=True))
    results = results_with(grid, {(name, 0): value for name, value in values.items()})
    leads = {
        claim.text: results.difference(claim).mean
        for claim in grid.study.claims(grid.settings)
        if claim.measure == "linear"
    }
    assert list(leads.values()) == pytest.approx([0.5 - 0.1, 0.55 - 0.3, 0.6 - 0.5])


def test_what_the_base_recipe_is_called_makes_no_other_run(options: Make) -> None:
    grid = make_grid(options("queue-size"))
    renamed = replace(grid.base, name="mine", source="my notebook")
    plans = [grid.bench.plan(recipe, 0) for recipe in (grid.base, renamed)]
    assert plans[0].run == plans[1].run
    assert plans[0].identity() == plans[1].identity()


def test_another_recipe_or_other_images_are_refused(
    options: Make, class_folders: Path, tmp_path: Path
) -> None:
    grid = make_grid(options("queue-size"))
    write_whole(grid.file, json.dumps({"plan": plan_of(grid)}))
    with pytest.raises(UsageError, match=r"epochs 2 -> 3.*choose another --run"):
        make_grid(options("queue-size", epochs=3))
    settings = [*options("queue-size").settings, "temperature=0.5"]
    with pytest.raises(UsageError, match=r"temperature 0\.1 -> 0\.5"):
        make_grid(options("queue-size", settings=settings))
    for study in ("queue-size", "mechanisms"):  # they would share runs
        with pytest.raises(UsageError, match="other images, 24 then and 16 now"):
            make_grid(options(study, images=class_folders / "test"))
        with pytest.raises(UsageError, match="other test, 16 then and 24 now"):
            make_grid(options(study, test=class_folders / "train"))
        with pytest.raises(UsageError, match="precision float32 -> bfloat16"):
            make_grid(options(study, precision="bfloat16"))
    make_grid(options("mechanisms", epochs=3))  # its runs are others


def test_a_directory_with_a_broken_study_file_is_refused(options: Make, tmp_path: Path) -> None:
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / "study-queue-size.json").write_text("[]")
    with pytest.raises(UsageError, match="no study's file"):
        make_grid(options("queue-size"))


def test_a_budget_chooses_the_epochs(options: Make) -> None:
    grid = make_grid(options("queue-size", seeds=3))
    expected = Forecast({setting.name: 5.0 for setting in grid.settings}, 2.0)
    # 6 runs and 3 untrained encoders are scored, 18 s; an epoch of all runs takes 30 s
    assert epochs_within(grid, expected, 18 + 30) == 1
    assert epochs_within(grid, expected, 18 + 30 * 7 + 29) == 7
    with pytest.raises(UsageError, match=r"0\.8 minutes.*raise it, or lower --seeds"):
        epochs_within(grid, expected, 18 + 29)
    longer = with_epochs(grid, options("queue-size", seeds=3), 7)
    assert {setting.recipe.epochs for setting in longer.settings} == {7}
    assert expected.seconds_left(longer) == pytest.approx(6 * (7 * 5 + 2))


def test_the_untrained_encoder_and_pixels_are_scored_once(
    options: Make, monkeypatch: pytest.MonkeyPatch
) -> None:
    grid = make_grid(options("queue-size"))

    def references() -> list[dict[str, Any]]:
        untrained = [cells.score_untrained(grid.bench, grid.base, seed) for seed in (0, 1)]
        return [*untrained, cells.score_pixels(grid.bench, grid.base)]

    first = references()
    assert [scores["seed"] for scores in first[:2]] == [0, 1]
    assert first[2]["linear"] == 1.0  # red against blue

    def refuse(*_: object) -> None:
        raise AssertionError("scored again")

    monkeypatch.setattr(cells, "score", refuse)
    assert references() == first


def test_too_many_pixels_are_left_out(options: Make, monkeypatch: pytest.MonkeyPatch) -> None:
    grid = make_grid(options("queue-size"))
    monkeypatch.setattr(cells, "MOST_PIXELS", 24 * 3 * 16 * 16 - 1)
    assert cells.score_pixels(grid.bench, grid.base) == {}
