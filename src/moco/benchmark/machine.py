"""What a figure depends on: the processor, the versions, and what else was running."""

from __future__ import annotations

import importlib.metadata
import os
import platform

from PIL import features

PACKAGES = (
    "torch",
    "torchvision",
    "pillow",
    "numpy",
    "simplejpeg",
    "lightly",
    "stable-pretraining",
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


def processor() -> str:
    """Return what the processor calls itself."""
    try:
        with open("/proc/cpuinfo", encoding="utf-8", errors="replace") as file:
            for line in file:
                if line.startswith("model name"):
                    return line.partition(":")[2].strip()
    except OSError:
        pass
    return platform.processor() or platform.machine()


def system_load() -> float | None:
    """Return how many programs wanted a processor in the last minute; None where none tells."""
    return round(os.getloadavg()[0], 2) if hasattr(os, "getloadavg") else None
