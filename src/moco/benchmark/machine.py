"""What a figure depends on: the processor, the versions, and what else was running."""

from __future__ import annotations

import importlib.metadata
import os
import platform
from typing import Any

from PIL import features

from moco.device import cpu_count, processor

PACKAGES = (
    "torch",
    "torchvision",
    "pillow",
    "numpy",
    "simplejpeg",
    "timm",
    "triton",
    "lightly",
    "stable-pretraining",
    "solo-learn",
)


def versions() -> dict[str, str]:
    """Return the versions of what takes part, without those that are not installed."""
    from moco import __version__

    found = {"python": platform.python_version(), "moco": __version__}
    for package in PACKAGES:
        try:
            found[package] = importlib.metadata.version(package)
        except importlib.metadata.PackageNotFoundError:
            continue
    for name in ("libjpeg_turbo", "jpg"):
        if features.check(name):
            return {**found, f"pillow_{name}": str(features.version(name))}
    return found


def system_load() -> float | None:
    """Return how many programs wanted a processor in the last minute; None where none tells."""
    return round(os.getloadavg()[0], 2) if hasattr(os, "getloadavg") else None


def machine_figures(began: float | None, ended: float | None) -> dict[str, Any]:
    """Return the machine's figures for JSON.

    Args:
        began: the system's load before, None where none tells.
        ended: and after.
    """
    return {
        "processor": processor(),
        "cores": cpu_count(),
        "load_before": began,
        "load_after": ended,
        "versions": versions(),
    }
