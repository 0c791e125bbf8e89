"""Columns of Parquet files, read row group by row group in any process."""

from __future__ import annotations

import importlib
import os
from pathlib import Path
from typing import Any

from moco.data.images import UnreadableImageError
from moco.data.sources.base import one_line
from moco.errors import DataError

KEPT_BYTES = 64 << 20
MOST_GROUP_BYTES = 1 << 30
MOST_OPEN = 8
ROWS_AT_ONCE = 16  # a few bytes in a file may stand for very many in memory


def import_parquet() -> Any:
    """Return pyarrow's Parquet module; raises DataError where it is not installed."""
    try:
        return importlib.import_module("pyarrow.parquet")
    except ImportError as error:
        raise DataError(
            'reading .parquet files needs pyarrow: pip install "moco-torch[parquet]"'
        ) from error


def parquet_errors() -> tuple[type[Exception], ...]:
    """Return what pyarrow raises for files that are damaged, or made to do harm."""
    failure: type[Exception] = importlib.import_module("pyarrow").ArrowException
    return (failure, OSError, ValueError, KeyError, MemoryError)


def open_parquet_file(path: Path) -> Any:
    """Return a Parquet file; without threads, which a forked process would wait for in vain."""
    return import_parquet().ParquetFile(path, pre_buffer=False)


class RowGroups:
    """Decoded row groups of one column; the last ones are kept.

    Nothing that is open passes to another process.
    """

    def __init__(self, column: str) -> None:
        self.column = column
        self._begin()

    def _begin(self) -> None:
        self._process = os.getpid()
        self._open: dict[Path, Any] = {}
        self._kept: dict[tuple[Path, int], list[Any]] = {}

    def value(self, path: Path, group: int, row: int) -> Any:
        """Return one value of a row group as pyarrow's scalar.

        Raises:
            UnreadableImageError: The file is damaged, or the row group too large.
        """
        if self._process != os.getpid():
            self._begin()
        try:
            for part in self._parts(path, group):
                if row < len(part):
                    return part[row]
                row -= len(part)
        except parquet_errors() as error:
            self._open.pop(path, None)
            raise UnreadableImageError(f"{path.name}: {one_line(error)}") from error
        raise UnreadableImageError(f"{path.name} has fewer rows than it promises")

    def _parts(self, path: Path, group: int) -> list[Any]:
        parts = self._kept.pop((path, group), None)
        if parts is None:
            parts = self._decode(path, group)
        self._kept[path, group] = parts  # the last one used is the last to go
        while len(self._kept) > 1 and _size_of(self._kept) > KEPT_BYTES:
            del self._kept[next(iter(self._kept))]
        return parts

    def _decode(self, path: Path, group: int) -> list[Any]:
        file = self._open.pop(path, None) or open_parquet_file(path)
        self._open[path] = file
        while len(self._open) > MOST_OPEN:
            del self._open[next(iter(self._open))]
        parts, size = [], 0
        for batch in file.iter_batches(
            batch_size=ROWS_AT_ONCE, row_groups=[group], columns=[self.column], use_threads=False
        ):
            parts.append(batch.column(0))
            size += batch.nbytes
            if size > MOST_GROUP_BYTES:
                raise UnreadableImageError(
                    f"a row group of {path.name} takes over {MOST_GROUP_BYTES >> 30} GiB; write it "
                    "again with a smaller row_group_size"
                )
        return parts

    def __getstate__(self) -> dict[str, Any]:
        return {"column": self.column, "_process": -1, "_open": {}, "_kept": {}}


def _size_of(kept: dict[tuple[Path, int], list[Any]]) -> int:
    return sum(part.nbytes for parts in kept.values() for part in parts)
