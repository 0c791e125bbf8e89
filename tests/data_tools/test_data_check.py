"""What `inspect` finds, and which images are equal."""

from __future__ import annotations

import os
import shutil
import signal
import tracemalloc
from collections import Counter
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from moco.data.images import Images, Pixels, SubsetImages, UnreadableImageError
from moco.data.sources.folder import FolderImages
from moco.data.sources.opening import open_images
from moco.data.sources.sequence import SequenceImages
from moco.data_tools.check import (
    MOST_REASONS,
    OTHER_REASONS,
    Inspection,
    class_counts,
    count_of,
    digest_of,
    inspect,
)
from moco.data_tools.equal_images import find_duplicates, find_leaks
from moco.data_tools.reading import each_image, reading_processes
from moco.data_tools.verdict import verdict
from moco.errors import DataError


class Numbers:
    """Images whose one pixel tells their number; every `bad`-th cannot be read."""

    def __init__(self, count: int, bad: int = 0) -> None:
        self.count, self.bad = count, bad

    def __len__(self) -> int:
        return self.count

    def name(self, image_id: int) -> str:
        return f"{image_id}.jpg"

    def read(self, image_id: int) -> Pixels:
        if self.bad and image_id % self.bad == 0:
            raise UnreadableImageError(f"broken at byte {image_id}")
        return np.frombuffer(image_id.to_bytes(4, "big")[1:], np.uint8).reshape(1, 1, 3)


def number_of(images: Images, image_id: int) -> int:
    return int.from_bytes(images.read(image_id).tobytes(), "big")


def die(images: Images, image_id: int) -> int:
    os.kill(os.getpid(), signal.SIGKILL)
    return 0


def fail(images: Images, image_id: int) -> int:
    raise RuntimeError("a bug")


@pytest.mark.parametrize("workers", [0, 2])
@pytest.mark.parametrize(("total", "chunk"), [(1, 16), (5, 16), (100, 16), (101, 3)])
def test_every_image_comes_once_and_in_order(total: int, chunk: int, workers: int) -> None:
    told: list[tuple[int, int]] = []
    found = list(
        each_image(
            Numbers(total),
            range(total),
            number_of,
            workers=workers,
            chunk=chunk,
            report=lambda done, count: told.append((done, count)),
        )
    )
    assert found == list(range(total))
    assert told[-1] == (total, total)
    assert [done for done, _ in told] == sorted({done for done, _ in told})


def test_a_lost_process_is_said_in_a_line() -> None:
    with pytest.raises(DataError, match=r"was lost .*; use fewer --workers"):
        list(each_image(Numbers(8), range(8), die, workers=1))


@pytest.mark.parametrize("workers", [0, 1])
def test_a_bug_in_a_process_is_not_called_a_lost_process(workers: int) -> None:
    with pytest.raises(RuntimeError, match="a bug"):
        list(each_image(Numbers(8), range(8), fail, workers=workers))


def test_few_images_are_read_by_this_process() -> None:
    assert reading_processes(None, 100) == 0
    assert 1 <= reading_processes(None, 100_000) <= 16
    assert reading_processes(3, 1) == 3


def test_counts_of_the_photos(photos: Path) -> None:
    images = FolderImages(photos)
    pixels = [images.read(number) for number in range(64)]
    found = inspect(images)
    assert found.readable == 64
    assert found.unusable == 0
    assert found.is_usable
    assert found.kinds == {(1, "uint8"): 16, (3, "uint8"): 48}
    assert found.suffixes == {".png": 64}
    assert found.sides.tolist() == [list(array.shape[:2]) for array in pixels]
    short = sorted(min(array.shape[:2]) for array in pixels)
    assert found.short_sides.tolist() == short
    assert found.three_sizes() == (short[0], short[31], short[-1])
    widths = sorted(array.shape[1] for array in pixels)
    assert found.three_sizes(1) == (widths[0], widths[31], widths[-1])
    assert class_counts(images) == {"even": 32, "odd": 32}
    assert find_duplicates(found).images == 0


@pytest.mark.parametrize("workers", [0, 2])
def test_processes_change_nothing(photos: Path, workers: int) -> None:
    one, other = inspect(FolderImages(photos)), inspect(FolderImages(photos), workers=workers)
    assert one.digests.tolist() == other.digests.tolist()
    assert one.sides.tolist() == other.sides.tolist()


