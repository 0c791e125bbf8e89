"""Rows of metrics.jsonl and signals.jsonl as a healthy run has them, with changes."""

from __future__ import annotations

from typing import Any

from moco.recipe import Recipe
from moco.recipe_files import set_fields
from moco.recipes import CIFAR10_RESNET18

RECIPE = set_fields(
    CIFAR10_RESNET18, ["batch_size=64", "batch_norm_groups=4", "dictionary.size=1024"]
)
IMAGES = 3200
HEALTHY_SIGNALS = {
    "epoch": 1,
    "alignment": 0.7,
    "uniformity": -1.0,
    "feature_deviation": 0.4,
    "effective_rank": 10.0,
    "effective_rank_most": 32,
    "view_difference": 0.6,
    "gradient_norm": 2.0,
    "weight_change": 0.001,
    "key_drift": 0.04,
    "consistency": [[10, 0.99], [50, 0.8], [100, 0.4]],
    "oldest_key_steps": 16,
    "oldest_key_epochs": 0.32,
    "queue_filled": 1.0,
    "same_image_keys": 0.0,
    "leak_ordered_top1": 0.1,
    "leak_shuffled_top1": 0.1,
    "waiting_share": 0.1,
    "images_per_second": 500.0,
    "memory_bytes": 1 << 30,
}


def metrics(recipe: Recipe = RECIPE, steps: int = 200, **changed: Any) -> list[dict[str, Any]]:
    row = {
        "loss": 0.8 * recipe.chance_loss,
        "learning_rate": 0.06,
        "key_momentum": recipe.key_momentum,
        "positive_similarity": 0.6,
        "negative_similarity": 0.3,
        "pretext_top1": 0.1,
        "images_per_second": 500.0,
    }
    return [{"step": step, "epoch": step // 50, **row, **changed} for step in range(steps)]


def signals(steps: int = 200, **changed: Any) -> list[dict[str, Any]]:
    return [{"step": step, **HEALTHY_SIGNALS, **changed} for step in range(24, steps, 50)]
