"""Recipe files as people write them: strict YAML, and the line of whatever is wrong; no torch here.

A file is read before anything else is done, so it may hold anything: it is refused, never obeyed.
"""

from __future__ import annotations

import difflib
import os
import re
import stat
from collections.abc import Collection
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NoReturn

import yaml

from moco.errors import UsageError
from moco.recipe import Recipe
from moco.recipe_files import check_value, field_names, resolve_field

MOST_BYTES = 1 << 16
"""A whole recipe with its comments takes about 7 kB."""
MOST_LEVELS = 8
ODD = re.compile(r"[-+]?0[0-9_]+|[-+]?[0-9]+(:[0-9]+)+")
"""Numbers that YAML 1.1 reads as 256 for 0400, and as 90 for 1:30."""
ENDINGS = (".yaml", ".yml")


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
        return _refusal(self.path, self.lines.get(name, 1), message)

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
    text = _read_text(path)
    try:
        _refuse_tricks(path, text)
        root = yaml.compose(text, Loader=yaml.SafeLoader)
    except yaml.YAMLError as error:
        raise _refusal(path, *_line_and_reason(error, text)) from error
    if root is None:
        raise _refusal(path, 1, "the file is empty; begin it with a line such as 'base: moco-v2'")
    if not isinstance(root, yaml.MappingNode):
        raise _refusal(
            path, _line(root), "a recipe file holds fields; write lines such as 'temperature: 0.1'"
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
            raise _refusal(self.path, _line(key), str(error)) from error

    def note(self, name: str, key: yaml.Node) -> None:
        if name in self.lines:
            self.refuse(
                key, f"'{name}' is given twice, first in line {self.lines[name]}; keep one of them"
            )
        self.lines[name] = _line(key)

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
            raise _refusal(
                self.path, _line(node), f"the value of '{name}' is not readable; write it plainly"
            ) from error

    def refuse(self, node: yaml.Node, message: str) -> NoReturn:
        raise _refusal(self.path, _line(node), message)


def _read_text(path: Path) -> str:
    """Return the file's text; a pipe or a device is never opened, so that nothing hangs."""
    try:
        status = os.stat(path)
        if stat.S_ISDIR(status.st_mode):
            raise UsageError(f"{path}: this is a directory; name a recipe file such as mine.yaml")
        if not stat.S_ISREG(status.st_mode):
            raise UsageError(f"{path}: this is no ordinary file; copy it into one")
        with open(path, "rb") as file:
            content = file.read(MOST_BYTES + 1)
    except (OSError, ValueError) as error:  # ValueError: a NUL in the name
        if isinstance(error, UsageError):
            raise
        reason = getattr(error, "strerror", None) or str(error)
        raise UsageError(f"{path}: {reason}; {_nearest_file(path)}") from error
    if len(content) > MOST_BYTES:
        raise UsageError(f"{path}: more than {MOST_BYTES >> 10} kB is no recipe; name another file")
    try:
        return content.decode("utf-8")
    except UnicodeDecodeError as error:
        line = content.count(b"\n", 0, error.start) + 1
        raise _refusal(path, line, "this is not UTF-8 text; save it as UTF-8") from error


def _nearest_file(path: Path) -> str:
    try:
        names = [name for name in os.listdir(path.parent) if name.endswith(ENDINGS)]
    except (OSError, ValueError):
        names = []
    near = difflib.get_close_matches(path.name, names, n=1)
    return f"did you mean {path.parent / near[0]}?" if near else "name a recipe file"


def _refuse_tricks(path: Path, text: str) -> None:
    """Refuse what can make a small file large or run code, before anything is built from it."""
    level, documents = 0, 0
    for event in yaml.parse(text, Loader=yaml.SafeLoader):
        line = event.start_mark.line + 1 if event.start_mark else 1
        if isinstance(event, yaml.DocumentStartEvent):
            documents += 1
        if documents > 1:
            raise _refusal(path, line, "a second document begins here; keep one")
        if getattr(event, "anchor", None):
            raise _refusal(path, line, "anchors and aliases (& and *) are not read; write it out")
        if getattr(event, "tag", None):
            raise _refusal(path, line, "tags (!) are not read; write the value plainly")
        level += isinstance(event, yaml.CollectionStartEvent)
        level -= isinstance(event, yaml.CollectionEndEvent)
        if level > MOST_LEVELS:
            raise _refusal(path, line, "lists or fields are nested too deeply; no field needs that")


def _line_and_reason(error: yaml.YAMLError, text: str) -> tuple[int, str]:
    if isinstance(error, yaml.reader.ReaderError):
        line = text.count("\n", 0, error.position) + 1
        return line, "a character that no text has; save the file as plain text"
    mark = getattr(error, "problem_mark", None)
    begun = getattr(error, "context_mark", None)
    problem = getattr(error, "problem", None) or str(error)
    is_unfinished = mark is not None and mark.index >= len(text.rstrip())
    if begun is not None and (is_unfinished or "could not find expected ':'" in problem):
        mark = begun  # what is noticed later is wrong where it began
    line = mark.line + 1 if mark is not None else 1
    if "'\\t'" in problem:
        return line, "a tab stands here; indent with spaces"
    return line, f"not readable as YAML ({problem}); mend this line"


def _line(node: yaml.Node) -> int:
    return int(node.start_mark.line) + 1


def _refusal(path: Path, line: int, message: str) -> UsageError:
    return UsageError(f"{path}:{line}: {message}")
