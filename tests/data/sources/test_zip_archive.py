from __future__ import annotations

import gc
import io
import os
import struct
import time
import tracemalloc
import zipfile
from pathlib import Path

import numpy as np
import pytest
from any_damage import check_errors, same_draws
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image
from source_makers import png

from moco.data.images import UnreadableImageError
from moco.data.sources.opening import open_images
from moco.data.sources.zip_archive import ZipImages
from moco.errors import DataError

GOOD = png()


def zip_bytes(files: dict[str, bytes], method: int = zipfile.ZIP_DEFLATED) -> bytes:
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w", method) as archive:
        for name, content in files.items():
            archive.writestr(zipfile.ZipInfo(name), content, method)
    return file.getvalue()


def entry(archive: bytes, name: bytes) -> int:
    """Return where the directory's entry of a member begins."""
    return archive.index(b"PK\x01\x02", archive.rindex(name) - 46)


def with_field(archive: bytes, name: bytes, place: int, value: bytes) -> bytes:
    """Return the archive with a field of a member's entry in the directory changed."""
    begin = entry(archive, name) + place
    return archive[:begin] + value + archive[begin + len(value) :]


def read_first(archive: bytes, folder: Path) -> np.ndarray:
    (folder / "x.zip").write_bytes(archive)
    return ZipImages(folder / "x.zip").read(0)


def test_members_that_no_image_is_stored_as(tmp_path: Path) -> None:
    one = zip_bytes({"a.png": GOOD})
    faults = {
        "encrypted": with_field(one, b"a.png", 8, b"\1\0"),
        "method 14": with_field(one, b"a.png", 10, b"\x0e\0"),
        "larger than 1 GiB": with_field(one, b"a.png", 24, struct.pack("<I", (1 << 30) + 1)),
        "as no image does": with_field(one, b"a.png", 24, struct.pack("<I", 1 << 30)),
        "does not unpack to": with_field(one, b"a.png", 24, struct.pack("<I", 50)),
        "bytes declared": with_field(one, b"a.png", 24, struct.pack("<I", 5000)),
        "checksum": with_field(one, b"a.png", 16, b"abcd"),
        "no header": with_field(one, b"a.png", 42, struct.pack("<I", 7)),
        "ends before": with_field(one, b"a.png", 20, struct.pack("<I", 100_000)),
        "damaged": one[:40] + b"\xff\xff\xff" + one[43:],
    }
    for reason, archive in faults.items():
        with pytest.raises(UnreadableImageError, match=reason):
            read_first(archive, tmp_path)
    assert read_first(one, tmp_path).shape == (8, 8, 3)


@pytest.mark.parametrize("declared", [70 << 20, 1000])
def test_a_bomb_is_refused_quickly_and_in_little_memory(declared: int, tmp_path: Path) -> None:
    archive = zip_bytes({"a.png": bytes(70 << 20)})
    assert len(archive) < 200_000
    archive = with_field(archive, b"a.png", 24, struct.pack("<I", declared))
    (tmp_path / "x.zip").write_bytes(archive)
    images = ZipImages(tmp_path / "x.zip")
    tracemalloc.start()
    began = time.process_time()
    with pytest.raises(UnreadableImageError):
        images.read(0)
    assert time.process_time() - began < 0.1
    assert tracemalloc.get_traced_memory()[1] < 10 << 20
    tracemalloc.stop()


def test_a_blank_image_is_no_bomb(tmp_path: Path) -> None:
    bmp = io.BytesIO()
    zeros = np.zeros((1000, 1000, 3), np.uint8)

    Image.fromarray(zeros).save(bmp, "BMP")
    np.testing.assert_array_equal(read_first(zip_bytes({"a.bmp": bmp.getvalue()}), tmp_path), zeros)


def test_names_are_never_paths(tmp_path: Path) -> None:
    hostile = ("../a.png", "/a.png", "b/../../a.png", "C:\\a.png")
    names = (*hostile, "a.pkl", "a.pyd", "b/c.png", "b/._c.png")
    (tmp_path / "x.zip").write_bytes(zip_bytes(dict.fromkeys(names, GOOD)))
    before = sorted(tmp_path.rglob("*"))
    images = ZipImages(tmp_path / "x.zip")
    assert [images.name(number) for number in range(len(images))] == ["b/c.png"]
    assert sorted(name for name, _ in images.damaged) == sorted(hostile)
    images.read(0)
    assert sorted(tmp_path.rglob("*")) == before


@pytest.mark.filterwarnings("ignore:Duplicate name")
def test_members_of_one_name_are_images_each(tmp_path: Path) -> None:
    with zipfile.ZipFile(tmp_path / "x.zip", "w") as archive:
        for number in range(2):
            archive.writestr("a.png", png(number))
    images = ZipImages(tmp_path / "x.zip")
    assert len(images) == 2
    assert not np.array_equal(images.read(0), images.read(1))


def test_archives_of_nothing_are_refused(tmp_path: Path) -> None:
    for content, reason in {
        b"no archive": "not a usable zip archive",
        b"": "not a usable zip archive",
        zip_bytes({"a.png": GOOD})[:60]: "not a usable zip archive",
        zip_bytes({"a.txt": b"text"}): r"no image in .*; it holds no files such as 1\.jpg",
        zip_bytes({"../a.png": GOOD}): r"no image in .*; \.\./a\.png: its name leads out",
        zip_bytes({}): "no image in",
    }.items():
        (tmp_path / "x.zip").write_bytes(content)
        with pytest.raises(DataError, match=reason):
            open_images(tmp_path / "x.zip")


def test_an_archive_behind_other_bytes_is_read(tmp_path: Path) -> None:
    assert read_first(b"#!/bin/sh\n" + zip_bytes({"a.png": GOOD}), tmp_path).shape == (8, 8, 3)


def test_large_archives_are_indexed_in_little_memory(tmp_path: Path) -> None:
    (tmp_path / "x.zip").write_bytes(
        zip_bytes({f"{number:08}.png": b"" for number in range(5000)}, zipfile.ZIP_STORED)
    )
    tracemalloc.start()
    images = ZipImages(tmp_path / "x.zip")
    gc.collect()
    held, _ = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert held / len(images) < 70  # of which 21 for the name


def test_an_archive_that_is_gone_or_cut_is_unreadable_not_a_crash(tmp_path: Path) -> None:
    path = tmp_path / "x.zip"
    path.write_bytes(zip_bytes({"a.png": GOOD, "b.png": GOOD}))
    images = ZipImages(path)
    images.read(0)
    os.truncate(path, 300)
    with pytest.raises(UnreadableImageError, match="ends before"):
        images.read(1)


@same_draws(120)
@given(data=st.data())
def test_any_damage_is_an_error_of_ours(data: st.DataObject, tmp_path: Path) -> None:
    archive = bytearray(zip_bytes({"a/1.png": GOOD, "é.png": GOOD, "b/2.png": b"text"}))
    starts = [place for place in range(len(archive)) if archive[place : place + 2] == b"PK"]
    for _ in range(data.draw(st.integers(1, 4))):
        place = data.draw(st.sampled_from(starts)) + data.draw(st.integers(0, 50))
        archive[place % len(archive)] = data.draw(st.integers(0, 255))
    if data.draw(st.booleans()):
        del archive[data.draw(st.integers(0, len(archive))) :]
    (tmp_path / "x.zip").write_bytes(archive)
    check_errors(lambda: ZipImages(tmp_path / "x.zip"))
