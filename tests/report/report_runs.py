"""Run directories as a run leaves them, of made-up figures: no training, no checkpoint."""

from __future__ import annotations

import json
import math
from dataclasses import replace
from pathlib import Path
from typing import Any

from moco.recipe import Recipe
from moco.recipe_files import write_recipe
from moco.recipes import MOCO_V2
from moco.run_records import append_lines

RECIPE = replace(
    MOCO_V2,
    name="made",
    source="moco-v2 with changes",
    dictionary=replace(MOCO_V2.dictionary, size=1024),
    batch_size=64,
    epochs=4,
)


def metrics_rows(steps: int, per_epoch: int = 50, rate: float = 0.03) -> list[dict[str, Any]]:
    return [
        {
            "step": step,
            "epoch": step // per_epoch,
            "loss": 4.0 + 2 * math.exp(-step / steps) + 0.01 * (step % 3),
            "learning_rate": rate,
            "key_momentum": 0.999,
            "positive_similarity": 0.8,
            "negative_similarity": 0.1 * step / steps,
            "pretext_top1": 0.2 * step / steps,
            "images_per_second": 500.0,
            **({"knn_top1": 0.5 + step / 2000} if step % per_epoch == per_epoch - 1 else {}),
        }
        for step in range(steps)
    ]


def signal_rows(steps: int, every: int = 25) -> list[dict[str, Any]]:
    return [
        {
            "step": step,
            "epoch": 0,
            "probe_images": 64,
            "alignment": 0.5,
            "uniformity": -1.5,
            "feature_deviation": 0.7,
            "effective_rank": 20 + step / 10,
            "view_difference": 0.7,
            "gradient_norm": 1.0,
            "weight_change": 1e-3,
            "key_drift": 0.01,
            "oldest_key_epochs": 0.3,
            "queue_filled": 1.0,
            "same_image_keys": 0.0,
            "leak_ordered_top1": 0.1,
            "leak_shuffled_top1": 0.1,
            "consistency": [[10, 0.99], [20, 0.97 - step / 10_000], [40, 0.9]],
            "waiting_share": 0.02,
            "images_per_second": 480.0,
            "memory_bytes": 8e8,
        }
        for step in range(every - 1, steps, every)
    ]


def made_run(
    at: Path,
    *,
    steps: int = 200,
    recipe: Recipe = RECIPE,
    status: dict[str, Any] | None = None,
    rows: list[dict[str, Any]] | None = None,
) -> Path:
    at.mkdir(parents=True)
    write_recipe(at / "recipe.yaml", recipe)
    rate = recipe.optimizer.learning_rate
    append_lines(at / "metrics.jsonl", metrics_rows(steps, rate=rate) if rows is None else rows)
    append_lines(at / "signals.jsonl", signal_rows(steps))
    told = {
        "state": "done",
        "step": steps,
        "steps": 200,
        "images": 3200,
        "steps_per_epoch": 50,
        "reason": "",
        "skipped_files": 0,
    }
    (at / "status.json").write_text(json.dumps(told | (status or {})))
    return at
