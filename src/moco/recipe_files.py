"""Recipes to and from plain values: `--set`, recipe.yaml, checkpoints; strict about types."""

from __future__ import annotations

import dataclasses
import difflib
import math
import os
from collections.abc import Iterator, Mapping
from dataclasses import fields, is_dataclass
from pathlib import Path
from typing import Any, Literal, get_args, get_origin, get_type_hints

import yaml

from moco.errors import CheckpointError, UsageError
from moco.plain_files import write_own
from moco.plain_yaml import read_yaml
from moco.recipe import Recipe

OTHER_NAMES = {
    "lr": "optimizer.learning_rate",
    "wd": "optimizer.weight_decay",
    "bs": "batch_size",
    "tau": "temperature",
    "m": "key_momentum",
    "momentum": "key_momentum",
    "ema": "key_momentum",
    "k": "dictionary.size",
    "queue": "dictionary.size",
    "queue_size": "dictionary.size",
    "arch": "encoder.backbone",
    "model": "encoder.backbone",
    "resolution": "views.image_size",
}
"""What people call fields elsewhere; only for the hint in the error."""


def set_fields(recipe: Recipe, settings: list[str]) -> Recipe:
    """Return the recipe with `field=value` settings applied together, values written as in YAML.

    A field is named in full (`optimizer.learning_rate`) or by its last part where that is enough.

    Raises:
        UsageError: Unknown field (the nearest is named), wrong type, or a combination that the
            recipe refuses.
    """
    return change_fields(recipe, dict(read_setting(setting) for setting in settings))


def change_fields(recipe: Recipe, changes: Mapping[str, Any]) -> Recipe:
    """Return the recipe with fields, by their full names, changed together.

    Raises:
        UsageError: A wrong type, or a combination that the recipe refuses.
    """
    values = recipe_to_dict(recipe)
    for name, value in changes.items():
        _assign(values, name, value)
    return recipe_from_dict(values)


def read_setting(setting: str) -> tuple[str, Any]:
    """Return the full field name and the value of "field=value", its type not yet checked.

    Raises:
        UsageError: Unknown field, or no readable value.
    """
    name, equals, text = setting.partition("=")
    if not equals:
        raise UsageError(f"--set {setting}: write it as field=value")
    try:
        return resolve_field(name.strip()), yaml.safe_load(text)
    except (yaml.YAMLError, ValueError) as error:  # ValueError: 2001-99-99 is no date
        if isinstance(error, UsageError):
            raise
        raise UsageError(
            f"--set {setting}: the value is not readable; write it as in YAML"
        ) from error


def resolve_field(name: str) -> str:
    """Return the full name of a field given in full or by its last part."""
    known = list(field_names(Recipe))
    if name in known:
        return name
    inner = [full for full in known if full.startswith(f"{name}.")]
    if inner:
        raise UsageError(f"'{name}' holds fields; set one of {', '.join(inner)}")
    by_last_part = [full for full in known if full.rpartition(".")[2] == name]
    if len(by_last_part) == 1:
        return by_last_part[0]
    if by_last_part:
        raise UsageError(f"'{name}' could be {' or '.join(by_last_part)}; write it in full")
    raise UsageError(f"unknown field '{name}'; {_hint(name, known)}")


def field_names(recipe_type: type, prefix: str = "") -> Iterator[str]:
    """Yield the full names of all fields, nested ones with dots."""
    hints = get_type_hints(recipe_type)
    for field in fields(recipe_type):
        if is_dataclass(hints[field.name]):
            yield from field_names(hints[field.name], f"{prefix}{field.name}.")
        else:
            yield prefix + field.name


def check_value(name: str, value: Any) -> Any:
    """Return the value as the field of this full name has it.

    Raises:
        UsageError: It is of another type.
    """
    kind: Any = Recipe
    for part in name.split("."):
        kind = get_type_hints(kind)[part]
    return _checked(value, kind, name)


def recipe_to_dict(recipe: Recipe) -> dict[str, Any]:
    """Return the recipe as plain values, tuples as lists: what YAML and JSON can hold."""
    return {name: _plain(value) for name, value in dataclasses.asdict(recipe).items()}


def recipe_from_dict(values: dict[str, Any]) -> Recipe:
    """Return the recipe of plain values, every field checked.

    Raises:
        UsageError: A field is unknown or has the wrong type, or fields do not go together.
    """
    built: Recipe = _build(Recipe, values, "")
    return built


def flat_fields(recipe: Recipe) -> dict[str, Any]:
    """Return each field's value by its full name, tuples as lists."""
    return dict(_flat(recipe_to_dict(recipe)))


def recipe_difference(old: Recipe, new: Recipe) -> str:
    """Return what differs as "field old -> new, ..." on one line, empty when nothing does."""
    before, after = flat_fields(old), flat_fields(new)
    return ", ".join(
        f"{name} {before[name]} -> {after[name]}" for name in before if before[name] != after[name]
    )


def recipe_yaml(recipe: Recipe) -> str:
    """Return the recipe as YAML, a field a line or more."""
    return yaml.safe_dump(recipe_to_dict(recipe), sort_keys=False)


