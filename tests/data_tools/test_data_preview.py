"""A preview shows the views that training sees."""

from __future__ import annotations

import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from moco.data.images import Pixels, UnreadableImageError
from moco.data.sources.folder import FolderImages
from moco.data.sources.sequence import SequenceImages
from moco.data.view_samples import sample_views
from moco.data.views import view_picture
from moco.data_tools.preview import GAP, Preview, place_of_cell, preview, recipe_of_preview
from moco.errors import DataError, UsageError
from moco.plan import make_plan
from moco.recipes import MOCO_V2
from moco.specs import ViewsSpec

VIEWS = replace(MOCO_V2.views, image_size=100, evaluation_resize=100, evaluation_size=100)
CPU = torch.device("cpu")


def cell(found: Preview, row: int, column: int, side: int) -> Pixels:
    left, top = place_of_cell(row, column, side)
    return np.asarray(found.grid.crop((left, top, left + side, top + side)))


@pytest.mark.parametrize(("size", "scale"), [(100, 1), (32, 3), (16, 6)])
def test_cells_are_the_views_of_training(photos: Path, size: int, scale: int) -> None:
    images = FolderImages(photos)
    views = replace(VIEWS, image_size=size)
    found = preview(images, views, count=4, epochs=2, seed=5)
    side = size * scale
    assert found.scale == scale
    assert found.image_ids == [0, 16, 32, 48]
    assert found.grid.size == (GAP + 5 * (side + GAP), GAP + 4 * (side + GAP))
    for row, image_id in enumerate(found.image_ids):
        for epoch in range(2):
            both = sample_views(images, image_id, views, seed=5, epoch=epoch)
            for place, view in enumerate(both):
                shown = cell(found, row, 1 + 2 * epoch + place, side)
                wanted = np.asarray(view_picture(view).convert("RGB"))
                np.testing.assert_array_equal(shown[::scale, ::scale], wanted)
                np.testing.assert_array_equal(shown[scale - 1 :: scale, ::scale], wanted)


def test_the_whole_image_stands_first() -> None:
    pixels = np.zeros((50, 100, 3), np.uint8)
    pixels[:, 50:] = 255
    found = preview(SequenceImages([pixels]), VIEWS, count=3, epochs=1)
    assert found.grid.size == (GAP + 3 * (100 + GAP), GAP + 100 + GAP)
    shown = cell(found, 0, 0, 100)
    assert (shown[:25] == 96).all()
    assert (shown[75:] == 96).all()
    assert (shown[25:75, :49] == 0).all()
    assert (shown[25:75, 51:] == 255).all()


def test_seeds_and_epochs_differ(photos: Path) -> None:
    images = FolderImages(photos)
    one, other = (preview(images, VIEWS, count=1, epochs=2, seed=seed) for seed in (0, 1))
    cells = [cell(found, 0, column, 100).tobytes() for found in (one, other) for column in range(5)]
    assert cells[0] == cells[5]
    assert len(set(cells)) == 9


def test_unreadable_images_are_replaced_by_the_next(photos: Path, tmp_path: Path) -> None:
    shutil.copytree(photos, tmp_path / "photos")
    for number in (0, 2, 32, 62):
        (tmp_path / "photos" / "even" / f"{number:02}.png").write_bytes(b"no")
    images = FolderImages(tmp_path / "photos")
    found = preview(images, VIEWS, count=4, epochs=1)
    assert found.image_ids == [2, 17, 32, 48]
    assert [name for name, _ in found.skipped] == ["even/00.png", "even/02.png", "even/32.png"]
    everything = preview(images, VIEWS, count=64, epochs=1)
    assert sorted(everything.image_ids) == [
        number for number in range(64) if number not in (0, 1, 16, 31)
    ]


def test_none_can_be_used() -> None:
    class Broken(SequenceImages):
        def _read(self, image_id: int) -> Pixels:
            raise UnreadableImageError("broken")

    with pytest.raises(DataError, match="none of the 3 images can be used; image 0: broken"):
        preview(Broken([0, 0, 0]), VIEWS)


def test_deep_images_of_many_channels(tmp_path: Path) -> None:
    draw = np.random.default_rng(0)
    for number in range(20):
        values = draw.integers(0, 65536, (30, 30, 12), dtype=np.uint16)
        np.save(tmp_path / f"{number:02}.npy", values)
    images = FolderImages(tmp_path)
    recipe = recipe_of_preview(images, "small", ["views.image_size=32"], CPU)
    assert (recipe.views.channels, recipe.views.deep, recipe.views.image_size) == (12, True, 32)
    found = preview(images, recipe.views, count=2, epochs=1)
    shown = cell(found, 0, 1, 96)[::3, ::3]
    view, _ = sample_views(images, 0, recipe.views, seed=0)
    np.testing.assert_array_equal(shown, np.asarray(view_picture(view)))
    assert shown.std() > 10


@pytest.mark.parametrize("recipe", ["small", "moco-v2"])
def test_the_recipe_is_that_of_the_run(recipe: str, photos: Path) -> None:
    chosen = ["batch_size=32", "views.crop_scale=[0.5, 1]", "batch_norm_groups=2"]
    images = FolderImages(photos)
    plan = make_plan(images, recipe=recipe, settings=chosen, device="cpu", run="nowhere")
    assert recipe_of_preview(images, recipe, chosen, CPU) == plan.recipe
    assert plan.recipe.views.crop_scale == (0.5, 1.0)


def test_few_images_are_enough(photos: Path) -> None:
    images = SequenceImages([np.zeros((9, 9, 3), np.uint8)] * 3)
    assert recipe_of_preview(images, "small", [], CPU).views.image_size == 64
    assert isinstance(recipe_of_preview(images, "moco-v2", [], CPU).views, ViewsSpec)
    with pytest.raises(UsageError, match="unknown field"):
        recipe_of_preview(images, "small", ["views.colour=1"], CPU)


def test_a_picture_is_rgb(photos: Path) -> None:
    found = preview(FolderImages(photos), VIEWS, count=1, epochs=1)
    assert isinstance(found.grid, Image.Image)
    assert found.grid.mode == "RGB"