def test_bad_images_are_grouped_by_reason(photos: Path, tmp_path: Path) -> None:
    shutil.copytree(photos, tmp_path / "photos")
    for number in range(3):
        (tmp_path / "photos" / f"empty{number}.jpg").touch()
    whole = (tmp_path / "photos" / "even" / "00.png").read_bytes()
    for number, length in enumerate((40, 60)):
        (tmp_path / "photos" / f"cut{number}.png").write_bytes(whole[:length])
    (tmp_path / "photos" / "page.jpg").write_text("<html>")
    found = inspect(FolderImages(tmp_path / "photos"))
    assert found.readable == 64
    assert count_of(found.unreadable) == 6
    assert found.unusable == 6
    assert not found.is_usable
    by_first = {problem.names[0]: problem for problem in found.unreadable.values()}
    assert by_first["empty0.jpg"].count == 3
    assert by_first["empty0.jpg"].names == ["empty0.jpg", "empty1.jpg", "empty2.jpg"]
    assert by_first["page.jpg"].count == 1
    assert find_duplicates(found).images == 0  # what cannot be read is no duplicate


def test_reasons_that_differ_in_numbers_are_one() -> None:
    found = inspect(Numbers(100, bad=2))
    assert {reason: problem.count for reason, problem in found.unreadable.items()} == {
        "broken at byte N": 50
    }
    assert next(iter(found.unreadable.values())).names == [f"{n}.jpg" for n in (0, 2, 4, 6, 8)]


class Complaints(Numbers):
    def read(self, image_id: int) -> Pixels:
        letters = "".join(chr(ord("a") + int(digit)) for digit in str(image_id))
        raise UnreadableImageError(f"broken: {letters}")


def test_there_is_an_end_to_reasons() -> None:
    found = inspect(Complaints(200))
    assert len(found.unreadable) == MOST_REASONS + 1
    assert found.unreadable[OTHER_REASONS].count == 200 - MOST_REASONS
    assert not found.is_usable
    assert found.kind is None
    assert found.three_sizes() is None


def test_images_that_do_not_fit_the_others() -> None:
    draw = np.random.default_rng(0)
    colour = [draw.integers(0, 256, (8, 8, 3), dtype=np.uint8) for _ in range(300)]
    twelve = [draw.integers(0, 256, (8, 8, 12), dtype=np.uint8) for _ in range(2)]
    found = inspect(SequenceImages([*colour, *twelve]))
    assert found.readable == 302
    assert count_of(found.unfit) == 2
    assert found.unusable == 2
    assert found.most_unusable == 3
    assert found.is_usable
    few = inspect(SequenceImages([*colour[:100], *twelve]))
    assert (few.unusable, few.most_unusable, few.is_usable) == (2, 1, False)


