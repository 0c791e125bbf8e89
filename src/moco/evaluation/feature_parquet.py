"""Features as a Parquet file: a row an image, for pandas, Polars, DuckDB and others.

Columns: path, features (a list of D numbers), and label: the class's name, a list of names, or a
number. The file's metadata hold the classes and the encoder. Needs the extra `parquet`.
"""

from __future__ import annotations

import importlib
import json
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from moco.data.sources.base import one_line
from moco.data.sources.row_groups import import_parquet, open_parquet_file, parquet_errors
from moco.errors import DataError
from moco.evaluation.stored_features import CHUNK_BYTES, StoredFeatures

KEY = b"moco"
ROWS_AT_ONCE = 4096
NAMES_AT_ONCE = 16  # a file holds a long name once, however many rows have it
READ_ERRORS = (TypeError, AttributeError, RecursionError)
MOST_RATIO = 16
"""Of what is read to the file's bytes; ours are written as they are."""
EASILY_READ = 64 << 20
EASILY_NAMED = 8 << 20
"""Bytes of features, and of names, that a file of any size may stand for."""
FAR_MORE = "it stands for far more than it holds"


def write_parquet(path: Path, stored: StoredFeatures) -> None:
    """Write the file.

    Raises:
        OSError: It cannot be written.
        DataError: pyarrow is not installed.
    """
    parquet = import_parquet()
    pa: Any = importlib.import_module("pyarrow")
    about = {"classes": list(stored.classes), "encoder": stored.encoder}
    width = stored.features.shape[1]
    value = pa.float32() if stored.features.dtype == np.float32 else pa.float16()
    fields = [("path", pa.string())] if stored.paths else []
    fields.append(("features", pa.list_(value, width)))
    if (label := _label_type(pa, stored.labels)) is not None:
        fields.append(("label", label))
    schema = pa.schema(fields, metadata={KEY: json.dumps(about).encode()})
    options = {"compression": "NONE", "use_dictionary": False, "write_statistics": False}
    with parquet.ParquetWriter(path, schema, **options) as writer:
        for first in range(0, len(stored.features), ROWS_AT_ONCE):
            part = slice(first, first + ROWS_AT_ONCE)
            flat = np.ascontiguousarray(stored.features[part]).ravel()
            columns = [pa.FixedSizeListArray.from_arrays(pa.array(flat, value), width)]
            if stored.paths:
                columns.insert(0, pa.array([_text(name) for name in stored.paths[part]]))
            if label is not None:
                columns.append(pa.array(_shown(stored, part), label))
            writer.write_table(pa.Table.from_arrays(columns, schema=schema))


def has_features(path: Path) -> bool:
    """Return whether a file is Parquet with a column of that name."""
    try:
        with open_parquet_file(path) as table:
            return "features" in table.schema_arrow.names
    except DataError:
        return False
    except Exception as error:
        if isinstance(error, parquet_errors()):
            return False
        raise


def read_parquet(path: Path) -> StoredFeatures:
    """Return what the file holds, in memory.

    Raises:
        DataError: It is damaged, its columns cannot be used, or pyarrow is not installed.
    """
    import_parquet()
    try:
        with open_parquet_file(path) as table:
            return _read(table, path.stat().st_size)
    except READ_ERRORS + parquet_errors() as error:
        raise DataError(
            f"{path} holds no features that can be read ({one_line(error)}); embed the images again"
        ) from error


def _read(table: Any, size: int) -> StoredFeatures:
    schema = table.schema_arrow
    metadata = (schema.metadata or {}).get(KEY, b"{}")
    about = json.loads(metadata)
    classes = [str(name) for name in about.get("classes", [])]
    names = [name for name in ("path", "features", "label") if name in schema.names]
    rows = _all_rows(table, size)
    paths = _values(table, "path", size) if "path" in names else []
    if any(path is None for path in paths):
        raise ValueError("some rows have no path")
    labels = _values(table, "label", size) if "label" in names else []
    if not classes and labels and all(isinstance(label, str) for label in labels):
        classes = sorted(set(labels))
    found = _codes(labels, classes) if "label" in names else None
    return StoredFeatures(
        rows, found, [str(path) for path in paths], classes, str(about.get("encoder", ""))
    )


