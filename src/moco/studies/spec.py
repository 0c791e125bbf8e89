"""What a study is made of: settings, the paper's claims about them; no torch in here."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

from moco.errors import UsageError
from moco.recipe import Recipe

Measure = Literal["linear", "knn_200", "knn_20", "pretext_top1"]
MEASURES: tuple[Measure, ...] = ("linear", "knn_200", "knn_20", "pretext_top1")


@dataclass(frozen=True, kw_only=True)
class Setting:
    """One row of a study: a recipe, and where its result belongs."""

    name: str
    """What the row is called."""
    series: str
    """The line of the figure that it is a point of."""
    x: float | str
    """Where on that line."""
    recipe: Recipe
    paper: str = ""
    """Top-1 of ImageNet's linear probe in the paper, %; empty where it gives none."""


@dataclass(frozen=True, kw_only=True)
class Claim:
    """What the paper says of its comparison: the better settings lie above the worse ones."""

    text: str
    better: tuple[str, ...]
    """Names of settings; with more than one, their mean counts."""
    worse: tuple[str, ...]
    measure: Measure


@dataclass(frozen=True, kw_only=True)
class Study:
    """A comparison of a paper."""

    name: str
    title: str
    source: str
    """The paper, and its table or figure."""
    x_label: str
    figure: Literal["lines", "bars", "curves"]
    """lines over numbers on a logarithmic axis; bars; curves over the epochs of training."""
    settings: Callable[[Recipe, int], tuple[Setting, ...]]
    """From the base recipe and the number of images."""
    claims: Callable[[tuple[Setting, ...]], tuple[Claim, ...]]

    def settings_of(self, base: Recipe, images: int) -> tuple[Setting, ...]:
        """Return the settings for this base recipe.

        Raises:
            UsageError: The study says nothing about such a recipe.
        """
        if base.mechanism != "queue" or base.encoder.predictor != "none":
            raise UsageError(
                f"recipe '{base.name}' has mechanism {base.mechanism} and predictor "
                f"{base.encoder.predictor}, and studies compare with a queue and none; choose a "
                "recipe such as small or moco-v2"
            )
        return self.settings(base, images)
