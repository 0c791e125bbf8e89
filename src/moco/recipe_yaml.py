"""Recipe files as people write them: strict YAML, and the line of whatever is wrong; no torch here.

A file is read before anything else is done, so it may hold anything: it is refused, never obeyed.
"""

from __future__ import annotations

import re
from collections.abc import Collection
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NoReturn

import yaml

from moco.errors import UsageError
from moco.plain_yaml import line_of, read_yaml, refusal
from moco.recipe import Recipe
from moco.recipe_files import check_value, field_names, resolve_field

ODD = re.compile(r"[-+]?0[0-9_]+|[-+]?[0-9]+(:[0-9]+)+")
"""Numbers that YAML 1.1 reads as 256 for 0400, and as 90 for 1:30."""


@dataclass(frozen=True)
class RecipeFile:
    """What a recipe file says, each value checked for its type."""

    path: Path
    base: str | None = None
    """The recipe that the fields change."""
    fields: dict[str, Any] = field(default_factory=dict)
    """Values by full field name."""
    lines: dict[str, int] = field(default_factory=dict)
    """Where each was read, `base` and sections such as `optimizer` too."""

    def refusal(self, message: str, name: str = "") -> UsageError:
        """Return the error that points at the line of a field, or at the file's first."""
        return refusal(self.path, self.lines.get(name, 1), message)

    def blame(self, error: UsageError, others: Collection[str] = ()) -> UsageError:
        """Return the error with the line of the field it names, as it is where none is ours.

        Args:
            others: fields that were set elsewhere, so that the file's value does not count.
        """
        ours = [name for name in self.fields if name not in others]
        for word in re.findall(r"[a-z0-9_.]+", str(error)):
            if word.rstrip(".") in ours:
                return self.refusal(str(error), word.rstrip("."))
        return self.refusal(str(error), ours[0]) if ours and not others else error


def read_recipe_file(path: Path) -> RecipeFile:
    """Return what the file says; its fields are not yet checked against each other.

    Raises:
        UsageError: No such file, not YAML, an unknown or repeated field, or a wrong type; with
            FILE:LINE and the remedy.
    """
    root = read_yaml(path)
    if root is None:
        raise refusal(path, 1, "the file is empty; begin it with a line such as 'base: moco-v2'")
    if not isinstance(root, yaml.MappingNode):
        raise refusal(
            path,
            line_of(root),
            "a recipe file holds fields; write lines such as 'temperature: 0.1'",
        )
    reader = _Reader(path)
    reader.read_fields(root, "")
    return RecipeFile(path, reader.base, reader.fields, reader.lines)


class _Reader:
    """Takes a mapping's fields, each once."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.base: str | None = None
        self.fields: dict[str, Any] = {}
        self.lines: dict[str, int] = {}
        self.sections = {name.partition(".")[0] for name in field_names(Recipe) if "." in name}

    def read_fields(self, mapping: yaml.MappingNode, prefix: str) -> None:
        for key, value in mapping.value:
            if not isinstance(key, yaml.ScalarNode):
                self.refuse(key, "a field's name must be one word")
            name = prefix + (key.value if len(key.value) <= 80 else f"{key.value[:77]}...")
            if name == "base":
                self.read_base(key, value)
            elif name in self.sections:
                self.read_section(name, key, value)
            else:
                self.read_field(name, key, value)

    def read_base(self, key: yaml.Node, value: yaml.Node) -> None:
        self.note("base", key)
        base = self.value_of("base", value)
        if not isinstance(base, str):
            self.refuse(key, f"base must be a recipe's name, got {base!r}")
        self.base = base

    def read_section(self, name: str, key: yaml.Node, value: yaml.Node) -> None:
        self.note(name, key)
        if not isinstance(value, yaml.MappingNode):
            self.refuse(key, f"'{name}' holds fields; write them below it, indented")
        self.read_fields(value, f"{name}.")

    def read_field(self, name: str, key: yaml.Node, value: yaml.Node) -> None:
        try:
            full = resolve_field(name)
            self.note(full, key)
            self.fields[full] = check_value(full, self.value_of(full, value))
        except UsageError as error:
            if str(error).startswith(f"{self.path}:"):
                raise
            raise refusal(self.path, line_of(key), str(error)) from error

    def note(self, name: str, key: yaml.Node) -> None:
        if name in self.lines:
            self.refuse(
                key, f"'{name}' is given twice, first in line {self.lines[name]}; keep one of them"
            )
        self.lines[name] = line_of(key)

    def value_of(self, name: str, node: yaml.Node) -> Any:
        if isinstance(node, yaml.MappingNode):
            self.refuse(
                node, f"'{name}' takes a value and holds no fields; look at the indentation"
            )
        if isinstance(node, yaml.ScalarNode) and node.style is None and ODD.fullmatch(node.value):
            self.refuse(
                node,
                f"YAML reads {node.value} as another number (octal, or minutes); write it plainly",
            )
        try:
            return yaml.constructor.SafeConstructor().construct_object(node, deep=True)
        except (yaml.YAMLError, ValueError) as error:  # ValueError: 2001-99-99 is no date
            raise refusal(
                self.path, line_of(node), f"the value of '{name}' is not readable; write it plainly"
            ) from error

    def refuse(self, node: yaml.Node, message: str) -> NoReturn:
        raise refusal(self.path, line_of(node), message)
