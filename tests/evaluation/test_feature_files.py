"""Files of features: every format gives back what was written, and refuses what makes no sense."""

from __future__ import annotations

import importlib.util
import io
import json
import os
import re
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
from safetensors.numpy import load_file

from moco.errors import DataError, StorageError, UsageError
from moco.evaluation import feature_files, stored_features
from moco.evaluation.feature_files import (
    FORMATS,
    check_feature_path,
    is_feature_file,
    read_features,
    write_features,
)
from moco.evaluation.feature_set import FeatureSet, check_pair

NAMES = ("a/0.png", "a/über \n|.png", "b/\udce4.png", "b/3.png", "b/4.png", "c/" + "x" * 90)


def features(kind: str = "one_class") -> FeatureSet:
    rows = torch.randn(6, 5, generator=torch.Generator().manual_seed(0))
    plain = FeatureSet(
        rows,
        torch.tensor([0, 0, 1, 1, 1, 3]),
        ("ant", "bee", "none of it", "cat, big"),
        paths=NAMES,
        encoder="resnet 12ab, layer 3",
    )
    match kind:
        case "several_classes":
            labels = torch.rand(6, 4, generator=torch.Generator().manual_seed(1)) < 0.5
            return replace(plain, labels=labels)
        case "number":
            return replace(plain, labels=torch.tensor([0.1, 2, -3e9, 4, 5, 6]).double(), classes=())
        case "none":
            return replace(plain, labels=torch.empty(0, dtype=torch.long), classes=())
        case "bare":
            return replace(plain, paths=(), encoder="")
        case "half":
            return replace(plain, rows=rows.half())
    return plain


KINDS = ("one_class", "several_classes", "number", "none", "bare", "half")


@pytest.mark.parametrize("suffix", FORMATS)
@pytest.mark.parametrize("kind", KINDS)
def test_what_is_written_is_read(kind: str, suffix: str, tmp_path: Path) -> None:
    given, file = features(kind), tmp_path / f"x{suffix}"
    write_features(file, given)
    assert is_feature_file(file)
    found = read_features(file)
    assert torch.equal(found.rows, given.rows)
    assert found.rows.dtype == given.rows.dtype
    assert torch.equal(found.labels, given.labels)
    assert found.labels.dtype == given.labels.dtype
    assert (found.classes, found.encoder) == (given.classes, given.encoder)
    expected = given.paths
    if suffix == ".parquet":  # its text is UTF-8
        expected = tuple(name.replace("\udce4", "\\udce4") for name in expected)
    assert found.paths == expected
    assert found.title == str(file)
    assert sorted(os.listdir(tmp_path)) == [file.name]


