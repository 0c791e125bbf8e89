"""A recipe's views for the images at hand: their channels, depth, mean and deviation."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import astuple
from typing import Any

from moco.data.crops import fit
from moco.data.images import Images, first_usable
from moco.data.statistics import ImageKind, channel_statistics, find_kind
from moco.small import Choice
from moco.specs import MOST_CHANNELS, ViewsSpec


def fit_to_images(
    views: ViewsSpec, images: Images, given: Mapping[str, Any]
) -> tuple[dict[str, Any], list[Choice]]:
    """Return what the images change in a recipe's views, by full field names, and why.

    Photographs change nothing. Others give the network as many channels as they have, and their own
    mean and deviation, unless `given` sets these or the recipe was made for such images.

    Raises:
        DataError: None of the images can be read.
    """
    kind = find_kind(images)
    asked = given.get("views.channels")
    channels = asked if isinstance(asked, int) else views.channels
    if asked is None and channels == ViewsSpec.channels:
        channels = kind.channels
    deep = given.get("views.deep", views.deep or kind.deep)
    if not (1 <= channels <= MOST_CHANNELS and isinstance(deep, bool)):
        return {}, []  # refused when the recipe is made
    wanted = ImageKind(channels, deep)
    if astuple(wanted) == (views.channels, views.deep):
        return {}, []
    changes: dict[str, Any] = {"views.channels": channels, "views.deep": deep}
    depth = "16 bits or floating-point values" if kind.deep else "8 bits"
    choices = [Choice("views.channels", channels, f"the images have {kind.channels}, of {depth}")]
    if not {"views.mean", "views.std"} <= set(given) and not wanted.is_photographs:
        found = channel_statistics(images, wanted)
        changes |= {"views.mean": list(found.mean), "views.std": list(found.std)}
        reason = f"of {found.images} images, with views.std; `moco data stats` counts all"
        choices.append(Choice("views.mean", _shown(found.mean), reason))
    return changes, choices


def _shown(figures: tuple[float, ...]) -> str:
    shown = ", ".join(f"{figure:.3g}" for figure in figures[:4])
    return shown + (", ..." if len(figures) > 4 else "")


def check_usable(images: Images, views: ViewsSpec) -> None:
    """Read images up to one that can be trained on.

    Raises:
        DataError: There is none among those that `first_usable` tries.
    """
    first_usable(images, lambda pixels: fit(pixels, views.channels, views.deep))
