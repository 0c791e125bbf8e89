"""Images that a text file lists, with or without their labels."""

from __future__ import annotations

import csv
import itertools
import os
from array import array
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from moco.data.decoding import decode, read_bytes
from moco.data.images import Pixels, UnreadableImageError
from moco.data.sources.base import Source
from moco.data.sources.names import PackedNames, is_image
from moco.errors import DataError

LIST_SUFFIXES = frozenset({".txt", ".lst", ".csv", ".tsv"})
PATH_COLUMNS = ("path", "file", "filename", "image", "image_path", "filepath")
LABEL_COLUMNS = ("label", "class", "target", "category")
MOST_BYTES = 8 << 30
FIRST = 20
"""So many of the listed files are looked for before any is read."""


@dataclass(frozen=True)
class Columns:
    """Where a row has its path and its label, and whether the first row only names them."""

    path: int
    label: int | None
    named: bool


class ListedImages(Source):
    """The images that a list names, in its order; an image may be listed twice.

    A list is a text file (.txt, .lst) of one path a line, or a table (.csv, .tsv; tabs in a text
    file make it one too). A first row may name the columns: a path column, one of path, file,
    filename, image, image_path and filepath, else the first; and a label column, one of label,
    class, target and category, else the second. Without such a row the path is in the first column
    that looks like an image's name. `path label` with a blank between is understood as well. In
    text files lines that begin with # are left alone. Paths are relative to the list's own folder,
    or absolute.

    Raises:
        DataError: The list is missing, no text, or empty; or none of the first 20 files exists.
    """

    def __init__(self, path: str | Path, *, cache_bytes: int = 0) -> None:
        super().__init__(cache_bytes=cache_bytes)
        self.path = Path(path)
        self._classes: dict[str, int] = {}
        self._codes: np.ndarray[tuple[int], np.dtype[np.int32]] | None = None
        try:
            self._read_list()
        except csv.Error as error:
            raise DataError(f"list {self.path} is no table ({error}); see its quotes") from error
        except OSError as error:
            raise DataError(f"list {self.path} cannot be read ({error.strerror})") from error
        if not len(self):
            raise DataError(f"list {self.path} names no image; write one path a line")
        self._look_for_first()

    def _read_list(self) -> None:
        if self.path.stat().st_size > MOST_BYTES:
            raise DataError(f"list {self.path} is over {MOST_BYTES >> 30} GiB; split it into parts")
        with open(self.path, encoding="utf-8-sig", errors="surrogateescape", newline="") as file:
            first = "".join(itertools.islice(checked_lines(self.path, file), 100))
            file.seek(0)
            rows = rows_of(
                self.path, checked_lines(self.path, file), delimiter_of(self.path, first)
            )
            start = list(itertools.islice(rows, 2))
            columns = find_columns(start)
            rows = itertools.chain(start[columns.named :], rows)
            codes = array("i")
            self._names = PackedNames(self._paths(rows, columns, codes))
        if columns.label is not None:
            self._codes = np.array(codes, np.int32)

    def _paths(
        self, rows: Iterator[list[str]], columns: Columns, codes: array[int]
    ) -> Iterator[str]:
        for number, row in enumerate(rows, 1):
            path = row[columns.path].strip() if len(row) > columns.path else ""
            if not path:
                self._leave_out(f"{self.path.name} entry {number}", "it names no path")
                continue
            if columns.label is not None:
                label = row[columns.label].strip() if len(row) > columns.label else ""
                codes.append(self._classes.setdefault(label, len(self._classes)))
            yield path

    def _look_for_first(self) -> None:
        first = [self._names[number] for number in range(min(FIRST, len(self)))]
        if not any(os.path.lexists(self.path.parent / name) for name in first):
            raise DataError(
                f"none of the first {len(first)} images of {self.path} exists: {first[0]!r:.200} "
                f"was looked for in {self.path.parent.absolute()}; paths are relative to the "
                "list's own folder, or absolute"
            )

    def __len__(self) -> int:
        return len(self._names)

    def _name(self, image_id: int) -> str:
        return self._names[image_id]

    def _read(self, image_id: int) -> Pixels:
        name = self._names[image_id]
        path = self.path.parent / name
        if not os.path.lexists(path):
            raise UnreadableImageError("it is listed but does not exist")
        return decode(read_bytes(path), name)

    def labels(self) -> list[str] | None:
        """Return the listed label of each image, "" where its row has none."""
        if self._codes is None:
            return None
        classes = list(self._classes)
        return [classes[code] for code in self._codes]


def checked_lines(path: Path, lines: Iterator[str]) -> Iterator[str]:
    """Yield lines of text; raises DataError for what is no text that names files."""
    for number, line in enumerate(lines, 1):
        if "\0" in line:
            raise DataError(f"list {path} line {number} is not UTF-8 text; save the list as UTF-8")
        yield line


def delimiter_of(path: Path, text: str) -> str:
    """Return what stands between a list's columns."""
    if path.suffix.lower() != ".csv" or ("\t" in text and "," not in text):
        return "\t"
    return ";" if "," not in text else ","


def rows_of(path: Path, lines: Iterator[str], delimiter: str) -> Iterator[list[str]]:
    """Yield the rows of a list, without blank ones and comments."""
    is_text = path.suffix.lower() in (".txt", ".lst")
    if is_text:
        lines = (line for line in lines if not line.lstrip().startswith("#"))
    for row in csv.reader(lines, delimiter=delimiter):
        if any(cell.strip() for cell in row):
            yield split_at_blank(row) if is_text else row


def split_at_blank(row: list[str]) -> list[str]:
    """Return path and label where a text file has "path label"."""
    if len(row) > 1 or is_image(row[0].rstrip()):
        return row
    path, _, label = row[0].strip().rpartition(" ")
    return [path.rstrip(), label] if is_image(path.rstrip()) else row


def find_columns(rows: Sequence[list[str]]) -> Columns:
    """Return which columns a list has, by its first two rows."""
    if not rows:
        return Columns(0, None, named=False)
    first = [cell.strip().lower() for cell in rows[0]]
    path = next((first.index(name) for name in PATH_COLUMNS if name in first), None)
    label = next((first.index(name) for name in LABEL_COLUMNS if name in first), None)
    named = path is not None or (not _has_image(rows[0]) and _has_image(rows[-1]))
    if not named:
        path = next((place for place, cell in enumerate(first) if is_image(cell)), 0)
        label = None
    path = path or 0
    if label is None and len(first) > 1:
        label = 1 if path != 1 else 0
    return Columns(path, label, named=named)


def _has_image(row: Sequence[str]) -> bool:
    return any(is_image(cell.strip()) for cell in row)
