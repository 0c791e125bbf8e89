from __future__ import annotations

import os
import sys
import tracemalloc
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from any_damage import check_errors, open_with_labels, same_draws
from hypothesis import given
from hypothesis import strategies as st
from source_makers import png

from moco.data.images import UnreadableImageError
from moco.data.sources import row_groups
from moco.data.sources.opening import open_images
from moco.data.sources.parquet import ParquetImages, class_names_in
from moco.errors import DataError

STRUCT = pa.struct([("bytes", pa.binary()), ("path", pa.string())])


def write(path: Path, columns: dict[str, pa.Array], rows: int = 4) -> Path:
    pq.write_table(pa.table(columns), path, row_group_size=rows)
    return path


def structs(*values: bytes | None, path: str = "x.png") -> pa.Array:
    return pa.array([{"bytes": value, "path": path} for value in values], STRUCT)


def binary(*values: bytes | None) -> pa.Array:
    return pa.array(values, pa.binary())


def test_rows_without_bytes_are_bad_images_and_no_path_is_followed(tmp_path: Path) -> None:
    secret = tmp_path / "secret.png"
    secret.write_bytes(png())
    column = structs(png(), None, b"", b"no image", path=str(secret))
    images = open_images(write(tmp_path / "x.parquet", {"image": column}))
    assert images.read(0).shape == (8, 8, 3)
    for number in (1, 2, 3):
        with pytest.raises(UnreadableImageError):
            images.read(number)
    with pytest.raises(UnreadableImageError, match="are not followed"):
        images.read(1)
    whole = pa.array([None, {"bytes": png(), "path": None}], STRUCT)
    images = open_images(write(tmp_path / "y.parquet", {"image": whole}))
    with pytest.raises(UnreadableImageError, match="are not followed"):
        images.read(0)
    assert images.read(1).shape == (8, 8, 3)


REFUSED: dict[str, tuple[dict[str, pa.Array], str]] = {
    "paths": ({"image": pa.array(["a.png"])}, "column image is string, not encoded images"),
    "numbers": ({"image": pa.array([1])}, "column image is int64"),
    "lists": ({"image": pa.array([[b"a"]])}, "column image is list"),
    "only paths": (
        {"image": pa.array([{"path": "a.png"}])},
        "column image is struct<path: string>, not encoded",
    ),
    "text bytes": ({"image": pa.array([{"bytes": "a"}])}, "column image is struct"),
    "two columns": ({"a": binary(b"x"), "b": binary(b"x")}, "Call it image; found a, b"),
    "none": ({"text": pa.array(["a"])}, "Call it image; found text"),
    "no rows": ({"image": binary()}, "it has no rows"),
}


@pytest.mark.parametrize("kind", REFUSED)
def test_tables_without_images_are_refused(kind: str, tmp_path: Path) -> None:
    columns, reason = REFUSED[kind]
    with pytest.raises(DataError, match=reason) as caught:
        open_images(write(tmp_path / "x.parquet", columns))
    assert "\n" not in str(caught.value)


FOUND = {
    "image before others": {"img": binary(b"x"), "image": binary(png()), "mask": binary(b"x")},
    "img": {"mask": binary(b"x"), "img": structs(png())},
    "the only one": {"text": pa.array(["a"]), "photo": structs(png())},
    "large": {"photo": pa.array([png()], pa.large_binary())},
    "with a dot": {"a.bytes": binary(png())},
}


@pytest.mark.parametrize("kind", FOUND)
def test_the_column_of_images(kind: str, tmp_path: Path) -> None:
    images = open_images(write(tmp_path / "x.parquet", FOUND[kind]))
    assert images.read(0).shape == (8, 8, 3)


def test_rows_are_numbered_within_their_file(tmp_path: Path) -> None:
    for number, count in enumerate((7, 1, 9)):
        write(tmp_path / f"{number}.parquet", {"image": binary(*[png(number)] * count)}, rows=3)
    images = open_images(tmp_path)
    assert images.shard_sizes().tolist() == [3, 3, 1, 1, 3, 3, 3]
    expected = [f"{file}.parquet row {row}" for file, n in enumerate((7, 1, 9)) for row in range(n)]
    assert [images.name(number) for number in range(17)] == expected
    np.testing.assert_array_equal(images.read(8), images.read(16))


LABELS: dict[str, tuple[pa.Array, list[str] | None]] = {
    "numbers": (pa.array([3, None, -1]), ["3", "", "-1"]),
    "text": (pa.array(["a", "b", None]), ["a", "b", ""]),
    "lists": (pa.array([[1, 2], [], None]), ["1\x1f2\x1f", "", ""]),
    "lists of text": (pa.array([["a"], ["b"], ["a", "b"]]), ["a\x1f", "b\x1f", "a\x1fb\x1f"]),
    "lists of lists": (pa.array([[[1]], [[2]], [[3]]]), None),
    "lists of bytes": (pa.array([[b"1"], [b"2"], [b"3"]]), None),
    "fractions": (pa.array([0.5, 1.5, None]), ["0.5", "1.5", ""]),
    "days": (pa.array([1, 2, 3], pa.date32()), None),
}


