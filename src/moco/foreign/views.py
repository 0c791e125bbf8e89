"""How images are looked at by a network that a file is of."""

from __future__ import annotations

from dataclasses import replace

from moco.foreign.weights import Kind
from moco.recipes import CIFAR10_RESNET18
from moco.specs import IMAGENET_MEAN, IMAGENET_STD, Stem, ViewsSpec

SMALL_SIDE = 32
MULTISPECTRAL = (10, 12, 13)
"""How many bands of Sentinel-2 weights are for."""
REFLECTANCE = 10_000 / 65_535
"""Sentinel-2's authors divide stored values by 10,000, and 16-bit values count as 0 to 1 here."""


def views_of(kind: Kind, channels: int, side: int, stem: Stem) -> tuple[ViewsSpec, tuple[str, ...]]:
    """Return how images are looked at, and what a person should know of it.

    Args:
        side: of the images that the network is built for, in pixels.
    """
    if kind == "official-cifar" and channels == 3:
        return CIFAR10_RESNET18.views, ()
    if stem == "small":
        side = SMALL_SIDE
    sized = ViewsSpec(
        image_size=side,
        evaluation_size=side,
        evaluation_resize=side if stem == "small" else round(side / 0.875),
    )
    if channels == 3:
        notes = (
            ()
            if kind.startswith("official")
            else ("images are normalized as ImageNet's, which the file does not say",)
        )
        return replace(sized, mean=IMAGENET_MEAN, std=IMAGENET_STD), notes
    mean = (0.0,) * channels
    if channels in MULTISPECTRAL:
        note = (
            f"16-bit images of {channels} bands are divided by 10,000, as SSL4EO-S12's authors do; "
            "the file does not say it, nor the order of its bands"
        )
        std = (REFLECTANCE,) * channels
        return replace(sized, channels=channels, deep=True, mean=mean, std=std), (note,)
    note = (
        f"images of {channels} channels count as 0 to 1; the file says neither how to normalize "
        "them nor the order of its channels"
    )
    return replace(sized, channels=channels, mean=mean, std=(1.0,) * channels), (note,)
