"""What images that are no photographs change in a recipe."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from moco.data.images import Pixels
from moco.errors import DataError, UsageError
from moco.fitting import check_usable, fit_to_images
from moco.plan import make_plan
from moco.specs import IMAGENET_MEAN, ViewsSpec


class Made:
    """Forty images of one kind."""

    def __init__(self, channels: int, dtype: type = np.uint16, count: int = 40) -> None:
        draw = np.random.default_rng(0)
        top = np.arange(1, channels + 1) * (200 if dtype == np.uint8 else 4000) / channels
        self.pixels = (draw.random((count, 20, 24, channels)) * top).astype(dtype)

    def __len__(self) -> int:
        return len(self.pixels)

    def name(self, image_id: int) -> str:
        return str(image_id)

    def read(self, image_id: int) -> Pixels:
        return self.pixels[image_id]


@pytest.mark.parametrize("channels", [1, 3])
def test_photographs_change_nothing(channels: int) -> None:
    assert fit_to_images(ViewsSpec(), Made(channels, np.uint8), {}) == ({}, [])


@pytest.mark.parametrize(
    ("channels", "dtype", "scale"),
    [(12, np.uint16, 65535), (1, np.uint16, 65535), (3, np.uint16, 65535), (4, np.uint8, 255)],
)
def test_measurements_bring_their_channels_and_figures(
    channels: int, dtype: type, scale: int
) -> None:
    images = Made(channels, dtype)
    changes, choices = fit_to_images(ViewsSpec(), images, {})
    assert changes["views.channels"] == channels
    assert changes["views.deep"] is (dtype == np.uint16)
    values = images.pixels.reshape(-1, channels) / scale
    np.testing.assert_allclose(changes["views.mean"], values.mean(axis=0), rtol=1e-5)
    np.testing.assert_allclose(changes["views.std"], values.std(axis=0), rtol=1e-5)
    assert [choice.field for choice in choices] == ["views.channels", "views.mean"]
    assert str(channels) in choices[0].reason


def test_what_the_command_sets_stays() -> None:
    given: dict[str, Any] = {"views.mean": [0.1] * 12, "views.std": [0.2] * 12}
    changes, _ = fit_to_images(ViewsSpec(), Made(12), given)
    assert changes == {"views.channels": 12, "views.deep": True}
    changes, _ = fit_to_images(ViewsSpec(), Made(1, np.uint8), {"views.channels": 1})
    assert changes["views.channels"] == 1
    assert changes["views.deep"] is False
    assert len(changes["views.mean"]) == 1
    changes, _ = fit_to_images(ViewsSpec(), Made(3), {"views.deep": False})
    assert changes == {}


def test_grey_measurements_can_be_shown_as_three_equal_channels() -> None:
    changes, _ = fit_to_images(ViewsSpec(), Made(1), {"views.channels": 3})
    assert changes["views.channels"] == 3
    assert changes["views.deep"] is True
    assert len(set(changes["views.mean"])) == 1
    assert len(changes["views.mean"]) == 3


def test_a_recipe_made_for_such_images_keeps_its_figures() -> None:
    views = ViewsSpec(channels=12, deep=True, mean=(0.3,) * 12, std=(0.1,) * 12)
    assert fit_to_images(views, Made(12), {}) == ({}, [])


def test_images_of_other_channels_than_the_recipes_are_refused() -> None:
    views = ViewsSpec(channels=12, deep=True, mean=(0.3,) * 12, std=(0.1,) * 12)
    with pytest.raises(DataError, match=r"none of the 40 images can be used; 0: .* 13 channels"):
        check_usable(Made(13), views)


@pytest.mark.parametrize("recipe", ["small", "moco-v2"])
def test_a_plan_for_measurements_is_the_recipe_with_what_they_bring(
    recipe: str, tiny_settings: list[str]
) -> None:
    settings = [s for s in tiny_settings if recipe != "small" or not s.startswith("batch_size")]
    plan = make_plan(Made(12), recipe=recipe, settings=settings, device="cpu", workers=0)
    views = plan.recipe.views
    assert (views.channels, views.deep) == (12, True)
    assert len(views.mean) == len(views.std) == 12
    again = make_plan(Made(12), recipe=plan.recipe, device="cpu", workers=0)
    assert again.recipe == plan.recipe


def test_figures_that_do_not_fit_the_channels_are_refused_with_both() -> None:
    with pytest.raises(UsageError, match=r"views\.mean .* views\.channels 12, got 3"):
        ViewsSpec(channels=12)
    with pytest.raises(UsageError, match=r"views\.std must be above 0"):
        replace(ViewsSpec(), std=(1.0, 0.0, 1.0))
    assert ViewsSpec().mean == IMAGENET_MEAN
