"""`moco recipes`, `moco recipes show` and `moco recipes diff`; no torch in here."""

from __future__ import annotations

import argparse
import shutil
import sys
import textwrap
from typing import Any

from moco.cli.json_file import check_json_path, write_json
from moco.cli.output import printable, say
from moco.errors import UsageError
from moco.found_recipe import SMALL, find_recipe
from moco.recipe import Recipe
from moco.recipe_files import flat_fields
from moco.recipe_words import commented_yaml, recipe_changes
from moco.recipes import EXPECTED_SCORES, RECIPES

LEAST_SOURCE = 10
"""Columns below which a terminal gets no source."""


def run(arguments: argparse.Namespace) -> int:
    """List the recipes, show one, or say what differs between two."""
    check_json_path(arguments.json)
    match arguments.action:
        case "show":
            figures = show_recipe(arguments.recipe)
        case "diff":
            figures = show_difference(arguments.old, arguments.new)
        case _:
            figures = list_recipes()
    write_json(arguments.json, figures)
    return 0


def list_recipes() -> dict[str, object]:
    """Print the table; return its figures, flat."""
    rows: list[tuple[str, ...]] = [(SMALL, "-", "-", "made for your images and device")]
    figures: dict[str, object] = {}
    for name, recipe in RECIPES.items():
        score = EXPECTED_SCORES.get(name)
        expected = score.in_words if score else "not measured yet"
        rows.append((name, str(recipe.epochs), expected, recipe.source))
        figures |= {f"{name}_epochs": recipe.epochs, f"{name}_source": recipe.source}
        if score is not None:
            figures |= {
                f"{name}_top1": score.top1,
                f"{name}_measure": score.measure,
                f"{name}_data": score.data,
                f"{name}_score_source": score.source,
            }
    say("\n".join(table_lines(("RECIPE", "EPOCHS", "EXPECTED", "SOURCE"), rows)))
    return figures


def table_lines(head: tuple[str, ...], rows: list[tuple[str, ...]]) -> list[str]:
    """Return the table in lines, the last column cut to the terminal; whole where none reads."""
    columns = (
        shutil.get_terminal_size().columns if sys.stdout and sys.stdout.isatty() else sys.maxsize
    )
    widths = [max(map(len, column)) for column in zip(head, *rows, strict=True)]
    room = columns - sum(widths[:-1]) - 2 * len(widths[:-1])
    lines = []
    for name, epochs, expected, source in [head, *rows]:
        first = f"{name:{widths[0]}}  {epochs:>{widths[1]}}  {expected:{widths[2]}}"
        if room >= LEAST_SOURCE:
            first += f"  {shortened(source, room)}"
        lines.append(first.rstrip())
    return lines


def shortened(text: str, room: int) -> str:
    """Return the text, what stands before its comma, or as many words as there is room for."""
    text = text if len(text) <= room else text.partition(",")[0]
    return textwrap.shorten(text, room, placeholder="...")


def show_recipe(asked: str) -> dict[str, object]:
    """Print a recipe as a file that can be given back; return its fields."""
    recipe = fixed_recipe(asked)
    head = f"{recipe.name}: {recipe.source}."
    score = EXPECTED_SCORES.get(recipe.name)
    if score is not None and recipe == RECIPES[recipe.name]:
        head += f" Expected: {score.in_words} ({score.source})."
    say(commented_yaml(recipe, printable(head)).rstrip("\n"))
    return dict(flat_fields(recipe))


def show_difference(old: str, new: str) -> dict[str, object]:
    """Print what differs, one line a change; return both values of each field."""
    before, after = fixed_recipe(old), fixed_recipe(new)
    changes = recipe_changes(before, after)
    say(f"{printable(before.name)} ({printable(before.source)})")
    say(f"{printable(after.name)} ({printable(after.source)})")
    for change in changes:
        say("\n".join(change.lines))
    count = len(changes)
    say(f"{count} change{'s' if count > 1 else ''}" if changes else "no difference")
    figures: dict[str, Any] = {"old": before.name, "new": after.name, "changes": count}
    for change in changes:
        for name, (old_value, new_value) in change.fields.items():
            figures |= {f"{name}_old": old_value, f"{name}_new": new_value}
    return figures


def fixed_recipe(asked: str) -> Recipe:
    """Return the recipe of a name, a file or a run.

    Raises:
        UsageError: It is the small one, which is made for the images of a run.
    """
    found = find_recipe(asked)
    if found.recipe is None:
        raise UsageError(
            f"'{asked}' is made for your images: `moco pretrain IMAGES --recipe {asked} --dry-run` "
            "shows it; or name a run directory"
        )
    return found.recipe
