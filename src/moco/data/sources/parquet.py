"""Images in Parquet files as data sets on the Hugging Face Hub have them."""

from __future__ import annotations

import json
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from moco.data.decoding import decode
from moco.data.images import Pixels, UnreadableImageError
from moco.data.sources.base import Source, joined_labels, one_line
from moco.data.sources.row_groups import (
    RowGroups,
    import_parquet,
    open_parquet_file,
    parquet_errors,
)
from moco.data.sources.tar_shards import shard_prefixes
from moco.errors import DataError

IMAGE_COLUMNS = ("image", "img")
LABEL_COLUMNS = ("label", "labels", "fine_label")
MOST_ROWS = 1 << 40
LABEL_TYPES = frozenset(
    {
        "string",
        "large_string",
        "bool",
        *("float", "double"),
        *(f"{sign}int{bits}" for sign in ("", "u") for bits in (8, 16, 32, 64)),
    }
)
LIST = re.compile(r"(?:large_)?list<\w+: (\w+)(?: not null)?>")
"""A column of several labels an image, and the type of each."""
BINARY = frozenset({"binary", "large_binary", "binary_view"})


class ParquetImages(Source):
    """The images of Parquet files, row by row: needs the extra `parquet`.

    Images are in the column `image` or `img`, or else in the only one of bytes: encoded images,
    or a struct of `bytes` and `path`. A path without bytes is never followed. Labels are in
    `label`, `labels` or `fine_label`.

    Args:
        paths: the files, in order.
        path: what they were named by.

    Raises:
        DataError: pyarrow is missing, or no file has such a column and rows.
    """

    def __init__(
        self, paths: Sequence[Path], *, path: str | Path | None = None, cache_bytes: int = 0
    ) -> None:
        super().__init__(cache_bytes=cache_bytes)
        import_parquet()
        self.path = Path(path if path is not None else paths[0])
        self.files: list[Path] = []
        self._prefixes: list[str] = []
        self._group_files: list[int] = []
        self._group_numbers: list[int] = []
        rows: list[int] = []
        columns: set[str] = set()
        prefixes = [paths[0].name] if len(paths) == 1 else shard_prefixes(paths)
        for file, prefix in zip(paths, prefixes, strict=True):
            found = self._open(file, prefix.rstrip("/"))
            if found is None:
                continue
            columns = columns or {found[0]}
            if found[0] in columns:
                rows += self._add_file(file, prefix.rstrip("/"), found[1])
            else:
                self._leave_out(prefix.rstrip("/"), f"its images are in {found[0]}")
        if not rows:
            raise DataError(f"no image in {self.path}; {': '.join(self.damaged[0])}")
        self._starts = np.cumsum([0, *rows])
        first_groups = np.searchsorted(self._group_files, np.arange(len(self.files)))
        self._first_images = self._starts[first_groups]
        self._groups = RowGroups(columns.pop())

    def _open(self, file: Path, name: str) -> tuple[str, list[int]] | None:
        """Return a file's column of images and the rows of its groups; None notes why not."""
        try:
            with open_parquet_file(file) as table:
                column = image_column(table.schema_arrow)
                metadata = table.metadata
            counts = [
                metadata.row_group(number).num_rows for number in range(metadata.num_row_groups)
            ]
            if any(not 0 <= count <= MOST_ROWS for count in counts):
                raise ValueError("its numbers of rows are damaged")
        except parquet_errors() as error:
            self._leave_out(name, one_line(error))
            return None
        if not sum(counts):
            self._leave_out(name, "it has no rows")
            return None
        return column, counts

    def _add_file(self, file: Path, name: str, counts: Sequence[int]) -> list[int]:
        """Note a file's row groups; return the rows of those that have any."""
        used = [group for group, count in enumerate(counts) if count]
        self._group_files += [len(self.files)] * len(used)
        self._group_numbers += used
        self.files.append(file)
        self._prefixes.append(name)
        return [counts[group] for group in used]

    def __len__(self) -> int:
        return int(self._starts[-1])

    def _place(self, image_id: int) -> tuple[int, int]:
        """Return the place of an image's row group in the list of all, and its row there."""
        place = int(np.searchsorted(self._starts, image_id, "right")) - 1
        return place, image_id - int(self._starts[place])

    def _name(self, image_id: int) -> str:
        place, _ = self._place(image_id)
        file = self._group_files[place]
        first = int(self._first_images[file])
        return f"{self._prefixes[file]} row {image_id - first}"

    def _read(self, image_id: int) -> Pixels:
        place, row = self._place(image_id)
        file = self.files[self._group_files[place]]
        value = self._groups.value(file, self._group_numbers[place], row)
        if value.is_valid and str(value.type).startswith("struct<"):
            value = value["bytes"]
        if not value.is_valid:
            raise UnreadableImageError("its row holds no bytes; paths in a table are not followed")
        return decode(value.as_buffer().to_pybytes())

    def labels(self) -> list[str] | None:
        """Return the label of each image, by name where the file has names; "" where it has none.

        None where the files have no such column.
        """
        labels: list[str] = []
        for file in self.files:
            try:
                with open_parquet_file(file) as table:
                    found = _labels_of(table)
            except parquet_errors() as error:
                raise DataError(f"labels in {file} cannot be read: {one_line(error)}") from error
            if found is None:
                return None
            labels += found
        return labels

    def shard_sizes(self) -> NDArray[np.int64]:
        """Return the rows of each row group."""
        return np.diff(self._starts)


