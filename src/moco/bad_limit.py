"""How many images may turn out unusable before a run, or a pass of `moco data`, ends."""

from __future__ import annotations

from moco.errors import UsageError


def check_bad_limit(bad_limit: float) -> None:
    """Refuse a limit that is no share of the images.

    Raises:
        UsageError: It is not from 0 to 1.
    """
    if not 0 <= bad_limit <= 1:
        raise UsageError(f"the limit of bad images must be 0 to 1, got {bad_limit:g}")


def most_bad(bad_limit: float, images: int) -> int:
    """Return how many of so many images may be unusable; a single one always may."""
    return max(1, int(bad_limit * images))
