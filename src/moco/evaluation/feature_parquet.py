"""Features as a Parquet file: a row an image, for pandas, Polars, DuckDB and others.

Columns: path, features (a list of D numbers), and label: the class's name, a list of names, or a
number. The file's metadata hold the classes and the encoder. Needs the extra `parquet`.
"""

from __future__ import annotations

import importlib
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from moco.data.sources.base import one_line
from moco.data.sources.row_groups import import_parquet, open_parquet_file, parquet_errors
from moco.errors import DataError
from moco.evaluation.stored_features import StoredFeatures

KEY = b"moco"
ROWS_AT_ONCE = 4096
READ_ERRORS = (TypeError, AttributeError, RecursionError)
MOST_RATIO = 64
"""Of numbers to the file's bytes; ours are written as they are."""


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
    rows: list[NDArray[Any]] = []
    paths: list[str] = []
    labels: list[Any] = []
    taken = 0
    for batch in table.iter_batches(batch_size=ROWS_AT_ONCE, columns=names, use_threads=False):
        rows.append(_rows(batch.column("features")))
        taken += rows[-1].nbytes
        if taken > MOST_RATIO * size:
            raise ValueError("it holds far more numbers than bytes")
        if "path" in names:
            paths += [str(name) for name in batch.column("path").to_pylist()]
        if "label" in names:
            labels += batch.column("label").to_pylist()
    if not rows:
        raise ValueError("it has no rows")
    found = _codes(labels, classes) if "label" in names else None
    return StoredFeatures(
        np.concatenate(rows), found, paths, classes, str(about.get("encoder", ""))
    )


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
    if labels and all(isinstance(label, list) for label in labels):
        places = {_text(name): number for number, name in enumerate(classes)}
        found = np.zeros((len(labels), len(classes)), bool)
        for row, names in enumerate(labels):
            found[row, [places[name] for name in names]] = True
        return found
    if classes and all(isinstance(label, str) for label in labels):
        places = {_text(name): number for number, name in enumerate(classes)}
        return np.array([places[label] for label in labels], np.int64)
    return np.array(labels)


def _text(name: str) -> str:
    """Return a name that UTF-8 can hold."""
    return name.encode("utf-8", "backslashreplace").decode()
