"""The comparison of training as plain values for a file, and as rows of a table."""

from __future__ import annotations

from statistics import median
from typing import Any

from moco.benchmark.figures import short_number
from moco.benchmark.machine import machine_figures
from moco.benchmark.training.comparing import TrainComparison, TrainResult
from moco.device import device_name

TRAIN_COLUMNS = ["training", "images/s", "from - to", "x official", "images/CPU s", "x official"]


def train_figures(comparison: TrainComparison) -> dict[str, Any]:
    """Return everything that was found, for JSON."""
    recipe, sizes = comparison.recipe, comparison.sizes
    return {
        "recipe": recipe.name,
        "backbone": recipe.encoder.backbone,
        "image_size": recipe.views.image_size,
        "batch_size": recipe.batch_size,
        "queue_size": recipe.dictionary.size,
        "images": comparison.images,
        "steps_per_turn": sizes.steps,
        "workers": sizes.workers,
        "threads": comparison.threads,
        "decoded_difference": round(comparison.likeness.decoded, 4),
        "crop_difference": round(comparison.likeness.crops, 4),
        "device": sizes.device.type,
        "device_name": device_name(sizes.device),
        "rows": [_row(result) for result in comparison.results],
        **machine_figures(*comparison.loads),
    }


def _row(result: TrainResult) -> dict[str, Any]:
    return {
        "name": result.row.name,
        "title": result.row.title,
        "includes": result.row.includes,
        **_spread("images_per_second", result.rates),
        **_spread("times_official", result.ratios),
        **_spread("images_per_cpu_second", result.cpu_rates),
        **_spread("times_official_cpu", result.cpu_ratios),
        "samples": [round(rate, 3) for rate in result.rates],
        "cpu_samples": [round(rate, 3) for rate in result.cpu_rates],
    }


def _spread(name: str, values: list[float]) -> dict[str, float]:
    return {
        name: round(median(values), 3),
        f"{name}_low": round(min(values), 3),
        f"{name}_high": round(max(values), 3),
    }


def train_table(comparison: TrainComparison) -> list[list[str]]:
    """Return a line for each loop."""
    return [
        [
            result.row.title,
            short_number(median(result.rates)),
            f"{short_number(min(result.rates))} - {short_number(max(result.rates))}",
            f"{median(result.ratios):.2f}",
            short_number(median(result.cpu_rates)),
            f"{median(result.cpu_ratios):.2f}",
        ]
        for result in comparison.results
    ]