@pytest.mark.parametrize("suffix", FORMATS)
def test_equal_features_make_equal_bytes_in_any_chunks(
    suffix: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write_features(tmp_path / f"a{suffix}", features())
    os.utime(tmp_path / f"a{suffix}", (0, 0))
    monkeypatch.setattr(stored_features, "CHUNK_BYTES", 50)
    write_features(tmp_path / f"b{suffix}", features())
    first, second = ((tmp_path / f"{name}{suffix}").read_bytes() for name in "ab")
    assert first == second


@pytest.mark.parametrize("suffix", [".npz", ".safetensors"])
def test_features_are_mapped_not_read(suffix: str, tmp_path: Path) -> None:
    file = tmp_path / f"x{suffix}"
    write_features(file, features())
    held = read_features(file).rows
    changed = file.read_bytes().replace(features().rows.numpy().tobytes(), bytes(6 * 5 * 4))
    with open(file, "r+b") as opened:
        opened.write(changed)
    assert not held.any()


def test_other_readers_read_them(tmp_path: Path) -> None:
    given = features()
    for suffix in FORMATS:
        write_features(tmp_path / f"x{suffix}", given)
    archive = np.load(tmp_path / "x.npz")
    assert archive["features"].dtype == np.float32
    assert archive["features"].tolist() == given.rows.tolist()
    assert archive["labels"].tolist() == given.labels.tolist()
    assert archive["paths"].tolist() == list(NAMES)
    assert archive["classes"].tolist() == list(given.classes)
    table = pq.read_table(tmp_path / "x.parquet")
    assert table.column_names == ["path", "features", "label"]
    assert table["features"].to_pylist() == given.rows.tolist()
    assert table["label"].to_pylist() == ["ant", "ant", "bee", "bee", "bee", "cat, big"]
    tensors = load_file(tmp_path / "x.safetensors")
    assert tensors["features"].tolist() == given.rows.tolist()
    assert tensors["labels"].tolist() == given.labels.tolist()
    assert bytes(tensors["paths"]).split(b"\0")[0] == b"a/0.png"


ROWS = np.arange(12, dtype=np.float32).reshape(4, 3)
STRANGERS: dict[str, dict[str, Any]] = {
    "text": {"labels": np.array(["b", "a", "b", "b"])},
    "bytes": {"labels": np.array([b"b", b"a", b"b", b"b"])},
    "numbers": {"labels": np.array([7, -2, 7, 7])},
    "a column": {"labels": np.array([[7], [3], [7], [7]], np.uint8)},
    "truth": {"labels": np.array([True, False, True, True])},
}


@pytest.mark.parametrize("save", [np.savez, np.savez_compressed])
@pytest.mark.parametrize("kind", STRANGERS)
def test_archives_of_others_are_welcome(
    kind: str, save: Callable[..., None], tmp_path: Path
) -> None:
    save(tmp_path / "x.npz", features=ROWS, **STRANGERS[kind])
    found = read_features(tmp_path / "x.npz")
    assert found.rows.tolist() == ROWS.tolist()
    assert found.labels.tolist() == [1, 0, 1, 1]
    assert len(found.classes) == 2
    check_pair(found, found)


@pytest.mark.parametrize(
    "rows", [np.asfortranarray(ROWS), ROWS.astype(">f4"), np.asfortranarray(ROWS.astype(">f2"))]
)
def test_other_layouts_of_numbers_are_read(rows: np.ndarray, tmp_path: Path) -> None:
    np.savez(tmp_path / "x.npz", features=rows)
    found = read_features(tmp_path / "x.npz")
    assert found.rows.tolist() == ROWS.tolist()
    assert not len(found.labels)


@pytest.mark.parametrize("several", [False, True])
def test_tables_of_others_are_welcome(several: bool, tmp_path: Path) -> None:
    column = pa.array(ROWS.tolist(), pa.list_(pa.float32()))
    names = [["a", "b"], [], ["b"], ["a"]] if several else ["b", "a", "b", "b"]
    table = pa.table({"features": column, "label": names, "more": [1, 2, 3, 4]})
    about = json.dumps({"classes": ["a", "b"]}) if several else "{}"
    pq.write_table(table.replace_schema_metadata({"moco": about}), tmp_path / "x.parquet")
    found = read_features(tmp_path / "x.parquet")
    assert found.rows.tolist() == ROWS.tolist()
    expected = [[True, True], [False, False], [False, True], [True, False]]
    assert found.labels.tolist() == (expected if several else [1, 0, 1, 1])


def npz(**arrays: Any) -> bytes:
    buffer = io.BytesIO()
    np.savez(buffer, **arrays)
    return buffer.getvalue()


def header_only(shape: tuple[int, ...], *, compressed: bool = False) -> bytes:
    """Return an archive whose features promise a shape and hold nothing."""
    header = io.BytesIO()
    about = {"descr": "<f4", "fortran_order": False, "shape": shape}
    np.lib.format.write_array_header_2_0(header, about)
    buffer = io.BytesIO()
    method = zipfile.ZIP_DEFLATED if compressed else zipfile.ZIP_STORED
    with zipfile.ZipFile(buffer, "w", method) as archive:
        archive.writestr("features.npy", header.getvalue())
    return buffer.getvalue()


def deflated_zeros(mebibytes: int) -> bytes:
    header = io.BytesIO()
    about = {"descr": "<f4", "fortran_order": False, "shape": (mebibytes << 10, 256)}
    np.lib.format.write_array_header_2_0(header, about)
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("features.npy", header.getvalue() + bytes(mebibytes << 20))
    return buffer.getvalue()


def tensors(header: Any, content: bytes = b"") -> bytes:
    text = header if isinstance(header, bytes) else json.dumps(header).encode()
    return struct.pack("<Q", len(text)) + text + content


def claimed(**about: Any) -> bytes:
    whole = {"dtype": "F32", "shape": [4, 3], "data_offsets": [0, 48], **about}
    return tensors({"features": whole}, ROWS.tobytes())


def table_bytes(**columns: Any) -> bytes:
    buffer = io.BytesIO()
    if isinstance(columns.get("features"), list):  # else all would be refused for their type
        columns["features"] = pa.array(columns["features"], pa.list_(pa.float32()))
    pq.write_table(pa.table(columns), buffer)
    return buffer.getvalue()


def flagged_as_encrypted() -> bytes:
    content = bytearray(npz(features=ROWS))
    content[content.index(b"PK\x01\x02") + 8] |= 1
    return bytes(content)


def damaged_deflate() -> bytes:
    buffer = io.BytesIO()
    np.savez_compressed(buffer, features=np.random.default_rng(0).random((40, 6), np.float32))
    content = bytearray(buffer.getvalue())
    content[70:90] = b"\xff" * 20
    return bytes(content)


def packed_by(method: int) -> bytes:
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", method) as archive, archive.open("features.npy", "w") as file:
        np.lib.format.write_array(file, ROWS)
    return buffer.getvalue()


def test_lines_of_the_documentation_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    text = (Path(__file__).parents[2] / "docs" / "features.md").read_text()
    blocks = re.findall(r"```python\n(.*?)```", text, re.DOTALL)
    given = features()
    for suffix in FORMATS:
        write_features(tmp_path / f"train{suffix}", given)
    monkeypatch.chdir(tmp_path)
    ran = 0
    for block in blocks:
        if "pandas" in block and importlib.util.find_spec("pandas") is None:
            continue
        assert len(list(filter(None, block.splitlines()))) == 2
        found: dict[str, Any] = {}
        exec(block, found)
        if "table" in found:
            assert found["table"]["path"].tolist()[0] == given.paths[0]
            found["rows"] = np.stack(found["table"]["features"].to_numpy())
        assert found["rows"].tolist() == given.rows.tolist()
        ran += 1
    assert ran >= 2


HOSTILE: dict[str, tuple[str, bytes]] = {
    "encrypted": (".npz", flagged_as_encrypted()),
    "damaged where packed": (".npz", damaged_deflate()),
    "packed by LZMA": (".npz", packed_by(zipfile.ZIP_LZMA)),
    "a class twice": (
        ".npz",
        npz(features=ROWS, labels=np.arange(4) % 2, classes=np.array(["a", "a"])),
    ),
    "nothing, endlessly wide": (
        ".safetensors",
        tensors({"features": {"dtype": "F32", "shape": [0, 10**30], "data_offsets": [0, 0]}}),
    ),
    "missing paths": (".parquet", table_bytes(features=[[1.0], [2.0]], path=["a", None])),
    "empty": (".npz", b""),
    "no archive": (".npz", b"PK\x03\x04 and so on"),
    "no features": (".npz", npz(x=ROWS)),
    "objects": (".npz", npz(features=np.array([[{}]], dtype=object))),
    "one side": (".npz", npz(features=ROWS[0])),
    "three sides": (".npz", npz(features=ROWS[None])),
    "whole numbers": (".npz", npz(features=ROWS.astype(int))),
    "words": (".npz", npz(features=ROWS.astype(str))),
    "doubles": (".npz", npz(features=ROWS.astype(float))),
    "no rows": (".npz", npz(features=ROWS[:0])),
    "no columns": (".npz", npz(features=ROWS[:, :0])),
    "labels too few": (".npz", npz(features=ROWS, labels=np.arange(3))),
    "labels of three sides": (".npz", npz(features=ROWS, labels=np.ones((4, 2, 2), bool))),
    "labels of times": (".npz", npz(features=ROWS, labels=np.zeros(4, "M8[s]"))),
    "labels that are complex": (".npz", npz(features=ROWS, labels=np.zeros(4, complex))),
    "more classes than columns": (
        ".npz",
        npz(features=ROWS, labels=np.ones((4, 2), bool), classes=np.array(["a", "b", "c"])),
    ),
    "paths too few": (".npz", npz(features=ROWS, paths=np.array(["a"]))),
    "paths of numbers": (".npz", npz(features=ROWS, paths=np.arange(4))),
    "four terabytes": (".npz", header_only((1 << 20, 1 << 20))),
    "four terabytes, packed": (".npz", header_only((1 << 20, 1 << 20), compressed=True)),
    "negative": (".npz", header_only((-4, 3))),
    "a bomb": (".npz", deflated_zeros(100)),
    "cut off": (".npz", npz(features=np.ones((100, 30), np.float32))[:-300]),
    "no tensors": (".safetensors", b"\x10\x00"),
    "long header": (".safetensors", struct.pack("<Q", 1 << 40) + b"{}"),
    "no JSON": (".safetensors", tensors(b"\xff\xfe")),
    "deep JSON": (".safetensors", tensors(b"[" * 100_000)),
    "a list": (".safetensors", tensors([])),
    "nothing": (".safetensors", tensors({})),
    "more than it holds": (".safetensors", claimed(shape=[1 << 20, 1 << 20])),
    "offsets beyond": (".safetensors", claimed(data_offsets=[1 << 40, (1 << 40) + 48])),
    "offsets below": (".safetensors", claimed(data_offsets=[-48, 0])),
    "shape that is true": (".safetensors", claimed(shape=[True, 12])),
    "shape that is a word": (".safetensors", claimed(shape="ab")),
    "another type": (".safetensors", claimed(dtype="F8_E4M3")),
    "a type that is a list": (".safetensors", claimed(dtype=[])),
    "tensor that is a word": (".safetensors", tensors({"features": "x"})),
    "metadata that is a list": (
        ".safetensors",
        tensors(
            {
                "__metadata__": [],
                "features": {"dtype": "F32", "shape": [4, 3], "data_offsets": [0, 48]},
            },
            ROWS.tobytes(),
        ),
    ),
    "no table": (".parquet", b"PAR1 and so on"),
    "no column": (".parquet", table_bytes(x=[1])),
    "column of numbers": (".parquet", table_bytes(features=pa.array([1.0, 2.0]))),
    "uneven lists": (".parquet", table_bytes(features=[[1.0, 2.0, 3.0], [4.0]])),
    "uneven lists that add up": (".parquet", table_bytes(features=[[1.0], [2.0, 3.0, 4.0]])),
    "missing rows": (".parquet", table_bytes(features=[[1.0], None])),
    "missing labels": (".parquet", table_bytes(features=[[1.0], [2.0]], label=["a", None])),
    "unknown classes": (".parquet", table_bytes(features=[[1.0], [2.0]], label=[["a"], ["b"]])),
}


@pytest.mark.parametrize("kind", HOSTILE)
def test_what_makes_no_sense_is_told_in_one_line(kind: str, tmp_path: Path) -> None:
    suffix, content = HOSTILE[kind]
    file = tmp_path / f"x{suffix}"
    file.write_bytes(content)
    with pytest.raises(DataError) as caught:
        read_features(file)
    assert "\n" not in str(caught.value)
    assert str(file) in str(caught.value)
    assert len(str(caught.value)) < len(str(file)) + 400


@pytest.mark.parametrize("suffix", FORMATS)
def test_any_cut_is_told(suffix: str, tmp_path: Path) -> None:
    file = tmp_path / f"x{suffix}"
    write_features(file, features())
    whole = file.read_bytes()
    for length in range(0, len(whole), max(1, len(whole) // 60)):
        file.write_bytes(whole[:length])
        is_feature_file(file)
        with pytest.raises(DataError):
            read_features(file)


def test_files_that_are_none_are_told(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe.npz")
    (tmp_path / "folder.npz").mkdir()
    for name, said in (
        ("none.npz", "does not exist"),
        ("pipe.npz", "is no file"),
        ("folder.npz", "is no file"),
    ):
        with pytest.raises(DataError, match=said):
            read_features(tmp_path / name)
        assert not is_feature_file(tmp_path / name)
    with pytest.raises(UsageError, match=r"\.npz, \.parquet, \.safetensors files"):
        read_features(tmp_path / "x.csv")
    np.savez(tmp_path / "images.npz", images=np.zeros((2, 8, 8, 3), np.uint8))
    assert not is_feature_file(tmp_path / "images.npz")
    pq.write_table(pa.table({"image": [b"x"]}), tmp_path / "images.parquet")
    assert not is_feature_file(tmp_path / "images.parquet")


def test_features_without_labels_have_no_score(tmp_path: Path) -> None:
    write_features(tmp_path / "x.npz", features("none"))
    found = read_features(tmp_path / "x.npz")
    with pytest.raises(DataError, match="has no labels; evaluation needs them"):
        check_pair(found, found)


def test_a_failed_write_leaves_what_was_there(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    file = tmp_path / "x.npz"
    write_features(file, features())
    before = file.read_bytes()

    def full(*_: Any) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setitem(feature_files.FORMATS, ".npz", FORMATS[".npz"]._replace(write=full))
    with pytest.raises(StorageError, match="No space left"):
        write_features(file, features("number"))
    assert file.read_bytes() == before
    assert os.listdir(tmp_path) == ["x.npz"]


def test_files_that_cannot_be_written_are_refused_beforehand(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with pytest.raises(UsageError, match=r"--out must end in \.npz, \.parquet, \.safetensors"):
        check_feature_path(tmp_path / "x.csv")
    with pytest.raises(StorageError, match="writable folder"):
        check_feature_path(tmp_path / "none" / "x.npz")
    monkeypatch.setitem(__import__("sys").modules, "pyarrow.parquet", None)
    with pytest.raises(DataError, match="needs pyarrow"):
        check_feature_path(tmp_path / "x.parquet")
