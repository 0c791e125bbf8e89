"""The comparison of steps as plain values for a file, and as rows of a table."""

from __future__ import annotations

from typing import Any

from moco.benchmark.figures import short_number
from moco.benchmark.machine import machine_figures
from moco.benchmark.steps.comparing import StepComparison, StepResult
from moco.benchmark.steps.profiling import StepProfile
from moco.device import device_name


def step_columns(*, per_core: bool) -> list[str]:
    """Return the table's head."""
    rate = "images/s/core" if per_core else "images/s"
    return ["step", rate, "from - to", "x official", "from - to"]


def step_figures(comparison: StepComparison) -> dict[str, Any]:
    """Return everything that was found, for JSON."""
    start = comparison.start
    recipe = start.recipe
    return {
        "recipe": recipe.name,
        "backbone": recipe.encoder.backbone,
        "image_size": recipe.views.image_size,
        "batch_size": recipe.batch_size,
        "queue_size": recipe.dictionary.size,
        "dim": recipe.encoder.dim,
        "symmetric": recipe.symmetric,
        "batch_norm_groups": recipe.batch_norm_groups,
        "device": start.device.type,
        "device_name": device_name(start.device),
        "rows": [step_row(result) for result in comparison.results],
        "left_out": comparison.left_out,
        **machine_figures(*comparison.loads),
    }


def step_row(result: StepResult) -> dict[str, Any]:
    """Return a row's figures."""
    row, work = result.row, result.work
    return {
        "name": row.name,
        "title": row.title,
        "includes": row.includes,
        "per_core": row.is_per_core,
        "images_per_second": round(result.rate, 3),
        "images_per_second_low": round(min(result.rates), 3),
        "images_per_second_high": round(max(result.rates), 3),
        "times_official": round(result.ratio, 3),
        "times_official_low": round(min(result.ratios), 3),
        "times_official_high": round(max(result.ratios), 3),
        "samples": [round(rate, 3) for rate in result.rates],
        "first_losses": [round(loss, 6) for loss in work.losses],
        "weights": work.parameters,
        "operations_per_step": work.operations,
    }


def step_rows(comparison: StepComparison) -> list[list[str]]:
    """Return a line for each step: what it is, median, spread, and multiples of the official."""
    return [
        [
            result.row.title,
            short_number(result.rate),
            f"{short_number(min(result.rates))} - {short_number(max(result.rates))}",
            f"{result.ratio:.2f}",
            f"{min(result.ratios):.2f} - {max(result.ratios):.2f}",
        ]
        for result in comparison.results
    ]


def profile_figures(profiles: list[StepProfile]) -> list[dict[str, Any]]:
    """Return where the steps' time goes, for JSON."""
    return [
        {
            "name": each.name,
            "shares": {name: round(share, 4) for name, share in each.shares.items()},
            "seconds_per_step": each.seconds_per_step,
            "operations_per_step": each.operations_per_step,
            "bytes_per_step": each.bytes_per_step,
            "device_operations_per_second": each.ceilings.operations_per_second,
            "device_bytes_per_second": each.ceilings.bytes_per_second,
            "operation_seconds": each.operation_seconds,
            "byte_seconds": each.byte_seconds,
            "floor_share": round(each.floor_share, 4),
        }
        for each in profiles
    ]


def profile_rows(profiles: list[StepProfile]) -> list[list[str]]:
    """Return a line for each part of a step, and lines for its floor."""
    parts = [
        [name, *(f"{100 * each.shares[name]:.1f} %" for each in profiles)]
        for name in profiles[0].shares
    ]
    floor = [
        ["a step", *(_milliseconds(each.seconds_per_step) for each in profiles)],
        ["its operations alone", *(_milliseconds(each.operation_seconds) for each in profiles)],
        ["its bytes alone", *(_milliseconds(each.byte_seconds) for each in profiles)],
        ["the longer, of a step", *(f"{100 * each.floor_share:.0f} %" for each in profiles)],
    ]
    return parts + floor


def _milliseconds(seconds: float) -> str:
    return f"{1000 * seconds:,.1f} ms"