def image_column(schema: Any) -> str:
    """Return the column that holds encoded images, as pyarrow selects it.

    Raises:
        ValueError: There is none.
    """
    usable = {field.name: leaf for field in schema if (leaf := _leaf(field)) is not None}
    for name in IMAGE_COLUMNS:
        if name in usable:
            return usable[name]
        if name in schema.names:
            kind = schema.field(name).type
            raise ValueError(f"column {name} is {kind}, not encoded images (bytes)")
    if len(usable) == 1:
        return next(iter(usable.values()))
    known = ", ".join(usable or schema.names)
    raise ValueError(f"which column holds the images? Call it image; found {known:.200}")


def _leaf(field: Any) -> str | None:
    """Return how the bytes of a column are selected; None for a column of anything else."""
    if str(field.type) in BINARY:
        return str(field.name)
    if str(field.type).startswith("struct<"):
        for number in range(field.type.num_fields):
            part = field.type.field(number)
            if part.name == "bytes" and str(part.type) in BINARY:
                return f"{field.name}.bytes"
    return None


def _labels_of(table: Any) -> list[str] | None:
    schema = table.schema_arrow
    name = next((name for name in LABEL_COLUMNS if name in schema.names), None)
    if name is None:
        return None
    kind = str(schema.field(name).type)
    several = LIST.fullmatch(kind)
    if (several[1] if several else kind) not in LABEL_TYPES:
        return None
    known = dict(enumerate(class_names_in(schema.metadata, name)))
    labels: list[str] = []
    for batch in table.iter_batches(columns=[name], use_threads=False):
        for value in batch.column(0).to_pylist():
            if several:
                labels.append(joined_labels(known.get(part, part) for part in value or ()))
            else:
                labels.append("" if value is None else known.get(value, str(value)))
    return labels


def class_names_in(metadata: dict[bytes, bytes] | None, column: str) -> list[str]:
    """Return the class names that a Hugging Face data set wrote into a file; [] without."""
    try:
        found = json.loads((metadata or {}).get(b"huggingface", b"{}"))
        feature = found["info"]["features"][column]
        names = feature.get("feature", feature)["names"]  # of a list, those of its parts
    except (ValueError, AttributeError, KeyError, TypeError, RecursionError):
        return []
    return [str(name) for name in names] if isinstance(names, list) else []
