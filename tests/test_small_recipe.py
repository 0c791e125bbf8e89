from __future__ import annotations

import pytest

from moco.errors import DataError, UsageError
from moco.recipe import Recipe
from moco.recipe_files import field_names, recipe_from_dict, recipe_to_dict
from moco.small import DeviceKind, small_recipe

COUNTS = sorted(
    {*range(16, 140), *(10**power for power in range(2, 8))}
    | {2**power + offset for power in range(4, 24) for offset in (-1, 0, 1) if power > 4}
    | {300, 2624, 3000, 50_000, 1_281_167}
)
FIELDS = set(field_names(Recipe))
SECTIONS = {field.partition(".")[0] for field in FIELDS}


@pytest.mark.parametrize("device", ["cpu", "cuda", "mps"])
def test_every_number_of_images_gets_a_recipe_that_can_run(device: DeviceKind) -> None:
    for images in COUNTS:
        recipe, choices = small_recipe(images, device)
        assert recipe.name == "small"
        assert recipe.batch_size <= images
        assert recipe.dictionary.size >= recipe.batch_size
        assert recipe.batch_norm_groups >= 2  # or shuffling the keys would change nothing
        assert recipe.batch_size % recipe.batch_norm_groups == 0
        assert recipe.batch_size // recipe.batch_norm_groups >= 2
        assert recipe.epochs >= 1
        assert recipe.optimizer.warmup_epochs < recipe.epochs
        assert recipe_from_dict(recipe_to_dict(recipe)) == recipe
        assert choices
        for choice in choices:
            assert choice.field in FIELDS | SECTIONS
            assert choice.reason.strip()
            assert "\n" not in choice.reason
        assert len({choice.field for choice in choices}) == len(choices)


def value_of(recipe: Recipe, field: str) -> object:
    found: object = recipe
    for part in field.split("."):
        found = getattr(found, part)
    return found


@pytest.mark.parametrize("images", [16, 100, 5000, 10**6])
@pytest.mark.parametrize("device", ["cpu", "cuda"])
def test_a_choice_of_one_field_tells_the_value_the_recipe_has(
    images: int, device: DeviceKind
) -> None:
    recipe, choices = small_recipe(images, device)
    for choice in choices:
        if choice.field in FIELDS:
            assert choice.value == value_of(recipe, choice.field), choice.field


@pytest.mark.parametrize("images", [-1, 0, 1, 15])
def test_too_few_images_are_refused(images: int) -> None:
    with pytest.raises(DataError, match=f"{images} images.*16"):
        small_recipe(images, "cpu")


@pytest.mark.parametrize("images", [16, 500, 10**6])
def test_epochs_can_be_given(images: int) -> None:
    for epochs in (1, 3, 1000):
        recipe, choices = small_recipe(images, "cpu", epochs=epochs)
        assert recipe.epochs == epochs
        assert recipe.optimizer.warmup_epochs < epochs
        assert recipe_from_dict(recipe_to_dict(recipe)) == recipe
        assert choices


@pytest.mark.parametrize("epochs", [0, -1])
def test_no_epochs_are_refused_by_that_name(epochs: int) -> None:
    with pytest.raises(UsageError, match=f"^epochs must be at least 1, got {epochs}"):
        small_recipe(100, "cpu", epochs=epochs)


def test_it_depends_on_the_number_of_images_and_the_kind_of_device_only() -> None:
    assert small_recipe(777, "cpu") == small_recipe(777, "cpu")
    assert small_recipe(777, "cuda")[0] == small_recipe(777, "mps")[0]


@pytest.mark.parametrize(
    ("batch_size", "groups"), [(2, 1), (13, 1), (16, 2), (48, 3), (50, 5), (64, 4), (100, 5)]
)
def test_the_rest_follows_a_batch_that_was_given(batch_size: int, groups: int) -> None:
    recipe, choices = small_recipe(100, "cpu", batch_size=batch_size)
    assert (recipe.batch_size, recipe.batch_norm_groups) == (batch_size, groups)
    assert recipe.dictionary.size >= batch_size
    told = {choice.field: choice.reason for choice in choices}
    assert told["epochs"] == f"{recipe.epochs * (100 // batch_size):,} steps"


@pytest.mark.parametrize("batch_size", [-1, 0, 1])
def test_a_batch_that_contrasts_nothing_is_refused(batch_size: int) -> None:
    with pytest.raises(UsageError, match="batch_size must be at least 2"):
        small_recipe(100, "cpu", batch_size=batch_size)


def test_a_batch_larger_than_the_images_is_refused() -> None:
    with pytest.raises(DataError, match="100 images are fewer than a batch of 101"):
        small_recipe(100, "cpu", batch_size=101)
