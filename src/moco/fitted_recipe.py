"""The recipe of a run: what was asked for, made for the images and the device, then changed."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import torch

from moco.data.images import Images
from moco.device import device_kind
from moco.errors import UsageError
from moco.fitting import fit_to_images
from moco.found_recipe import FoundRecipe
from moco.recipe import Recipe
from moco.recipe_files import change_fields
from moco.small import Choice, small_recipe
from moco.specs import EncoderSpec


def fitted_recipe(
    images: Images,
    found: FoundRecipe,
    changes: Mapping[str, Any],
    device: torch.device,
    *,
    count: int | None = None,
) -> tuple[Recipe, list[Choice]]:
    """Return the recipe for these images with the command's changes, and what was derived, why.

    Args:
        changes: by full field names.
        count: how many images the small recipe is made for, where not for these.

    Raises:
        UsageError: The changes or the recipe make no sense.
        DataError: None of the images can be read, or too few for the small recipe.
    """
    recipe, choices = _recipe_for(len(images) if count is None else count, device, found, changes)
    fitted, seen = fit_to_images(recipe.views, images, changes)
    return change_fields(recipe, {**fitted, **changes}), [*choices, *seen]


def _recipe_for(
    images: int, device: torch.device, found: FoundRecipe, changes: Mapping[str, Any]
) -> tuple[Recipe, list[Choice]]:
    """Return the recipe before the command's changes; the small one is made for the images."""
    if found.recipe is not None:
        return found.recipe, []
    of_file = found.file.fields if found.file else {}
    try:
        small, choices = _small_recipe_for(images, device, {**of_file, **changes})
    except UsageError as error:
        raise (found.file.blame(error, changes) if found.file else error) from error
    return found.over(small, changes), choices


def _small_recipe_for(
    images: int, device: torch.device, given: Mapping[str, Any]
) -> tuple[Recipe, list[Choice]]:
    """Return the small recipe for what was asked for, without reasons for what the user set."""
    asked = {name: given.get(name) for name in ("epochs", "batch_size")}
    recipe, choices = small_recipe(
        images,
        device_kind(device),
        **{name: value for name, value in asked.items() if isinstance(value, int)},
    )
    if "encoder.backbone" in given:  # its shape is the user's own, not a small ResNet's
        recipe = replace(recipe, encoder=EncoderSpec(head=recipe.encoder.head))
    kept = [
        choice
        for choice in choices
        if not any(f"{name}.".startswith(f"{choice.field}.") for name in given)
    ]
    return recipe, kept
