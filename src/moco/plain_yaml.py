"""YAML files as values and nothing else; no torch here.

A file may hold anything: it is refused, never obeyed, and before much is built from it.
"""

from __future__ import annotations

import difflib
import os
import stat
from pathlib import Path

import yaml

from moco.errors import UsageError
from moco.plain_files import open_regular

MOST_BYTES = 1 << 16
"""A whole recipe with its comments takes about 7 kB."""
MOST_LEVELS = 8
ENDINGS = (".yaml", ".yml")


def read_yaml(path: Path) -> yaml.Node | None:
    """Return the tree of the file's one document, None where it is empty.

    Raises:
        UsageError: No such file, too large, not YAML, or with anchors, tags or deep nesting; with
            FILE:LINE and the remedy.
    """
    text = _read_text(path)
    try:
        _refuse_tricks(path, text)
        root: yaml.Node | None = yaml.compose(text, Loader=yaml.SafeLoader)
    except yaml.YAMLError as error:
        raise refusal(path, *_line_and_reason(error, text)) from error
    return root


def _read_text(path: Path) -> str:
    """Return the file's text; a pipe or a device is never opened, so that nothing hangs."""
    try:
        status = os.stat(path)
        if stat.S_ISDIR(status.st_mode):
            raise UsageError(f"{path}: this is a directory; name a recipe file such as mine.yaml")
        if not stat.S_ISREG(status.st_mode):
            raise UsageError(f"{path}: this is no ordinary file; copy it into one")
        with open_regular(path) as file:
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
        raise refusal(path, line, "this is not UTF-8 text; save it as UTF-8") from error


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
            raise refusal(path, line, "a second document begins here; keep one")
        if getattr(event, "anchor", None):
            raise refusal(path, line, "anchors and aliases (& and *) are not read; write it out")
        if getattr(event, "tag", None):
            raise refusal(path, line, "tags (!) are not read; write the value plainly")
        level += isinstance(event, yaml.CollectionStartEvent)
        level -= isinstance(event, yaml.CollectionEndEvent)
        if level > MOST_LEVELS:
            raise refusal(path, line, "lists or fields are nested too deeply; no field needs that")


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


def line_of(node: yaml.Node) -> int:
    """Return the line where something begins, the first is 1."""
    return int(node.start_mark.line) + 1


def refusal(path: Path, line: int, message: str) -> UsageError:
    """Return the error that points at a line."""
    return UsageError(f"{path}:{line}: {message}")