def field_yaml(name: str, value: Any) -> str:
    """Return "name: value" as YAML has it, a list on the same line."""
    flow = None if isinstance(value, list) else False  # None: what holds no further list or fields
    text = yaml.safe_dump({name: value}, default_flow_style=flow, width=float("inf"))
    return text.rstrip("\n")


def write_recipe(path: Path, recipe: Recipe) -> None:
    """Write the recipe as YAML, whole or not at all."""
    aside = path.with_name(f".{path.name}.tmp")
    write_own(aside, recipe_yaml(recipe))
    os.replace(aside, path)


def read_recipe(path: Path) -> Recipe:
    """Return the recipe of a YAML file that `write_recipe` wrote.

    Raises:
        CheckpointError: The file is missing or not a recipe.
    """
    try:
        root = read_yaml(path)
        values = yaml.constructor.SafeConstructor().construct_document(root) if root else None
        if not isinstance(values, dict):
            raise CheckpointError(f"{path} is not a recipe")
        return recipe_from_dict(values)
    except (OSError, RecursionError, ValueError, yaml.YAMLError) as error:
        raise CheckpointError(f"{path} is not a readable recipe: {error}") from error


def _hint(name: str, known: list[str]) -> str:
    if name.lower() in OTHER_NAMES:
        return f"did you mean '{OTHER_NAMES[name.lower()]}'?"
    last_parts = {full.rpartition(".")[2]: full for full in known}
    near = difflib.get_close_matches(name.rpartition(".")[2], last_parts, n=1, cutoff=0.5)
    if near:
        return f"did you mean '{last_parts[near[0]]}'?"
    return f"the fields are {', '.join(known)}"


def _assign(values: dict[str, Any], path: str, value: Any) -> None:
    *parents, last = path.split(".")
    for parent in parents:
        values = values[parent]
    values[last] = value


def _plain(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _plain(item) for key, item in value.items()}
    return [_plain(item) for item in value] if isinstance(value, tuple) else value


def _flat(values: dict[str, Any], prefix: str = "") -> Iterator[tuple[str, Any]]:
    for name, value in values.items():
        if isinstance(value, dict):
            yield from _flat(value, f"{prefix}{name}.")
        else:
            yield prefix + name, value


def _build(kind: type, values: dict[str, Any], prefix: str) -> Any:
    hints = get_type_hints(kind)
    unknown = [name for name in values if name not in hints]
    if unknown:
        raise UsageError(f"unknown field '{prefix}{unknown[0]}'; {_hint(unknown[0], list(hints))}")
    built = {}
    for name, value in values.items():
        if is_dataclass(hints[name]):
            if not isinstance(value, dict):
                raise UsageError(f"{prefix}{name} must hold fields, got {_shown(value)}")
            built[name] = _build(hints[name], value, f"{prefix}{name}.")
        else:
            built[name] = _checked(value, hints[name], prefix + name)
    missing = [f.name for f in fields(kind) if f.name not in built and f.name in ("name", "source")]
    if missing and kind is Recipe:
        raise UsageError(f"the recipe has no field '{missing[0]}'")
    return kind(**built)


def _checked(value: Any, hint: Any, name: str) -> Any:
    """Return the value as the field's type has it, or refuse it by name."""
    if get_origin(hint) is tuple:
        return _checked_tuple(value, get_args(hint), name)
    if get_origin(hint) is Literal:
        if value not in get_args(hint) or isinstance(value, bool):
            choices = ", ".join(get_args(hint))
            near = difflib.get_close_matches(str(value), get_args(hint), n=1)
            meant = f"; did you mean '{near[0]}'?" if near else ""
            raise UsageError(f"{name} must be one of {choices}, got {_shown(value)}{meant}")
        return value
    if hint is float and isinstance(value, str):
        value = _float_of(value)  # YAML reads 1e-3 as text
    if hint is float and isinstance(value, int | float) and not isinstance(value, bool):
        return _finite(value, name)
    if not isinstance(value, hint) or (isinstance(value, bool) and hint is not bool):
        words = {int: "a whole number", float: "a number", bool: "true or false", str: "text"}
        raise UsageError(f"{name} must be {words.get(hint, hint)}, got {_shown(value)}")
    return value


def _shown(value: Any) -> str:
    text = repr(value)
    return text if len(text) <= 80 else f"{text[:77]}..."


def _float_of(text: str) -> float | str:
    try:
        return float(text)
    except ValueError:
        return text


def _finite(value: float, name: str) -> float:
    try:
        number = float(value)
    except OverflowError:
        number = math.inf
    if not math.isfinite(number):
        raise UsageError(f"{name} must be a finite number, got {number}")
    return number


def _checked_tuple(value: Any, item_hints: tuple[Any, ...], name: str) -> tuple[Any, ...]:
    if not isinstance(value, list | tuple):
        raise UsageError(f"{name} must be a list such as [1, 2], got {_shown(value)}")
    if len(item_hints) == 2 and item_hints[1] is Ellipsis:
        item_hints = (item_hints[0],) * len(value)
    if len(value) != len(item_hints):
        raise UsageError(f"{name} must have {len(item_hints)} values, got {len(value)}")
    return tuple(_checked(item, hint, name) for item, hint in zip(value, item_hints, strict=True))
