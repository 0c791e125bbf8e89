"""Files of features that stand for far more than they hold: little memory, one line."""

from __future__ import annotations

import io
import math
import struct
import zipfile
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
from forked import in_fork

from moco.errors import DataError
from moco.evaluation.feature_files import read_features, write_features
from moco.evaluation.feature_set import FeatureSet

ROWS = np.arange(12, dtype=np.float32).reshape(4, 3)


def promised(shape: tuple[int, ...]) -> bytes:
    """Return an archive whose directory, too, says that labels are of a shape."""
    header, buffer = io.BytesIO(), io.BytesIO()
    about = {"descr": "<i8", "fortran_order": False, "shape": shape}
    np.lib.format.write_array_header_2_0(header, about)
    with zipfile.ZipFile(buffer, "w") as archive:
        with archive.open("features.npy", "w") as member:
            np.lib.format.write_array(member, ROWS)
        info = zipfile.ZipInfo("labels.npy")
        archive.writestr(info, header.getvalue())
        info.file_size = info.compress_size = len(header.getvalue()) + 8 * math.prod(shape)
    return buffer.getvalue()


def table_that_repeats(**columns: Any) -> bytes:
    buffer = io.BytesIO()
    pq.write_table(pa.table(columns), buffer, compression="zstd", dictionary_pagesize_limit=1 << 30)
    return buffer.getvalue()


def long_name(rows: int) -> pa.Array:
    places = pa.array(np.zeros(rows, np.int32))
    return pa.DictionaryArray.from_arrays(places, pa.array(["x" * 3_000_000]))


def wide_rows(rows: int, columns: int) -> pa.Array:
    return pa.FixedSizeListArray.from_arrays(np.zeros(rows * columns, np.float32), columns)


BOMBS: dict[str, tuple[str, Callable[[], bytes]]] = {
    "labels of forty gigabytes": (".npz", lambda: promised((5 << 30,))),
    "JSON of ten million lists": (
        ".safetensors",
        lambda: struct.pack("<Q", 30_000_010) + b'{"a":[' + b"[]," * 10_000_000 + b"[]]}",
    ),
    "a path for all": (
        ".parquet",
        lambda: table_that_repeats(features=[[1.0]] * 20_000, path=long_name(20_000)),
    ),
    "a label for all": (
        ".parquet",
        lambda: table_that_repeats(features=[[1.0]] * 20_000, label=long_name(20_000)),
    ),
    "wide rows": (".parquet", lambda: table_that_repeats(features=wide_rows(400, 50_000))),
    "one row": (".parquet", lambda: table_that_repeats(features=wide_rows(1, 20_000_000))),
}


@pytest.mark.parametrize("kind", BOMBS)
def test_a_file_takes_little_more_memory_than_it_is_large(kind: str, tmp_path: Path) -> None:
    suffix, content = BOMBS[kind]
    file = tmp_path / f"x{suffix}"
    file.write_bytes(content())

    def work() -> str:
        with pytest.raises(DataError) as caught:
            read_features(file)
        return str(caught.value)

    done = in_fork(work, seconds=20)
    assert "\n" not in done.value
    assert str(file) in done.value
    assert done.grown < file.stat().st_size + (64 << 20)


def test_long_names_do_not_take_the_room_of_the_longest_for_all(tmp_path: Path) -> None:
    rows = 10_000
    labels = pa.array(["x" * 100_000, *(str(row % 7) for row in range(rows - 1))])
    pq.write_table(
        pa.table({"features": wide_rows(rows, 3), "label": labels}), tmp_path / "a.parquet"
    )
    plain = FeatureSet(torch.ones(rows, 2), torch.empty(0, dtype=torch.long), ())
    named = replace(plain, paths=("x" * 3_000, *map(str, range(rows - 1))))

    def work() -> list[int]:
        found = read_features(tmp_path / "a.parquet")
        write_features(tmp_path / "b.npz", named)
        return found.labels[:3].tolist()

    done = in_fork(work)
    assert done.value == [7, 0, 1]
    assert done.grown < 100 << 20
    assert read_features(tmp_path / "b.npz").paths == named.paths
