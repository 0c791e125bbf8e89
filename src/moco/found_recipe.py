"""From what was asked for, a recipe's name, a file or a run, to the recipe; no torch in here."""

from __future__ import annotations

import difflib
import os
from collections.abc import Collection
from dataclasses import dataclass, replace
from pathlib import Path

from moco.errors import UsageError
from moco.plain_yaml import ENDINGS
from moco.recipe import Recipe
from moco.recipe_files import change_fields, field_names, read_recipe
from moco.recipe_yaml import RecipeFile, read_recipe_file
from moco.recipes import MOCO_V1, RECIPES

SMALL = "small"
NAMES = (SMALL, *RECIPES)


@dataclass(frozen=True)
class FoundRecipe:
    """A recipe by its name, file or run."""

    name: str
    """What a run is called after."""
    recipe: Recipe | None
    """None for the small recipe, which depends on the images."""
    file: RecipeFile | None = None
    """What a file changes in the small recipe."""

    def over(self, small: Recipe, others: Collection[str] = ()) -> Recipe:
        """Return the small recipe made for the images with the file's changes.

        Args:
            others: fields that the command sets, so that the file's value does not count.
        """
        return small if self.file is None else _changed(self.file, small, others)


def find_recipe(asked: str | Path | Recipe) -> FoundRecipe:
    """Return the recipe of a name, of a recipe file, or of a run directory.

    A text is a name where it is one; otherwise a file where it ends in .yaml or .yml, or exists.

    Raises:
        UsageError: There is none; the nearest name, or the file and line.
        CheckpointError: The run directory's recipe.yaml is not readable.
    """
    if isinstance(asked, Recipe):
        return FoundRecipe(asked.name, asked)
    text = os.fspath(asked)
    if isinstance(asked, str) and text in NAMES:
        return FoundRecipe(text, RECIPES.get(text))
    if os.path.isfile(os.path.join(text, "recipe.yaml")):
        recipe = read_recipe(Path(text) / "recipe.yaml")
        return FoundRecipe(recipe.name, recipe)
    is_file = text.endswith(ENDINGS) or os.path.exists(text)
    if isinstance(asked, Path) or is_file:
        return _from_file(read_recipe_file(Path(text)))
    raise UsageError(f"unknown recipe '{text}'; {_hint(text, ', or name a .yaml file')}")


def _from_file(file: RecipeFile) -> FoundRecipe:
    name = _name(file)
    if file.base is None:
        missing = [field for field in field_names(Recipe) if field not in file.fields]
        if missing:
            raise file.refusal(
                f"neither a base nor a whole recipe ('{missing[0]}' is missing); add a line such "
                "as 'base: moco-v2'"
            )
        return FoundRecipe(name, _changed(file, MOCO_V1))  # of which nothing is left
    if file.base not in NAMES:
        raise file.refusal(f"unknown base '{file.base:.80}'; {_hint(file.base)}", "base")
    if file.base == SMALL:
        return FoundRecipe(name, None, file)
    return FoundRecipe(name, _changed(file, RECIPES[file.base]))


def _changed(file: RecipeFile, base: Recipe, others: Collection[str] = ()) -> Recipe:
    changes = {name: value for name, value in file.fields.items() if name not in others}
    try:
        changed = change_fields(base, {**changes, "name": _name(file)})
    except UsageError as error:
        raise file.blame(error, others) from error
    if "source" in changes or replace(changed, name=base.name) == base:
        return changed
    return replace(changed, source=f"{base.name} with changes")


def _name(file: RecipeFile) -> str:
    """Return the file's own name for the recipe, or the file's; a run directory is called so."""
    name = str(file.fields.get("name", file.path.stem))
    if "name" in file.fields and (
        not name.isprintable() or not 0 < len(name) <= 80 or "/" in name or name.strip(". ") != name
    ):
        raise file.refusal(
            f"the name {name!r:.90} cannot name a directory; write a short one without '/'", "name"
        )
    return name


def _hint(name: str, more: str = "") -> str:
    near = difflib.get_close_matches(name, NAMES, n=1)
    if near:
        return f"did you mean '{near[0]}'?"
    return f"the recipes are {', '.join(NAMES)}{more}"
