"""The comparison as plain values for a file, and as rows of a table."""

from __future__ import annotations

from typing import Any

from moco.benchmark.input import Comparison, Row
from moco.benchmark.machine import machine_figures

COLUMNS = ["pipeline", "images/s/core", "from - to", "x official"]


def plain_figures(comparison: Comparison) -> dict[str, Any]:
    """Return everything that was found, for JSON."""
    return {
        "images": comparison.images,
        "mean_bytes": round(comparison.mean_bytes),
        "decoded_difference": round(comparison.likeness.decoded, 4),
        "crop_difference": round(comparison.likeness.crops, 4),
        "rows": [plain_row(row) for row in comparison.rows],
        "left_out": comparison.left_out,
        **machine_figures(*comparison.loads),
    }


def plain_row(row: Row) -> dict[str, Any]:
    """Return a row's figures."""
    return {
        "name": row.contender.name,
        "title": row.contender.title,
        "includes": row.contender.includes,
        "device": row.contender.device.type,
        "per_core": row.contender.is_per_core,
        "images_per_pass": row.contender.images,
        "images_per_second": round(row.rate, 2),
        "images_per_second_low": round(min(row.rates), 2),
        "images_per_second_high": round(max(row.rates), 2),
        "times_official": round(row.ratio, 3),
        "times_official_low": round(min(row.ratios), 3),
        "times_official_high": round(max(row.ratios), 3),
        "samples": [round(rate, 2) for rate in row.rates],
    }


def table_rows(comparison: Comparison) -> list[list[str]]:
    """Return a line for each pipeline: what it is, median, spread, and multiple of the official."""
    return [
        [
            row.contender.title + ("" if row.contender.is_per_core else " (the device's images/s)"),
            f"{row.rate:,.0f}",
            f"{min(row.rates):,.0f} - {max(row.rates):,.0f}",
            f"{row.ratio:.2f}",
        ]
        for row in comparison.rows
    ]


def short_number(value: float) -> str:
    """Return a number with three digits or more."""
    return f"{value:,.0f}" if value >= 100 else f"{value:.3g}"
