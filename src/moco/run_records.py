"""Records of a run: files of one JSON object a line, of which a kill may cut the last."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from moco.plain_files import open_regular, through_no_link, write_own

MOST_LINE_BYTES = 1 << 24
"""A longer line is none of ours; its parts are no rows."""


def append_lines(path: Path, rows: list[dict[str, Any]]) -> None:
    """Add a line for each row; raises OSError."""
    with open(path, "a", encoding="utf-8", opener=through_no_link) as file:
        file.writelines(json.dumps(row) + "\n" for row in rows)


def replace_lines(path: Path, rows: list[dict[str, Any]]) -> None:
    """Put rows in the place of all that are there, whole or not at all; raises OSError."""
    aside = path.with_name(f".{path.name}.tmp")
    write_own(aside, "".join(json.dumps(row) + "\n" for row in rows))
    os.replace(aside, path)


def taken_steps(rows: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Return the rows of metrics.jsonl but those of steps that were left out."""
    return [row for row in rows if row["loss"] is not None]


def read_lines(path: Path) -> list[dict[str, Any]]:
    """Return the rows of a .jsonl file, none without one; a line that a kill cut is left out."""
    return list(each_line(path))


def each_line(path: Path) -> Iterator[dict[str, Any]]:
    """Yield the same rows one by one: a run of days has a million."""
    if not path.exists():
        return
    with open_regular(path) as file:
        while line := file.readline(MOST_LINE_BYTES):
            try:
                row = json.loads(line.decode("utf-8", "replace"))
            except (ValueError, RecursionError):
                continue
            if isinstance(row, dict):
                yield row
