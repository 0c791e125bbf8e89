from __future__ import annotations

import hashlib
import os
from pathlib import Path

import pytest
from source_makers import png

from moco.data.images import UnreadableImageError
from moco.data.sources.folder import FolderImages, find_images
from moco.data.sources.names import IMAGE_SUFFIXES, PackedNames, first_folders
from moco.errors import DataError

GOOD = png()


def touch(folder: Path, *names: str) -> None:
    for name in names:
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(GOOD)


def names(images: FolderImages) -> list[str]:
    return [images.name(number) for number in range(len(images))]


def test_finds_nested_images_sorted_and_leaves_other_files_alone(tmp_path: Path) -> None:
    wanted = [".hidden/a.jpg", "a/b/c/deep.PNG", "a/x.jpeg", "b.gif", "b/1.webp", "b/10.webp"]
    touch(tmp_path, *reversed(wanted))
    touch(tmp_path, "notes.txt", "a/labels.csv", "b/png", "b/image.png.bak", "c/.gitignore", ".png")
    assert find_images(tmp_path) == wanted
    images = FolderImages(tmp_path)
    assert names(images) == wanted
    assert images.path == tmp_path


def test_every_suffix_counts_in_either_case(tmp_path: Path) -> None:
    touch(tmp_path, *(f"x{suffix}" for suffix in IMAGE_SUFFIXES))
    touch(tmp_path, *(f"upper/X{suffix.upper()}" for suffix in IMAGE_SUFFIXES))
    assert len(find_images(tmp_path)) == 2 * len(IMAGE_SUFFIXES)


def test_order_does_not_depend_on_how_the_folder_is_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    touch(tmp_path, "a/1.png", "a.png", "a-b/1.png", "a/0.png")
    monkeypatch.chdir(tmp_path)
    relative, absolute = find_images(Path()), find_images(tmp_path)
    assert relative == absolute == find_images(tmp_path / "a" / "..") == sorted(absolute)
    assert absolute == ["a-b/1.png", "a.png", "a/0.png", "a/1.png"]


def test_a_missing_folder_a_file_and_an_empty_folder_are_named(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="does not exist"):
        find_images(tmp_path / "none")
    touch(tmp_path, "x.png")
    with pytest.raises(DataError, match="is a file, not a folder"):
        find_images(tmp_path / "x.png")
    (tmp_path / "empty").mkdir()
    (tmp_path / "empty" / "notes.txt").touch()
    with pytest.raises(DataError, match=r"no image below .*empty; files that count end in .*\.png"):
        FolderImages(tmp_path / "empty")


@pytest.mark.timeout(20)
def test_what_is_no_regular_file_is_one_bad_image(tmp_path: Path) -> None:
    (tmp_path / "loop.jpg").symlink_to(tmp_path / "loop.jpg")
    (tmp_path / "nowhere.jpg").symlink_to(tmp_path / "none.jpg")
    images = FolderImages(tmp_path)
    assert len(images) == 2
    for number in range(2):
        with pytest.raises(UnreadableImageError):
            images.read(number)


def test_linked_folders_are_walked_and_each_folder_once(tmp_path: Path) -> None:
    touch(tmp_path / "elsewhere", "cats/1.png", "dogs/2.png")
    folder = tmp_path / "photos"
    folder.mkdir()
    for name in ("cats", "dogs"):
        (folder / name).symlink_to(tmp_path / "elsewhere" / name, target_is_directory=True)
    (folder / "zebras").symlink_to(tmp_path / "elsewhere" / "dogs", target_is_directory=True)
    assert find_images(folder) == ["cats/1.png", "dogs/2.png"]


def test_folders_named_like_images_and_circles_of_links_are_walked_once(tmp_path: Path) -> None:
    touch(tmp_path, "x.jpg/inside.png")
    (tmp_path / "x.jpg" / "up").symlink_to(tmp_path, target_is_directory=True)
    (tmp_path / "linked.png").symlink_to(tmp_path / "x.jpg" / "inside.png")
    images = FolderImages(tmp_path)
    assert names(images) == ["linked.png", "x.jpg/inside.png"]
    assert images.read(0).shape == (8, 8, 3)


def test_a_folder_that_cannot_be_read_is_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    touch(tmp_path, "a/1.png", "b/2.png")
    scan = os.scandir

    def refusing(path: str) -> object:
        if os.path.basename(path) == "b":
            raise PermissionError(13, "Permission denied", path)
        return scan(path)

    monkeypatch.setattr(os, "scandir", refusing)
    with pytest.raises(DataError, match=r"folder .*b cannot be read \(Permission denied\)"):
        find_images(tmp_path)


ODD_NAMES = ["new\nline.png", "café 日本.png", "x" * 246 + ".png", "-rf.png", "'\"$(x).png"]


def test_odd_names_are_read(tmp_path: Path) -> None:
    touch(tmp_path, *ODD_NAMES)
    with open(os.fsencode(tmp_path) + b"/\xff\xfe.png", "wb") as file:
        file.write(GOOD)
    images = FolderImages(tmp_path)
    assert names(images) == sorted([*ODD_NAMES, "\udcff\udcfe.png"])
    for number in range(len(images)):
        images.read(number)


def test_a_cached_image_is_not_read_again(tmp_path: Path) -> None:
    touch(tmp_path, "a.png")
    cached, uncached = FolderImages(tmp_path, cache_bytes=1000), FolderImages(tmp_path)
    first = cached.read(0)
    (tmp_path / "a.png").unlink()
    assert cached.read(0) is first
    with pytest.raises(UnreadableImageError):
        uncached.read(0)


def test_labels_are_first_folders_where_every_image_lies_in_one(tmp_path: Path) -> None:
    touch(tmp_path, "a/x/1.png", "b/2.png")
    assert FolderImages(tmp_path).labels() == ["a", "b"]
    touch(tmp_path, "3.png")
    assert FolderImages(tmp_path).labels() is None
    assert first_folders([]) == []


def test_the_fingerprint_is_that_of_earlier_runs(tmp_path: Path) -> None:
    touch(tmp_path, "a/1.png", "é.png")
    with open(os.fsencode(tmp_path) + b"/\xff.png", "wb") as file:
        file.write(GOOD)
    images = FolderImages(tmp_path)
    joined = "\0".join(names(images)).encode("utf-8", "surrogateescape")
    assert images.fingerprint() == hashlib.sha256(joined).hexdigest()


def test_packed_names_take_little_memory() -> None:
    given = [f"folder/{number:06}.png" for number in range(1000)] + ["", "é", "\udcff"]
    packed = PackedNames(iter(given))
    assert list(packed) == given
    assert packed[-3 + len(packed)] == ""
    assert packed.nbytes == sum(len(os.fsencode(name)) for name in given) + 9 * len(given) + 8
