"""Files with any damage, drawn by hypothesis: all that may come of them are errors of ours."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from hypothesis import HealthCheck, settings

from moco.data.images import StoredImages, UnreadableImageError
from moco.data.sources.opening import open_images
from moco.errors import DataError


def same_draws(examples: int) -> settings:
    """Return settings for so many damaged files, the same ones at every run."""
    return settings(
        max_examples=examples,
        derandomize=True,
        database=None,
        deadline=None,
        suppress_health_check=list(HealthCheck),
    )


def check_errors(open_source: Callable[[], StoredImages], most: int = 50) -> StoredImages | None:
    """Open a source, read its labels and up to `most` images; return it, None if it is refused.

    Any other error than ours fails the test, as do labels that are refused where opening was not.
    """
    try:
        images = open_source()
    except DataError:
        return None
    images.labels()
    for number in range(min(most, len(images))):
        try:
            images.read(number)
        except UnreadableImageError:
            continue
    return images


def open_with_labels(path: Path) -> StoredImages:
    """Return a source whose labels may be damaged too; raises DataError then."""
    images = open_images(path)
    images.labels()
    return images
