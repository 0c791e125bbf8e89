from __future__ import annotations

import os
from pathlib import Path

import numpy as np
import pytest
from source_makers import png

from moco.data.images import UnreadableImageError
from moco.data.sources import listed
from moco.data.sources.listed import ListedImages
from moco.data.sources.opening import open_images
from moco.errors import DataError


@pytest.fixture
def place(tmp_path: Path) -> Path:
    """Return a folder of a few images with awkward names."""
    for number, name in enumerate(
        ["a.png", "b c.png", "d,e.png", 'f"g.png', "sub/h.png", "#i.png", "café.png", "noend"]
    ):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_bytes(png(number))
    return tmp_path


def entries(path: Path, text: str | bytes) -> list[str]:
    path.write_bytes(text if isinstance(text, bytes) else text.encode())
    images = ListedImages(path)
    return [images.name(number) for number in range(len(images))]


ONE = ["a.png", "b c.png"]
LISTS: dict[str, tuple[str, str | bytes, list[str], list[str] | None]] = {
    "plain": ("x.txt", "a.png\nb c.png\n", ONE, None),
    "no end of line": ("x.txt", "a.png\nb c.png", ONE, None),
    "blank lines": ("x.txt", "\n\na.png\n  \nb c.png\n\n", ONE, None),
    "comments": ("x.lst", "# a list\na.png\n  # more\nb c.png\n", ONE, None),
    "no comments in tables": ("x.csv", "#i.png\na.png\n", ["#i.png", "a.png"], None),
    "CRLF": ("x.txt", "a.png\r\nb c.png\r\n", ONE, None),
    "BOM": ("x.csv", b"\xef\xbb\xbfpath\r\na.png\r\nb c.png\r\n", ONE, None),
    "BOM without header": ("x.txt", b"\xef\xbb\xbfa.png\nb c.png\n", ONE, None),
    "comma in a text file": ("x.txt", "d,e.png\na.png\n", ["d,e.png", "a.png"], None),
    "quotes": ("x.csv", 'path\n"d,e.png"\n"f""g.png"\n', ["d,e.png", 'f"g.png'], None),
    "labels after a blank": ("x.txt", "a.png 3\nb c.png red\n", ONE, ["3", "red"]),
    "labels after a tab": ("x.txt", "a.png\t3\nb c.png\tdark red\n", ONE, ["3", "dark red"]),
    "header": ("x.csv", "label,filename\nred,a.png\nblue,b c.png\n", ONE, ["red", "blue"]),
    "header and more": (
        "x.csv",
        "n,Class,PATH\n1,red,a.png\n2,blue,b c.png\n",
        ONE,
        ["red", "blue"],
    ),
    "unknown header": ("x.csv", "photo,kind\na.png,1\nb c.png,2\n", ONE, ["1", "2"]),
    "header of one column": ("x.txt", "image\na.png\nb c.png\n", ONE, None),
    "no header": ("x.csv", "a.png,red\nb c.png,blue\n", ONE, ["red", "blue"]),
    "number, label, path": ("x.lst", "0\t5\ta.png\n1\t6\tb c.png\n", ONE, ["5", "6"]),
    "semicolons": ("x.csv", "path;label\na.png;1\nb c.png;2\n", ONE, ["1", "2"]),
    "tabs in .csv": ("x.csv", "path\tlabel\na.png\t1\nb c.png\t2\n", ONE, ["1", "2"]),
    "short rows": ("x.csv", "path,label\na.png,1\nb c.png\n", ONE, ["1", ""]),
    "no suffix": ("x.csv", "path,label\nnoend,1\n", ["noend"], ["1"]),
    "folders": ("x.txt", "sub/h.png\n./a.png\n", ["sub/h.png", "./a.png"], None),
    "twice": ("x.txt", "a.png\na.png\n", ["a.png", "a.png"], None),
    "accents": ("x.txt", "café.png\na.png\n", ["café.png", "a.png"], None),
}


@pytest.mark.parametrize("kind", LISTS)
def test_lists_of_many_forms(kind: str, place: Path) -> None:
    name, text, expected, labels = LISTS[kind]
    assert entries(place / name, text) == expected
    images = open_images(place / name)
    assert images.labels() == labels
    for number in range(len(images)):
        assert images.read(number).shape == (8, 8, 3)


