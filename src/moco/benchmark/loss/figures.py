"""The comparison of losses as plain values for a file, and as rows of a table."""

from __future__ import annotations

from typing import Any

from moco.benchmark.figures import short_number
from moco.benchmark.loss.comparing import LossComparison, LossResult
from moco.benchmark.machine import machine_figures
from moco.device import device_name

MEBIBYTE = 1 << 20
LOSS_COLUMNS = ["loss", "ms", "from - to", "x official", "from - to", "extra MiB"]


def loss_figures(comparison: LossComparison) -> dict[str, Any]:
    """Return everything that was found, for JSON."""
    shape = comparison.shape
    return {
        "batch_size": shape.batch,
        "queue_size": shape.queue,
        "dim": shape.dim,
        "temperature": shape.temperature,
        "device": comparison.device.type,
        "device_name": device_name(comparison.device),
        "rows": [_row(result) for result in comparison.results],
        **machine_figures(*comparison.loads),
    }


def _row(result: LossResult) -> dict[str, Any]:
    return {
        "name": result.row.name,
        "title": result.row.title,
        "includes": result.row.includes,
        "per_core": result.row.is_per_core,
        "loss": result.loss,
        "gradient_error": result.gradient_error,
        "milliseconds": round(result.time, 4),
        "milliseconds_low": round(min(result.milliseconds), 4),
        "milliseconds_high": round(max(result.milliseconds), 4),
        "times_official": round(result.ratio, 3),
        "times_official_low": round(min(result.ratios), 3),
        "times_official_high": round(max(result.ratios), 3),
        "samples": [round(each, 4) for each in result.milliseconds],
        "extra_bytes": result.extra_bytes,
    }


def loss_rows(comparison: LossComparison) -> list[list[str]]:
    """Return a line for each loss."""
    return [
        [
            result.row.title,
            short_number(result.time),
            f"{short_number(min(result.milliseconds))} - {short_number(max(result.milliseconds))}",
            f"{result.ratio:.2f}",
            f"{min(result.ratios):.2f} - {max(result.ratios):.2f}",
            f"{result.extra_bytes / MEBIBYTE:,.1f}",
        ]
        for result in comparison.results
    ]
