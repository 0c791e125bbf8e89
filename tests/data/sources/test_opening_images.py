from __future__ import annotations

import os
import shutil
import zipfile
from pathlib import Path

import numpy as np
import pytest
from source_makers import ENCODED, idx, png, write_tar

from moco.data.images import StoredImages
from moco.data.sources.arrays import open_npy
from moco.data.sources.folder import FolderImages
from moco.data.sources.opening import expand_braces, open_images
from moco.data.sources.tar_shards import TarImages
from moco.errors import DataError


def test_a_folder_of_images_counts_before_what_lies_beside(pictures: Path, tmp_path: Path) -> None:
    folder = tmp_path / "x"
    shutil.copytree(pictures, folder)
    write_tar(folder / "x.tar", {"a.png": png()})
    (folder / "data_batch_1.bin").write_bytes(bytes(3073))
    images = open_images(str(folder))
    assert isinstance(images, FolderImages)
    assert len(images) == 24


def test_shards_may_lie_in_folders(pictures: Path, tmp_path: Path) -> None:
    for part in ("b", "a"):
        (tmp_path / part).mkdir()
        ENCODED["tar shards"](pictures, tmp_path / part)
    images = open_images(tmp_path)
    assert isinstance(images, TarImages)
    assert images.shard_sizes().tolist() == [8] * 6
    assert images.name(0).startswith("a/train-000000.tar/bird/")
    assert images.name(47).startswith("b/train-000002.tar/dog/")


def test_a_pattern_that_is_a_name_is_that_file(pictures: Path, tmp_path: Path) -> None:
    folder = tmp_path / "photos [2024] {a,b}"
    shutil.copytree(pictures, folder)
    assert len(open_images(folder)) == 24


def test_shards_are_named_alike_however_they_are_named(
    pictures: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    ENCODED["tar shards"](pictures, tmp_path)
    expected = open_images(tmp_path).fingerprint()
    assert open_images(tmp_path / "train-{000000..000002}.tar").fingerprint() == expected
    monkeypatch.chdir(tmp_path)
    for path in (".", "train-*.tar", "./train-00000{2,1,0}.tar", f"../{tmp_path.name}"):
        assert open_images(path).fingerprint() == expected


def missing(place: Path) -> Path:
    return place / "none"


def single(place: Path) -> Path:
    (place / "x.png").write_bytes(png())
    return place / "x.png"


def unknown(place: Path) -> Path:
    (place / "x.docx").write_bytes(b"PK")
    return place / "x.docx"


def fifo(place: Path) -> Path:
    os.mkfifo(place / "x.tar")
    return place / "x.tar"


def only_fifos(place: Path) -> Path:
    for name in ("x.tar", "x.parquet", "data_batch_1.bin", "train-images-idx3-ubyte"):
        os.mkfifo(place / name)
    return place


def empty(place: Path) -> Path:
    (place / "notes.txt").touch()
    return place


def folder_of_zips(place: Path) -> Path:
    with zipfile.ZipFile(place / "photos.zip", "w") as archive:
        archive.writestr("a.png", png())
    return place


def mixed(place: Path) -> Path:
    write_tar(place / "x.tar", {"a.png": png()})
    (place / "x.parquet").write_bytes(b"")
    return place / "x.*"


REFUSED = {
    missing: r"none does not exist; name a folder of images, a list",
    single: r"x\.png is a single image; name a folder",
    unknown: r"x\.docx is no file of images that is known here; name a folder",
    fifo: "is neither a file nor a folder",
    only_fifos: "no image below",
    empty: r"no image below .*; files that count end in .*\.png",
    folder_of_zips: r"no image below .*; .*photos\.zip is read when named itself",
    mixed: r"must name \.tar or \.parquet files only",
}


@pytest.mark.timeout(20)
@pytest.mark.parametrize("make", REFUSED)
def test_what_is_not_understood_is_refused_in_a_line(make: object, tmp_path: Path) -> None:
    assert callable(make)
    with pytest.raises(DataError, match=REFUSED[make]) as caught:
        open_images(make(tmp_path))
    assert "\n" not in str(caught.value)


def test_a_list_of_images_in_an_empty_folder_is_offered(pictures: Path, tmp_path: Path) -> None:
    ENCODED["list of paths"](pictures, tmp_path)
    with pytest.raises(DataError, match=r"list\.txt is read when named itself"):
        open_images(tmp_path)


def test_a_pattern_may_be_longer_than_a_name_can_be(tmp_path: Path) -> None:
    write_tar(tmp_path / "a.tar", {"1.png": png()})
    pattern = f"{{{','.join(['a'] * 200)}}}.tar"
    assert len(open_images(tmp_path / pattern)) == 1
    with pytest.raises(DataError, match=r"cannot be found \(File name too long\); name a folder"):
        open_images(tmp_path / ("a" * 300))


def test_suffixes_count_in_either_case(pictures: Path, tmp_path: Path) -> None:
    write_tar(tmp_path / "X.TAR", {"A.PNG": png()})
    assert len(open_images(tmp_path / "X.TAR")) == 1
    np.save(tmp_path / "x.npy", np.zeros((2, 9, 9), np.uint8))
    (tmp_path / "x.npy").rename(tmp_path / "X.NPY")
    assert len(open_images(tmp_path / "X.NPY")) == len(open_npy(tmp_path / "X.NPY")) == 2


def test_a_cache_serves_every_kind(tmp_path: Path) -> None:
    np.save(tmp_path / "x.npy", np.zeros((2, 9, 9), np.uint8))
    (tmp_path / "train-images-idx3-ubyte").write_bytes(idx(np.zeros((2, 9, 9), np.uint8)))
    (tmp_path / "x.bin").write_bytes(bytes(3073))
    for name in ("x.npy", "train-images-idx3-ubyte", "x.bin"):
        images = open_images(tmp_path / name, cache_bytes=10_000)
        assert isinstance(images, StoredImages)
        assert images.read(0) is images.read(0)


def test_braces_stand_for_all_their_names() -> None:
    assert list(expand_braces("a{0..2}b{x,y}")) == [
        *("a0bx", "a0by", "a1bx", "a1by", "a2bx", "a2by"),
    ]
    assert list(expand_braces("{008..011}"))[1:3] == ["009", "010"]
    assert list(expand_braces("{9..11}")) == ["9", "10", "11"]
    assert list(expand_braces("{3..1}")) == []
    assert list(expand_braces("plain")) == ["plain"]


def test_a_folder_that_is_packed_in_part_is_refused(tmp_path: Path, pictures: Path) -> None:
    from moco.data_tools.encoding import Encoding
    from moco.data_tools.pack import pack

    pack(open_images(pictures), tmp_path / "packed", Encoding(), name="photos")
    assert len(open_images(tmp_path / "packed")) == len(open_images(pictures))
    index = tmp_path / "packed" / "index.json"
    index.write_text(index.read_text().replace('"complete": true', '"complete": false'))
    with pytest.raises(DataError, match="packed in part only"):
        open_images(tmp_path / "packed")
    index.write_text("[not json")
    assert len(open_images(tmp_path / "packed"))
