"""What a run will do, decided before anything is written: recipe, device, number of steps."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch

from moco.checkpoint import Identity, image_fingerprint
from moco.data.images import FolderImages, Images, check_readable
from moco.device import default_workers, device_kind, pick_device, pick_precision
from moco.errors import DataError, UsageError
from moco.found_recipe import FoundRecipe, find_recipe
from moco.processes import local_processes
from moco.recipe import Recipe
from moco.recipe_files import change_fields, read_setting
from moco.small import Choice, small_recipe
from moco.specs import EncoderSpec

CACHE_BYTES = 1 << 30
"""Decoded images are kept in memory up to this size, over all loading processes of a machine."""


@dataclass(frozen=True)
class Plan:
    """A run, decided but not begun."""

    images: Images
    recipe: Recipe
    choices: list[Choice]
    """What the small recipe derived, and why; empty for the others."""
    run: Path
    device: torch.device
    precision: torch.dtype | None
    seed: int
    workers: int
    steps_per_epoch: int

    @property
    def steps(self) -> int:
        """All optimizer steps of the run."""
        return self.recipe.epochs * self.steps_per_epoch

    def identity(self) -> Identity:
        """Return what a continuation of this run must have in common with it."""
        names = [self.images.name(image_id) for image_id in range(len(self.images))]
        return Identity(self.recipe, self.seed, len(names), image_fingerprint(names))


def make_plan(  # noqa: PLR0913  one for each option of the command
    images: str | Path | Images,
    *,
    recipe: str | Path | Recipe = "small",
    settings: Sequence[str] = (),
    epochs: int | None = None,
    run: str | Path | None = None,
    device: str = "auto",
    seed: int = 0,
    workers: int | None = None,
    precision: str = "auto",
) -> Plan:
    """Return the plan of a run; writes nothing.

    Args:
        images: a folder, searched recursively, or an `Images` object.
        recipe: a recipe's name, a recipe file, a run directory, or a `Recipe`.
        settings: "field=value" changes to it.
        epochs: the same as the setting "epochs=N".
        run: where the run is kept; runs/RECIPE-FOLDER by default.
        device: auto, cpu, cuda or mps.
        seed: decides weights, order and views.
        workers: loading processes; None picks by device.
        precision: auto, float32 or bfloat16: what networks compute in.

    Raises:
        UsageError: An unknown recipe, field or device, a recipe file that is not strict YAML, or
            values that do not go together.
        DataError: No images, none readable, or fewer than a batch.
    """
    if isinstance(settings, str):
        raise UsageError(f"settings must be a list such as ['{settings}'], got text")
    picked = pick_device(device)
    if not 0 <= seed < 1 << 63:
        raise UsageError(f"seed must be from 0 to 2^63 - 1, got {seed}")
    if workers is None:
        workers = default_workers(picked)
    elif workers < 0:
        raise UsageError(f"workers must be from 0, got {workers}")
    found = find_recipe(recipe)
    if isinstance(images, str | Path):
        readers = max(1, workers) * local_processes()
        images = FolderImages(images, cache_bytes=CACHE_BYTES // readers)
    changes = dict(read_setting(setting) for setting in settings)
    if epochs is not None:
        changes["epochs"] = epochs
    known_recipe, choices = _recipe_for(len(images), picked, found, changes)
    settled = change_fields(known_recipe, changes)
    _check_images(images, settled)
    where = Path(run) if run is not None else _default_run(found.name, images)
    return Plan(
        images=images,
        recipe=settled,
        choices=choices,
        run=where,
        device=picked,
        precision=pick_precision(precision, picked),
        seed=seed,
        workers=workers,
        steps_per_epoch=len(images) // settled.batch_size,
    )


def _default_run(name: str, images: Images) -> Path:
    """Return runs/RECIPE-FOLDER; the name may come from a file that somebody sent."""
    if "/" in name or "\\" in name:
        raise UsageError(f"the recipe's name {name!r:.90} cannot name a directory; choose a --run")
    folder = getattr(images, "folder", None)
    return Path("runs") / "-".join([name, *([folder.resolve().name] if folder is not None else [])])


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


def _check_images(images: Images, recipe: Recipe) -> None:
    if len(images) < recipe.batch_size:
        raise DataError(
            f"{len(images)} images are fewer than a batch of {recipe.batch_size}; add images, use "
            "--recipe small, or lower it with --set batch_size=N"
        )
    check_readable(images)
