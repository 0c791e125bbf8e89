"""The `small` recipe: settings for your images and device, each with its reason; no torch in here.

The measurements behind the rules are in docs/small_recipe.md.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal

from moco.errors import DataError, UsageError
from moco.recipe import Recipe
from moco.specs import DictionarySpec, EncoderSpec, OptimizerSpec, ViewsSpec

DeviceKind = Literal["cpu", "cuda", "mps"]
FEWEST_IMAGES = 16
GROUP_IMAGES = 16
"""Images in a batch-norm group: fewer make the statistics too noisy to train with."""
MOST_EPOCHS = 800


@dataclass(frozen=True)
class Choice:
    """One setting that was derived, and why."""

    field: str
    value: object
    reason: str


def small_recipe(
    images: int, device: DeviceKind, *, epochs: int | None = None, batch_size: int | None = None
) -> tuple[Recipe, list[Choice]]:
    """Return a recipe for `images` images on `device`, and the reason of each derived setting.

    Args:
        images: how many there are.
        device: what kind of device trains.
        epochs: passes over the images, in place of the derived number.
        batch_size: images a step, in place of the derived number; the rest follows it.

    Raises:
        DataError: Fewer than 16 images, nothing to contrast with, or fewer than a batch.
        UsageError: Fewer epochs than one, or a batch of fewer than two.
    """
    _check(images, epochs, batch_size)
    on_cpu = device == "cpu"
    if batch_size is None:
        batch_size = min(64 if on_cpu else 256, _power_of_two_up_to(images // 2))
    queue = max(batch_size, min(65536, _power_of_two_up_to(images // 4)))
    steps_per_epoch = images // batch_size
    if epochs is None:
        target_steps = 2500 if on_cpu else 20000
        epochs = min(MOST_EPOCHS, math.ceil(target_steps / steps_per_epoch))
    steps = epochs * steps_per_epoch
    recipe = Recipe(
        name="small",
        source="docs/small_recipe.md",
        encoder=_encoder(device),
        dictionary=DictionarySpec(size=queue, exclude_same_image=True),
        views=_views(image_size=64 if on_cpu else 128),
        optimizer=OptimizerSpec(
            algorithm="adamw",
            learning_rate=1e-3,
            weight_decay=1e-2,
            schedule="warmup_cosine",
            warmup_epochs=epochs / 20,
        ),
        temperature=0.1,
        key_momentum=_key_momentum(steps),
        batch_norm_groups=_groups(batch_size),
        epochs=epochs,
        batch_size=batch_size,
    )
    return recipe, _reasons(recipe, images, device, steps)


def _check(images: int, epochs: int | None, batch_size: int | None) -> None:
    if images < FEWEST_IMAGES:
        raise DataError(
            f"{images} images are fewer than a batch: the small recipe needs at least "
            f"{FEWEST_IMAGES}; add images"
        )
    if epochs is not None and epochs < 1:
        raise UsageError(f"epochs must be at least 1, got {epochs}")
    if batch_size is not None and batch_size < 2:
        raise UsageError(f"batch_size must be at least 2, got {batch_size}")
    if batch_size is not None and batch_size > images:
        raise DataError(
            f"{images} images are fewer than a batch of {batch_size}; add images or lower it"
        )


def _encoder(device: DeviceKind) -> EncoderSpec:
    if device != "cpu":
        return EncoderSpec(backbone="resnet18", head="mlp")
    return EncoderSpec(
        backbone="resnet18", stem="strided", width=0.5, stage_blocks=(1, 1, 1, 1), head="mlp"
    )


def _views(image_size: int) -> ViewsSpec:
    evaluation_size = image_size * 3 // 2
    return ViewsSpec(
        image_size=image_size,
        order=("crop", "jitter", "gray", "horizontal_flip"),
        jitter=(0.4, 0.4, 0.4, 0.1),
        jitter_probability=0.8,
        evaluation_resize=evaluation_size,
        evaluation_size=evaluation_size,
    )


def _groups(batch_size: int) -> int:
    """Return how many groups of about 16 images, 2 at the least, the batch splits into; 1 if none.

    At least two where it can be, as one group hides no leak.
    """
    fitting = [count for count in range(2, batch_size // 2 + 1) if batch_size % count == 0]
    return min(fitting, key=lambda count: abs(batch_size / count - GROUP_IMAGES), default=1)


def _key_momentum(steps: int) -> float:
    """Return m: the key encoder's memory, 1 / (1 - m) steps, stays a small part of the run."""
    if steps < 10000:
        return 0.99
    return 0.996 if steps < 50000 else 0.999


def _reasons(recipe: Recipe, images: int, device: DeviceKind, steps: int) -> list[Choice]:
    encoder, views = recipe.encoder, recipe.views
    where = "a CPU" if device == "cpu" else "a GPU"
    groups, batch_size = recipe.batch_norm_groups, recipe.batch_size
    return [
        Choice(
            "encoder",
            f"{encoder.backbone}, width {encoder.width:g}"
            + (", one block a stage" if encoder.stage_blocks else ""),
            f"what {where} trains in minutes"
            if device == "cpu"
            else f"what {where} trains within the hour; --set backbone=resnet50 for more",
        ),
        Choice(
            "views.image_size",
            views.image_size,
            f"{where}'s speed; evaluated at {views.evaluation_size}, since crops enlarge",
        ),
        Choice(
            "batch_size",
            batch_size,
            f"many steps in little time on {where}"
            if batch_size >= 64
            else f"at least two batches from {images} images",
        ),
        Choice(
            "batch_norm_groups",
            groups,
            f"{batch_size // groups} images a group: keys are shuffled between groups",
        ),
        Choice(
            "dictionary.size",
            recipe.dictionary.size,
            f"about a quarter of {images:,} images, so that few keys are older than an epoch"
            if recipe.dictionary.size > batch_size
            else "one batch, the least there can be",
        ),
        Choice(
            "key_momentum",
            recipe.key_momentum,
            f"averages {1 / (1 - recipe.key_momentum):.0f} steps of {steps:,}",
        ),
        Choice(
            "optimizer.learning_rate",
            recipe.optimizer.learning_rate,
            "AdamW's usual rate; learns more than SGD in so few steps",
        ),
        Choice("epochs", recipe.epochs, f"{steps:,} steps"),
    ]


def _power_of_two_up_to(limit: int) -> int:
    return 1 << max(0, limit.bit_length() - 1)
