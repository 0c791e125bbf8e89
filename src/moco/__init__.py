"""Momentum Contrast: self-supervised visual pre-training. Names are imported when first used."""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from moco.contrast import Contrast as Contrast
    from moco.errors import MocoError as MocoError
    from moco.loading import load as load
    from moco.pretraining import pretrain as pretrain
    from moco.recipe import Recipe as Recipe
    from moco.recipes import RECIPES as RECIPES
    from moco.small import small_recipe as small_recipe

__version__ = "0.1.0"
_HOMES = {
    "Contrast": "moco.contrast",
    "MocoError": "moco.errors",
    "RECIPES": "moco.recipes",
    "Recipe": "moco.recipe",
    "load": "moco.loading",
    "pretrain": "moco.pretraining",
    "small_recipe": "moco.small",
}
__all__ = sorted(_HOMES)


def __getattr__(name: str) -> object:
    if name not in _HOMES:
        raise AttributeError(f"module 'moco' has no attribute '{name}'")
    value = getattr(importlib.import_module(_HOMES[name]), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return [*__all__, "__version__"]