@pytest.mark.parametrize("kind", LABELS)
def test_labels_of_many_types(kind: str, tmp_path: Path) -> None:
    values, expected = LABELS[kind]
    columns = {"image": binary(*[png()] * 3), "fine_label": values}
    assert open_images(write(tmp_path / "x.parquet", columns)).labels() == expected


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"{",
        b"[" * 100_000,
        b"[]",
        b'{"info": 3}',
        b'{"info": {"features": {"label": {"names": "ab"}}}}',
        b"\xff",
    ],
)
def test_damaged_class_names_are_none(content: bytes) -> None:
    assert class_names_in({b"huggingface": content}, "label") == []
    assert class_names_in(None, "label") == []


def test_files_that_are_no_tables_are_left_out_and_said(tmp_path: Path) -> None:
    write(tmp_path / "a.parquet", {"image": binary(png())})
    (tmp_path / "b.parquet").write_bytes(b"PAR1 no table PAR1")
    write(tmp_path / "c.parquet", {"text": pa.array(["a"])})
    write(tmp_path / "d.parquet", {"image": binary(png(), png())})
    images = open_images(tmp_path)
    assert len(images) == 3
    assert isinstance(images, ParquetImages)
    assert [name for name, _ in images.damaged] == ["b.parquet", "c.parquet"]
    (tmp_path / "e").mkdir()
    (tmp_path / "e" / "x.parquet").write_bytes(b"")
    with pytest.raises(DataError, match="no image in"):
        open_images(tmp_path / "e")


def test_all_files_have_their_images_in_one_column(tmp_path: Path) -> None:
    for name, column in {"a": structs(png()), "b": binary(png()), "c": structs(png())}.items():
        write(tmp_path / f"{name}.parquet", {"image": column})
    images = open_images(tmp_path)
    assert isinstance(images, ParquetImages)
    assert [images.name(number) for number in range(2)] == ["a.parquet row 0", "c.parquet row 0"]
    assert images.damaged == [("b.parquet", "its images are in image")]


def test_few_row_groups_are_kept(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(row_groups, "KEPT_BYTES", 5000)
    column = binary(*(png(number, (16, 16, 3)) for number in range(40)))
    images = open_images(write(tmp_path / "x.parquet", {"image": column}, rows=4))
    assert isinstance(images, ParquetImages)
    first = [images.read(number) for number in range(40)]
    assert len(images._groups._kept) == 1
    decoded: list[int] = []
    true_decode = images._groups._decode
    monkeypatch.setattr(
        images._groups,
        "_decode",
        lambda path, group: decoded.append(group) or true_decode(path, group),
    )
    for number in (39, 38, 37, 36, 0, 1):
        np.testing.assert_array_equal(images.read(number), first[number])
    assert decoded == [0]


def test_a_row_group_that_would_fill_the_memory_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(row_groups, "MOST_GROUP_BYTES", 1 << 20)
    column = binary(*[png(0, (64, 64, 3))] * 4_000)  # in the file one entry of a dictionary
    path = write(tmp_path / "x.parquet", {"image": column}, rows=4_000)
    assert path.stat().st_size < 1 << 20
    images = open_images(path)
    used = pa.total_allocated_bytes()
    with pytest.raises(UnreadableImageError, match="smaller row_group_size"):
        images.read(3_999)
    assert pa.total_allocated_bytes() - used < 16 << 20


def test_without_pyarrow_the_remedy_is_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = write(tmp_path / "x.parquet", {"image": binary(png())})
    monkeypatch.setitem(sys.modules, "pyarrow.parquet", None)
    with pytest.raises(DataError, match=r'pip install "moco-torch\[parquet\]"'):
        open_images(path)


def test_reading_goes_on_in_forked_processes_in_any_order(
    tmp_path: Path, reads: Callable[..., list[str]]
) -> None:
    column = structs(*(png(number) for number in range(60)))
    images = open_images(write(tmp_path / "x.parquet", {"image": column}, rows=7))
    here = reads(images)  # so that pyarrow was used before the fork
    for _ in range(3):
        assert reads(images, 2) == here


def test_a_process_opens_files_of_its_own(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    images = open_images(write(tmp_path / "x.parquet", {"image": binary(png(), png(1))}))
    assert isinstance(images, ParquetImages)
    images.read(0)
    [file] = images._groups._open.values()
    images.read(1)
    assert list(images._groups._open.values()) == [file]
    monkeypatch.setattr(os, "getpid", lambda: -7)  # as after a fork
    images.read(1)
    assert list(images._groups._open.values()) != [file]


@same_draws(60)
@given(data=st.data())
def test_any_damage_is_an_error_of_ours(data: st.DataObject, tmp_path: Path) -> None:
    columns = {"image": structs(png(), png(1)), "label": pa.array([0, 1])}
    content = bytearray(write(tmp_path / "x.parquet", columns).read_bytes())
    for _ in range(data.draw(st.integers(1, 4))):
        place = data.draw(st.integers(0, len(content) - 1))
        content[place] = data.draw(st.integers(0, 255))
    (tmp_path / "x.parquet").write_bytes(content)
    check_errors(lambda: open_with_labels(tmp_path / "x.parquet"))


def test_a_file_is_not_read_as_a_whole(tmp_path: Path) -> None:
    column = binary(*(png(number, (64, 64, 3)) for number in range(200)))
    path = write(tmp_path / "x.parquet", {"image": column}, rows=10)
    before = pa.total_allocated_bytes()
    tracemalloc.start()
    images = open_images(path)
    images.read(150)
    assert tracemalloc.get_traced_memory()[1] < path.stat().st_size / 5
    tracemalloc.stop()
    assert pa.total_allocated_bytes() - before < path.stat().st_size / 4