def _all_rows(table: Any, size: int) -> NDArray[Any]:
    """Return the features in memory that is taken once, after the file's own figures allow it."""
    count = table.metadata.num_rows
    numbers = sum(column.num_values for column in _columns(table, "features"))
    if not count:
        raise ValueError("it has no rows")
    most = max(EASILY_READ, MOST_RATIO * size)
    if numbers * np.dtype(np.float32).itemsize > most:
        raise ValueError(FAR_MORE)
    found, first = np.empty((0, 0)), 0
    together = max(1, min(ROWS_AT_ONCE, CHUNK_BYTES // 4 * count // max(1, numbers)))
    for batch in table.iter_batches(batch_size=together, columns=["features"], use_threads=False):
        rows = _rows(batch.column("features"))
        if count * rows.shape[1] * rows.itemsize > 2 * most:  # they may be of eight bytes
            raise ValueError(FAR_MORE)
        if not first:
            found = np.empty((count, rows.shape[1]), rows.dtype)
        found[first : first + len(rows)] = rows
        first += len(rows)
    if first != count:
        raise ValueError(f"it promises {count} rows and holds {first}")
    return found


def _values(table: Any, name: str, size: int) -> list[Any]:
    """Return a column of names or labels."""
    most = max(EASILY_NAMED, MOST_RATIO * size)
    sizes = [column.total_uncompressed_size for column in _columns(table, name)]
    if sum(sizes) > most:
        raise ValueError(FAR_MORE)
    together = max(1, min(NAMES_AT_ONCE, most // max(1, *sizes)))
    values: list[Any] = []
    taken = 0
    for batch in table.iter_batches(batch_size=together, columns=[name], use_threads=False):
        taken += batch.nbytes
        if taken > most:
            raise ValueError(FAR_MORE)
        values += batch.column(name).to_pylist()
    return values


def _columns(table: Any, name: str) -> Iterator[Any]:
    """Yield what the file says of a column, or of what its lists hold, in each row group."""
    for number in range(table.metadata.num_row_groups):
        group = table.metadata.row_group(number)
        for place in range(group.num_columns):
            column = group.column(place)
            if column.path_in_schema.partition(".")[0] == name:
                yield column


def _rows(column: Any) -> NDArray[Any]:
    lists = column.flatten()
    if column.null_count or lists.null_count or not len(column) or len(lists) % len(column):
        raise ValueError("features are no lists of equal lengths")
    values: NDArray[Any] = lists.to_numpy(zero_copy_only=False).reshape(len(column), -1)
    if hasattr(column.type, "list_size") and column.type.list_size == values.shape[1]:
        return values
    if set(column.value_lengths().to_pylist()) != {values.shape[1]}:
        raise ValueError("features are no lists of equal lengths")
    return values


def _label_type(pa: Any, labels: NDArray[Any] | None) -> Any:
    if labels is None:
        return None
    if labels.ndim == 2:
        return pa.list_(pa.string())
    return pa.float64() if labels.dtype.kind == "f" else pa.string()


def _shown(stored: StoredFeatures, part: slice) -> Sequence[Any]:
    """Return labels as people read them: names, lists of names, or numbers."""
    labels, classes = stored.labels, [_text(name) for name in stored.classes]
    if labels is None or labels.dtype.kind == "f":
        return [] if labels is None else labels[part].tolist()
    if labels.ndim == 2:
        return [[classes[at] for at in row.nonzero()[0]] for row in labels[part]]
    return [classes[code] for code in labels[part]]


def _codes(labels: list[Any], classes: list[str]) -> NDArray[Any]:
    """Return labels as arrays; of names, their places among the classes where those are known."""
    if any(label is None for label in labels):
        raise ValueError("some rows have no label")
    places = {_text(name): number for number, name in enumerate(classes)}
    if labels and all(isinstance(label, list) for label in labels):
        found = np.zeros((len(labels), len(classes)), bool)
        for row, names in enumerate(labels):
            found[row, [places[name] for name in names]] = True
        return found
    if classes and all(isinstance(label, str) for label in labels):
        return np.array([places[label] for label in labels], np.int64)
    return np.array(labels)


def _text(name: str) -> str:
    """Return a name that UTF-8 can hold."""
    return name.encode("utf-8", "backslashreplace").decode()
