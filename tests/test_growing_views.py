"""Views that grow with the epochs: their sizes, and that nothing else follows them."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from moco.build import build_contrast
from moco.checkpoint import load_checkpoint
from moco.cli.dry_run import show_plan
from moco.cli.terminal import describe_plan
from moco.data.batches import Batch, Batches
from moco.data.changes import Changes
from moco.data.sources.folder import FolderImages
from moco.data_tools.preview import preview
from moco.errors import InterruptedRunError, UsageError
from moco.evaluation.linear_protocols import linear_protocol
from moco.plan import make_plan
from moco.plan_batches import load_plan
from moco.pretraining import train
from moco.recipe import Recipe
from moco.recipe_files import set_fields
from moco.recipes import MOCO_V2, MOCO_V3_VIT_SMALL, RECIPES
from moco.schedules import growing_size
from moco.time_trial import Stepper, time_steps

GROWING = ["views.first_size=8", "views.size_step=4", "views.full_size_from=0.7", "epochs=3"]
STEPS = 12  # three epochs of four


@pytest.fixture(scope="module")
def recipe(tiny_settings: list[str]) -> Recipe:
    """Return v2, tiny, whose views have 8, 12 and 16 pixels in its three epochs."""
    return set_fields(MOCO_V2, [*tiny_settings, "views.order=[crop, blur]", *GROWING])


def test_sizes_rise_by_steps_to_the_full_one() -> None:
    ramp = set_fields(MOCO_V2, ["views.first_size=160", "epochs=16"])
    sizes = [ramp.image_size_at(epoch) for epoch in range(16)]
    assert sizes == [160] * 6 + [192] * 6 + [224] * 4
    later = set_fields(ramp, ["views.full_size_from=0.99"])
    assert later.image_size_at(14) == 192
    assert later.image_size_at(15) == 224  # the last epoch always
    assert set_fields(ramp, ["epochs=1"]).image_size_at(0) == 224
    assert set_fields(ramp, ["views.full_size_from=0"]).image_size_at(0) == 224


def test_a_step_that_does_not_divide_the_rise_ends_at_the_full_size() -> None:
    sizes = [growing_size(20, 33, 5, epoch, 6) for epoch in range(8)]
    assert sizes == [20, 20, 20, 25, 25, 30, 33, 33]
    assert [growing_size(8, 9, 32, epoch, 2) for epoch in range(3)] == [8, 8, 9]


@pytest.mark.parametrize("name", RECIPES)
def test_no_paper_has_it(name: str) -> None:
    recipe = RECIPES[name]
    sizes = {recipe.image_size_at(epoch) for epoch in range(recipe.epochs)}
    assert sizes == {recipe.views.image_size}


def all_batches(photos: Path, recipe: Recipe, *, workers: int = 0) -> list[Batch]:
    plan = make_plan(photos, recipe=recipe, run="unused", device="cpu", workers=workers)
    return list(load_plan(plan, start=0, stop=STEPS))


@pytest.mark.parametrize("workers", [0, 2])
def test_views_are_cut_at_the_size_of_their_epoch(
    photos: Path, recipe: Recipe, workers: int
) -> None:
    batches = all_batches(photos, recipe, workers=workers)
    sides = [batch.view_a.shape[-1] for batch in batches]
    assert sides == [8] * 4 + [12] * 4 + [16] * 4
    assert all(batch.view_a.shape == batch.view_b.shape == (16, 3, s, s)
               for batch, s in zip(batches, sides, strict=True))  # fmt: skip


def test_order_boxes_and_changes_do_not_depend_on_the_size(
    photos: Path, recipe: Recipe, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen: list[tuple[object, ...]] = []
    module = "moco.data.batches"
    monkeypatch.setattr(
        f"{module}.cut_into", lambda _, pixels, box: seen.append((pixels.shape, box))
    )

    def look(size_at: object) -> tuple[list[object], list[Changes]]:
        seen.clear()
        batches = Batches(
            FolderImages(photos), recipe.views, batch_size=16, seed=0,
            size_at=size_at,  # type: ignore[arg-type]
        )  # fmt: skip
        made = [batches[step] for step in range(STEPS)]
        changes = [each for batch in made for each in batch.changes or ()]
        return [*seen, *(batch.image_ids.tolist() for batch in made)], changes

    plain, growing = look(None), look(recipe.image_size_at)
    assert plain[0] == growing[0]
    assert len(plain[0]) == 2 * 16 * STEPS + STEPS
    for one, other in zip(plain[1], growing[1], strict=True):
        for name in vars(one):
            np.testing.assert_array_equal(getattr(one, name), getattr(other, name))


def test_the_last_epoch_is_that_of_a_run_that_never_grew(photos: Path, recipe: Recipe) -> None:
    flat = replace(recipe, views=replace(recipe.views, first_size=0))
    for one, other in zip(
        all_batches(photos, recipe)[8:], all_batches(photos, flat)[8:], strict=True
    ):
        assert torch.equal(one.view_a, other.view_a)
        assert torch.equal(one.view_b, other.view_b)


@pytest.fixture(scope="module")
def whole(photos: Path, recipe: Recipe, tmp_path_factory: pytest.TempPathFactory) -> Path:
    run = tmp_path_factory.mktemp("whole") / "run"
    return train(make_plan(photos, recipe=recipe, run=run, device="cpu", workers=0))


@pytest.mark.parametrize(("stopped", "workers"), [(4, 2), (6, 0)])  # at and after a change of size
def test_a_stopped_run_goes_on_to_the_same_bytes(
    photos: Path, recipe: Recipe, whole: Path, tmp_path: Path, workers: int, stopped: int
) -> None:
    plan = make_plan(photos, recipe=recipe, run=tmp_path, device="cpu", workers=workers)
    left = iter([*[None] * (stopped - 1), 75])
    with pytest.raises(InterruptedRunError):
        train(plan, stop=lambda: next(left))
    train(plan)
    last = f"checkpoints/step_{STEPS:08d}"
    for name in ("model.safetensors", "recipe.json"):
        assert (whole / last / name).read_bytes() == (tmp_path / last / name).read_bytes()
    one, other = (
        torch.cat([moved["momentum_buffer"].flatten() for moved in state["state"].values()])
        for state in (
            load_checkpoint(run / last).train_state["optimizer"] for run in (whole, tmp_path)
        )
    )
    assert torch.equal(one, other)


def test_a_vit_of_fixed_size_is_refused_in_one_line() -> None:
    growing = set_fields(MOCO_V3_VIT_SMALL, ["views.first_size=160"])
    with pytest.raises(UsageError, match=r"^moco_v3_vit_small .*first_size 160.*one of them$"):
        build_contrast(growing, images=64, seed=0)


def test_the_plan_says_how_views_grow(photos: Path, recipe: Recipe) -> None:
    plan = make_plan(photos, recipe=recipe, run="unused", device="cpu", workers=0)
    assert "views grow with the epochs: 8, 12, 16 pixels" in describe_plan(plan)
    flat = make_plan(photos, recipe=recipe, settings=["first_size=0"], run="unused", device="cpu")
    assert not [line for line in describe_plan(flat) if "grow" in line]


def test_a_preview_shows_each_epoch_at_its_size(photos: Path, recipe: Recipe) -> None:
    images = FolderImages(photos)
    flat, growing = (
        np.asarray(preview(images, recipe.views, count=1, epochs=3, size_at=size_at).grid)
        for size_at in (None, recipe.image_size_at)
    )
    assert flat.shape == growing.shape  # cells are as large, so that columns stay columns
    width = flat.shape[1] // 7
    assert np.array_equal(flat[:, :width], growing[:, :width])
    assert np.array_equal(flat[:, -2 * width :], growing[:, -2 * width :])
    assert not np.array_equal(flat[:, width : 2 * width], growing[:, width : 2 * width])


def test_evaluations_that_cut_smaller_crops_do_not_grow(recipe: Recipe) -> None:
    views = replace(recipe.views, first_size=16)
    protocol = replace(
        linear_protocol(recipe), sides=replace(linear_protocol(recipe).sides, train=8)
    )
    assert protocol.train_views(views).image_size == 8


def test_forecasts_are_made_at_the_full_size(
    photos: Path,
    recipe: Recipe,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    sides: list[int] = []
    step = Stepper.step

    def noting(self: Stepper, batch: Batch) -> torch.Tensor:
        sides.append(batch.view_a.shape[-1])
        return step(self, batch)

    monkeypatch.setattr(Stepper, "step", noting)
    for name in ("COPY", "LOADING", "COMPUTE", "TOGETHER"):
        monkeypatch.setattr(f"moco.rehearsal.{name}_SECONDS", 0.01)
    plan = make_plan(photos, recipe=recipe, run="unused", device="cpu", workers=0)
    show_plan(plan)
    time_steps(plan)
    assert set(sides) == {16}
    assert "measured at 16 pixels" in capsys.readouterr().out