def test_paths_may_be_absolute_or_no_text(place: Path) -> None:
    os.rename(place / "a.png", os.fsencode(place) + b"/\xff.png")
    names = entries(place / "x.txt", os.fsencode(place) + b"/\xff.png\n\xff.png\n")
    assert names == [f"{place}/\udcff.png", "\udcff.png"]
    images = ListedImages(place / "x.txt")
    np.testing.assert_array_equal(images.read(0), images.read(1))
    assert len(images.fingerprint()) == 64


def test_paths_are_relative_to_the_list(place: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (place / "lists").mkdir()
    assert entries(place / "lists" / "x.txt", "../a.png\n") == ["../a.png"]
    monkeypatch.chdir(place / "lists")
    assert open_images("x.txt").read(0).shape == (8, 8, 3)


def test_a_missing_file_is_one_bad_image(place: Path) -> None:
    assert len(entries(place / "x.txt", "gone.png\na.png\n")) == 2
    images = ListedImages(place / "x.txt")
    with pytest.raises(UnreadableImageError, match="does not exist"):
        images.read(0)
    assert images.read(1).shape == (8, 8, 3)


def test_all_missing_says_where_they_were_looked_for(place: Path) -> None:
    missing = "".join(f"images/{number}.png\n" for number in range(30))
    with pytest.raises(DataError, match=rf"first 20 .*'images/0\.png' was looked for in {place}"):
        entries(place / "x.txt", missing + "a.png\n")
    assert len(entries(place / "x.txt", "a.png\n" + missing)) == 31


def test_rows_without_a_path_are_said(place: Path) -> None:
    (place / "x.csv").write_text("path,label\na.png,1\n,2\nb c.png,3\n")
    images = ListedImages(place / "x.csv")
    assert len(images) == 2
    assert images.labels() == ["1", "3"]
    assert images.damaged == [("x.csv entry 2", "it names no path")]


def test_many_rows_without_a_path_are_counted(place: Path) -> None:
    (place / "x.csv").write_text("path,label\na.png,1\n" + ",2\n" * 300)
    damaged = ListedImages(place / "x.csv").damaged
    assert len(damaged) == 101
    assert damaged[-1] == ("", "200 more are left out")


BAD_LISTS = {
    "empty": (b"", "names no image"),
    "only comments": (b"# a\n\n# b\n", "names no image"),
    "only a header": (b"path\n", "names no image"),
    "binary": (b"\x89PNG\r\n\x1a\n\0\0\0\rIHDR", "line 3 is not UTF-8 text"),
    "UTF-16": ("a.png\r\n".encode("utf-16"), "line 1 is not UTF-8 text"),
    "open quote": (b'"a.png\n' + b"x" * 200_000, "is no table"),
}


@pytest.mark.parametrize("kind", BAD_LISTS)
def test_what_is_no_list_is_refused(kind: str, place: Path) -> None:
    content, reason = BAD_LISTS[kind]
    with pytest.raises(DataError, match=reason) as caught:
        entries(place / "x.txt", content)
    assert "\n" not in str(caught.value)


def test_an_absurd_list_is_refused(place: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with open(place / "x.txt", "wb") as file:
        file.truncate((8 << 30) + 1)
    with pytest.raises(DataError, match="over 8 GiB; split it"):
        ListedImages(place / "x.txt")
    with pytest.raises(DataError, match="cannot be read"):
        ListedImages(place / "none.txt")


def test_what_is_listed_may_be_no_image_or_no_file(place: Path) -> None:
    os.mkfifo(place / "pipe.png")
    (place / "text.png").write_text("text")
    names = entries(place / "x.txt", "a.png\nsub\ntext.png\n")
    assert len(names) == 3
    images = ListedImages(place / "x.txt")
    for number in (1, 2):
        with pytest.raises(UnreadableImageError):
            images.read(number)


def test_a_long_list_takes_little_memory(place: Path) -> None:
    text = "".join(f"{number:08}.png,{number % 10}\n" for number in range(20_000))
    entries(place / "x.csv", "a.png,0\n" + text)
    images = ListedImages(place / "x.csv")
    assert images._names.nbytes < 22 * len(images)
    assert images._codes is not None
    assert images._codes.nbytes == 4 * len(images)
    assert listed.FIRST == 20