@pytest.mark.parametrize(("bad", "is_usable"), [(1, True), (2, True), (3, False)])
def test_the_limit_is_that_of_training(bad: int, is_usable: bool) -> None:
    images = SubsetImages(Numbers(1000, bad=100), [*[0] * bad, *range(1, 100), *range(101, 200)])
    found = inspect(SubsetImages(images, range(198 + bad)))
    assert found.unusable == bad
    assert found.most_unusable == max(1, (198 + bad) // 100)
    assert found.is_usable is (bad <= found.most_unusable)


def test_duplicates_and_leaks_are_found(photos: Path, tmp_path: Path) -> None:
    train, test = tmp_path / "train", tmp_path / "test"
    shutil.copytree(photos, train)
    test.mkdir()
    first = train / "even" / "00.png"
    Image.open(first).save(train / "even" / "99.bmp")  # other bytes, equal pixels
    shutil.copy(first, train / "odd" / "aa.png")
    shutil.copy(train / "odd" / "01.png", train / "odd" / "zz.png")
    shutil.copy(first, test / "leak.png")
    Image.open(train / "odd" / "01.png").transpose(Image.Transpose.ROTATE_90).save(test / "a.png")
    Image.new("RGB", (30, 30), "red").save(test / "b.png")
    (test / "c.png").touch()
    found, tested = inspect(FolderImages(train)), inspect(FolderImages(test))
    duplicates = find_duplicates(found)
    assert duplicates.images == 3
    assert duplicates.groups == 2
    assert duplicates.first == [
        ["even/00.png", "even/99.bmp", "odd/aa.png"],
        ["odd/01.png", "odd/zz.png"],
    ]
    leaks = find_leaks(found, tested)
    assert (leaks.images, leaks.tested, leaks.share) == (1, 3, 1 / 3)
    assert leaks.first == [("leak.png", "even/00.png")]
    assert find_leaks(found, found).images == found.readable
    told = "\n".join(verdict(found, duplicates, leaks))
    assert "3 duplicates" in told
    assert "1 test image would be trained on" in told


def test_leaks_without_anything_to_leak(photos: Path) -> None:
    nothing, found = inspect(Complaints(3)), inspect(FolderImages(photos))
    assert find_leaks(nothing, found).images == 0
    assert find_leaks(found, nothing).share == 0.0
    assert find_duplicates(nothing).images == 0


def test_a_digest_knows_shape_and_type() -> None:
    values = np.arange(48, dtype=np.uint8)
    same = [
        values.reshape(4, 4, 3),
        values.reshape(2, 8, 3),
        values.reshape(4, 12, 1),
        values.view(np.uint16).reshape(4, 2, 3),
        values[::-1].reshape(4, 4, 3),
    ]
    assert len({digest_of(pixels) for pixels in same}) == len(same)
    assert digest_of(same[0].copy()) == digest_of(same[0])
    assert all(len(digest_of(pixels)) == 16 for pixels in same)


def test_a_sample_is_spread_over_all(photos: Path) -> None:
    found = inspect(FolderImages(photos), sample=8)
    assert list(found.image_ids) == list(range(0, 64, 8))
    assert found.readable == 8
    assert list(inspect(FolderImages(photos), sample=500).image_ids) == list(range(64))


def test_memory_is_some_bytes_an_image() -> None:
    inspect(Numbers(100))  # what is imported once
    tracemalloc.start()
    found = inspect(Numbers(5_000))
    _, most = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert len(found.images) == 5_000
    assert most < 60 * 5_000 + 100_000


@pytest.mark.parametrize("kind", ["list", "tar", "npy", "zip", "parquet"])
def test_every_source_is_checked(kind: str, photos: Path, tmp_path: Path) -> None:
    images = open_images(source_of_kind(kind, photos, tmp_path))
    found, folder = inspect(images), inspect(FolderImages(photos))
    if kind == "npy":
        assert found.kinds == {(3, "uint8"): 10}
    else:
        assert Counter(found.digests.tolist()) == Counter(folder.digests.tolist())
    assert found.is_usable


def source_of_kind(kind: str, photos: Path, folder: Path) -> Path:
    """Return the photos in another kind of source."""
    files = sorted(photos.rglob("*.png"))
    path = folder / f"photos.{kind}"
    match kind:
        case "list":
            path = folder / "photos.txt"
            path.write_text("".join(f"{file}\n" for file in files))
        case "tar" | "zip":
            shutil.make_archive(str(folder / "photos"), kind, photos)
        case "npy":
            np.save(path, np.random.default_rng(0).integers(0, 256, (10, 9, 9, 3), np.uint8))
        case "parquet":
            arrow = pytest.importorskip("pyarrow")
            pytest.importorskip("pyarrow.parquet").write_table(
                arrow.table({"image": [file.read_bytes() for file in files]}), path
            )
    return path


def inspection_of(images: list[Pixels]) -> Inspection:
    return inspect(SequenceImages(images))


def test_words_on_kinds_and_sizes() -> None:
    draw = np.random.default_rng(0)
    deep = [draw.integers(0, 65536, (600, 600, 2), dtype=np.uint16) for _ in range(16)]
    found = inspection_of(deep)
    told = "\n".join(verdict(found, find_duplicates(found), None))
    assert "2 channels of 16 bits" in told
    assert "moco data stats" in told
    assert "moco data pack" in told
    assert "training would go: every image can be used" in told
    small = inspection_of([draw.integers(0, 256, (9, 9, 3), dtype=np.uint8) for _ in range(5)])
    told = "\n".join(verdict(small, find_duplicates(small), None))
    assert "8-bit photographs" in told
    assert "training needs at least 16 images" in told
    assert "shorter sides below 32 pixels: 5 images" in told
