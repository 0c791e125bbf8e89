"""Packed images are the same images in the same order, however often packing was killed."""

from __future__ import annotations

import errno
import json
import os
import shutil
import signal
import tarfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from io import BytesIO
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from moco.data.decoding import decode
from moco.data.images import Pixels, UnreadableImageError
from moco.data.sources.folder import FolderImages
from moco.data.sources.opening import open_images
from moco.data.sources.sequence import SequenceImages
from moco.data_tools.encoding import Encoding, encode, shrunk
from moco.data_tools.pack import Packed, check_apart, label_bytes, pack, plain_name, stored_bytes
from moco.data_tools.shards import read_index
from moco.errors import DataError, InterruptedRunError, StorageError, UsageError

LOSSLESS = Encoding(side=None, lossless=True)
SMALL_SHARDS = 40_000


def packed(source: Path, out: Path, encoding: Encoding = LOSSLESS, **options: Any) -> Packed:
    options = {"shard_bytes": SMALL_SHARDS, **options}
    return pack(open_images(source), out, encoding, name="photos", **options)


def contents(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in sorted(folder.iterdir())}


@pytest.fixture(scope="module")
def broken_photos(photos: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return 200 images, one of which cannot be read, in class folders."""
    folder = tmp_path_factory.mktemp("pack") / "source"
    for number in range(3):
        shutil.copytree(photos, folder / f"class{number}")
    (folder / "class1" / "even" / "07.png").write_bytes(b"\x89PNG\r\n\x1a\n")
    return folder


@pytest.fixture(scope="module")
def unbroken(broken_photos: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, bytes]:
    """Return the files that one call writes."""
    out = tmp_path_factory.mktemp("pack") / "unbroken"
    packed(broken_photos, out)
    return contents(out)


@pytest.mark.parametrize("workers", [0, 2])
def test_lossless_keeps_pixels_order_and_labels(
    broken_photos: Path, unbroken: dict[str, bytes], tmp_path: Path, workers: int
) -> None:
    found = packed(broken_photos, tmp_path / "out", workers=workers)
    assert contents(tmp_path / "out") == unbroken
    source, images = open_images(broken_photos), open_images(tmp_path / "out")
    bad = [n for n in range(193) if source.name(n) == "class1/even/07.png"]
    kept = [n for n in range(len(source)) if n not in bad]
    assert (len(source), len(images), found.new_images) == (193, 192, 192)
    for image_id, original in enumerate(kept):
        pixels = images.read(image_id)
        assert pixels.dtype == np.uint8
        np.testing.assert_array_equal(pixels, source.read(original))
        assert images.name(image_id).endswith(f"/{original:06}.png")
    labels = source.labels()
    assert labels is not None
    assert images.labels() == [labels[original] for original in kept]
    assert len(images.shard_sizes()) == len(found.index.shards) > 4
    skipped = found.index.skipped
    assert [(image.image, image.name) for image in skipped] == [(bad[0], "class1/even/07.png")]


def test_members_tell_nothing_of_the_machine(unbroken: dict[str, bytes]) -> None:
    for name, content in unbroken.items():
        if name == "index.json":
            continue
        assert len(content) <= SMALL_SHARDS + 10_240
        with tarfile.open(fileobj=BytesIO(content)) as archive:
            members = archive.getmembers()
        names = [member.name for member in members]
        assert names == sorted(names, key=lambda name: (name[:6], name.endswith(".cls")))
        for member in members:
            about = (member.mtime, member.uid, member.gid, member.uname, member.gname, member.mode)
            assert about == (0, 0, 0, "", "", 0o644)
            assert member.isreg()


def test_the_index_adds_up(unbroken: dict[str, bytes]) -> None:
    index = json.loads(unbroken["index.json"])
    assert index["complete"] is True
    assert index["images"] == 192 == sum(shard["images"] for shard in index["shards"])
    assert [shard["file"] for shard in index["shards"]] == sorted(set(unbroken) - {"index.json"})
    assert [shard["bytes"] for shard in index["shards"]] == [
        len(unbroken[shard["file"]]) for shard in index["shards"]
    ]
    ends = [shard["end"] for shard in index["shards"]]
    assert [shard["first"] for shard in index["shards"]] == [0, *ends[:-1]]
    assert ends[-1] == 193
    assert index["skipped"][0]["reason"]


def test_jpeg_is_the_same_image_with_a_shorter_side_of_at_most_side(tmp_path: Path) -> None:
    draw = np.random.default_rng(0)
    folder, sizes = tmp_path / "photos", [(40, 90), (90, 41), (64, 64), (20, 30), (33, 33)]
    folder.mkdir()
    for number, (height, width) in enumerate(sizes):
        corners = draw.integers(0, 256, (2, 2) if number == 2 else (2, 2, 3), dtype=np.uint8)
        Image.fromarray(corners).resize((width, height)).save(folder / f"{number}.png")
    packed(folder, tmp_path / "out", Encoding(side=32, quality=95))
    source, images = open_images(folder), open_images(tmp_path / "out")
    assert images.labels() is None
    assert [images.read(n).shape[:2] for n in range(5)] == [
        (32, 72),
        (70, 32),
        (32, 32),
        (20, 30),
        (32, 32),
    ]
    for number in range(5):
        pixels, original = images.read(number), source.read(number)
        assert pixels.shape[2] == original.shape[2]
        height, width = pixels.shape[:2]
        shown = Image.fromarray(np.squeeze(original)).resize((width, height))
        apart = np.abs(np.squeeze(pixels).astype(float) - np.asarray(shown))
        assert apart.mean() < 4
    with tarfile.open(tmp_path / "out" / "photos-000000.tar") as archive:
        file = archive.extractfile("000000.jpg")
        assert file is not None
        picture = Image.open(file)
        assert picture.format == "JPEG"
        assert [layer[1:3] for layer in picture.layer] == [(2, 2), (1, 1), (1, 1)]  # 4:2:0


def test_shrinking_is_antialiased() -> None:
    stripes = np.indices((64, 64))[1] % 8 == 0  # where interpolation alone looks at none of them
    for dtype, white, grey in (
        (np.uint8, 200, 25),
        (np.uint16, 40005, 5001),
        (np.float32, 2, 0.25),
    ):
        pixels = (stripes * white).astype(dtype)[:, :, None]
        small = shrunk(pixels, 8)
        assert (small.shape, small.dtype) == ((8, 8, 1), dtype)
        middle = small[:, 1:-1]  # whose filter does not reach over the edge
        np.testing.assert_allclose(middle.astype(float), grey, rtol=0.02)
        if dtype == np.uint16:
            exact = shrunk(pixels.astype(np.float32), 8)
            np.testing.assert_array_equal(small, np.rint(exact))
    assert shrunk(pixels, 64) is pixels
    assert shrunk(pixels, None) is pixels


@settings(max_examples=150, deadline=None)
@given(
    height=st.integers(1, 20),
    width=st.integers(1, 20),
    channels=st.integers(1, 14),
    dtype=st.sampled_from([np.uint8, np.uint16, np.float32]),
)
def test_what_is_written_lossless_is_read_again(
    height: int, width: int, channels: int, dtype: type[Any]
) -> None:
    pixels: Pixels = np.arange(height * width * channels).reshape(height, width, channels)
    pixels = (pixels * 7 % 251).astype(dtype)
    try:
        suffix, content = encode(pixels, LOSSLESS)
    except UnreadableImageError:
        assert channels > height
        assert channels >= width
        return
    read = decode(content, f"a{suffix}")
    assert read.dtype == pixels.dtype
    np.testing.assert_array_equal(read, pixels)
    assert (suffix == ".png") is (dtype == np.uint8 and channels in (1, 3))


class Killed:
    """Ends the process at its n-th write to the disk."""

    def __init__(self, moment: int) -> None:
        self.moment, self.writes = moment, 0

    def after(self, function: Callable[..., Any]) -> Callable[..., Any]:
        def counted(*words: Any, **more: Any) -> Any:
            self.writes += 1
            if self.writes == self.moment:
                os.kill(os.getpid(), signal.SIGKILL)
            return function(*words, **more)

        return counted


def pack_and_die(source: Path, out: Path, moment: int, **options: int) -> bool:
    """Pack in a process that kills itself at a moment; say whether it came to that."""
    child = os.fork()
    if child == 0:
        code = 1
        try:
            killed = Killed(moment)
            os.fsync, os.replace = killed.after(os.fsync), killed.after(os.replace)
            os.mkdir = killed.after(os.mkdir)
            tarfile.TarFile.addfile = killed.after(tarfile.TarFile.addfile)  # type: ignore[method-assign]
            packed(source, out, **options)
            code = 0
        finally:
            os._exit(code)
    _, status = os.waitpid(child, 0)
    assert os.WIFSIGNALED(status) or os.WEXITSTATUS(status) == 0
    return os.WIFSIGNALED(status)


def test_killed_at_every_write_and_finished_the_bytes_are_the_same(
    photos: Path, tmp_path: Path
) -> None:
    source = tmp_path / "photos"
    for path in sorted(photos.glob("even/*.png"))[:6]:
        (source / "even").mkdir(parents=True, exist_ok=True)
        shutil.copy(path, source / "even")
    packed(source, tmp_path / "unbroken", shard_bytes=8_000)
    wanted = contents(tmp_path / "unbroken")
    assert len(wanted) >= 3
    moment = leftovers = 0
    while pack_and_die(source, tmp_path / "out", moment + 1, shard_bytes=8_000):
        moment += 1
        out = tmp_path / "out"
        names = {path.name for path in out.iterdir()} if out.exists() else set()
        leftovers += any(".tmp-" in name for name in names)
        for name in names & set(wanted) - {"index.json"}:
            assert (out / name).read_bytes() == wanted[name]  # whole, or not there
        packed(source, out, shard_bytes=8_000)
        assert contents(out) == wanted, f"killed at write {moment}"
        shutil.rmtree(out)
    assert moment > 25
    assert leftovers > 15


def test_killed_again_and_again_it_gets_done(
    broken_photos: Path, unbroken: dict[str, bytes], tmp_path: Path
) -> None:
    kills = 0
    while pack_and_die(broken_photos, tmp_path / "out", 90, workers=kills % 2):
        kills += 1
        assert kills < 50
    assert kills >= 3
    assert contents(tmp_path / "out") == unbroken


@pytest.mark.parametrize("moment", [1, 2, 3, 4, 5, 6, 7, 12])
def test_a_full_disk_leaves_nothing_half_done(
    moment: int, photos: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    done = 0
    sync = os.fsync

    def full(handle: int) -> None:
        nonlocal done
        done += 1
        if done == moment:
            raise OSError(errno.ENOSPC, "No space left on device")
        sync(handle)

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(StorageError, match="No space left on device; make room"):
        packed(photos, tmp_path / "out")
    left = contents(tmp_path / "out") if (tmp_path / "out").exists() else {}
    assert not [name for name in left if ".tmp-" in name]
    packed(photos, tmp_path / "out")
    after = contents(tmp_path / "out")
    assert all(after[name] == content for name, content in left.items() if name != "index.json")
    packed(photos, tmp_path / "unbroken")
    assert after == contents(tmp_path / "unbroken")


def test_asked_to_stop_it_keeps_whole_shards(photos: Path, tmp_path: Path) -> None:
    asked = iter([None] * 40)
    with pytest.raises(InterruptedRunError, match="the same command goes on") as stopped:
        packed(photos, tmp_path / "out", stop=lambda: next(asked, 75))
    assert stopped.value.exit_code == 75
    index = read_index(tmp_path / "out")
    assert index is not None
    assert 0 < index.images < 64
    assert not index.complete
    assert set(contents(tmp_path / "out")) == {"index.json", *(s.file for s in index.shards)}
    found = packed(photos, tmp_path / "out")
    assert found.new_images == 64 - index.images


def test_a_shard_that_was_lost_or_cut_is_made_again(
    broken_photos: Path, unbroken: dict[str, bytes], tmp_path: Path
) -> None:
    out = tmp_path / "out"
    packed(broken_photos, out)
    assert packed(broken_photos, out).new_images == 0
    (out / "photos-000002.tar").unlink()
    assert packed(broken_photos, out).new_images > 0
    assert contents(out) == unbroken
    os.truncate(out / "photos-000001.tar", 1000)
    packed(broken_photos, out)
    assert contents(out) == unbroken


@pytest.mark.parametrize(
    ("change", "told"),
    [
        ({"encoding": Encoding(side=None, lossless=True)}, "lossless False -> True"),
        ({"encoding": Encoding(side=16)}, "side 32 -> 16"),
        ({"encoding": Encoding(side=32, quality=80)}, "quality 90 -> 80"),
        ({"shard_bytes": 50_000}, "shard_bytes 40000 -> 50000"),
        ({"source": "even"}, "images 64 -> 32, .*other images"),
    ],
)
def test_other_settings_or_images_are_refused(
    change: dict[str, Any], told: str, photos: Path, tmp_path: Path
) -> None:
    packed(photos, tmp_path / "out", Encoding(side=32))
    before = contents(tmp_path / "out")
    options = {"encoding": Encoding(side=32), **change}
    source = photos / options.pop("source", "")
    with pytest.raises(UsageError, match=told):
        packed(source, tmp_path / "out", **options)
    assert contents(tmp_path / "out") == before


@contextmanager
def refused(out: Path) -> Iterator[pytest.ExceptionInfo[UsageError]]:
    before = contents(out)
    with pytest.raises(UsageError, match="holds files of something else") as error:
        yield error
    assert contents(out) == before


def test_foreign_files_are_refused(photos: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    out.mkdir()
    (out / "thesis.txt").write_text("all my work")
    with refused(out) as error:
        packed(photos, out)
    assert "thesis.txt" in str(error.value)
    (out / "thesis.txt").rename(out / "index.json")
    with refused(out):
        packed(photos, out)
    for text in ("[]", "{}", '{"format": "moco-pack 2"}', "[" * 100_000, "\ud800"):
        (out / "index.json").write_text(text, errors="surrogatepass")
        with refused(out):
            packed(photos, out)
    shutil.rmtree(out)
    packed(photos, out)
    (out / "other-000000.tar").touch()
    with refused(out):
        packed(photos, out)
    with pytest.raises(UsageError, match="is a file"):
        packed(photos, out / "index.json")


def test_an_index_cannot_lead_elsewhere(photos: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    packed(photos, out)
    index = json.loads((out / "index.json").read_text())
    for name in ("../../elsewhere", "/tmp/elsewhere", "a/b"):
        (out / "index.json").write_text(json.dumps({**index, "name": name}))
        with refused(out):
            packed(photos, out)
    shutil.rmtree(out)
    out.mkdir()
    for change in ({"name": "../x", "shards": []}, {"shards": [{"file": "a"}]}, {"shards": [1]}):
        (out / "index.json").write_text(json.dumps({**index, **change}))
        with refused(out):
            packed(photos, out)
    (out / "index.json").write_text(json.dumps(index).replace("photos-0", "../photos-0"))
    packed(photos, out)  # those shards are none of ours, and made again
    assert [path.name for path in tmp_path.iterdir()] == ["out"]
    assert sorted(contents(out)) == ["index.json", *(shard["file"] for shard in index["shards"])]


def test_too_many_bad_images_end_it(photos: Path, tmp_path: Path) -> None:
    shutil.copytree(photos, tmp_path / "photos")
    (tmp_path / "photos" / "even" / "a1.png").touch()
    assert packed(tmp_path / "photos", tmp_path / "one").index.images == 64
    (tmp_path / "photos" / "odd" / "a2.png").touch()
    with pytest.raises(DataError, match=r"2 of 66 images .* limit of 1 % \(even/a1.png: ") as error:
        packed(tmp_path / "photos", tmp_path / "two")
    assert "odd/a2.png" in str(error.value)
    assert not [name for name in contents(tmp_path / "two") if ".tmp-" in name]
    assert read_index(tmp_path / "two").complete is False  # type: ignore[union-attr]


def test_bad_images_of_whole_shards_count_when_it_goes_on(photos: Path, tmp_path: Path) -> None:
    shutil.copytree(photos, tmp_path / "photos")
    (tmp_path / "photos" / "even" / "a1.png").touch()
    packed(tmp_path / "photos", tmp_path / "out")
    asked = iter([None] * 60)
    with pytest.raises(InterruptedRunError):
        packed(tmp_path / "photos", tmp_path / "two", stop=lambda: next(asked, 75))
    index = read_index(tmp_path / "two")
    assert index is not None
    assert len(index.skipped) == 1
    (tmp_path / "photos" / "odd" / "63.png").write_bytes(b"")
    with pytest.raises(DataError, match="2 of 65 images cannot be packed"):
        packed(tmp_path / "photos", tmp_path / "two")


def test_nothing_but_bad_images(tmp_path: Path) -> None:
    (tmp_path / "photos").mkdir()
    (tmp_path / "photos" / "a.png").touch()
    with pytest.raises(DataError, match="1 of 1 images cannot be packed"):
        packed(tmp_path / "photos", tmp_path / "out")


def test_deep_images_keep_every_value(tmp_path: Path) -> None:
    draw = np.random.default_rng(0)
    deep = [draw.integers(0, 65536, (20, 30, 1), dtype=np.uint16) for _ in range(3)]
    many = [draw.normal(size=(20, 18, 12)).astype(np.float32) for _ in range(3)]
    images = SequenceImages([*deep, *many], labels=[0, 1, 2, 0, 1, 2])
    pack(images, tmp_path / "out", LOSSLESS, name="deep")
    again = open_images(tmp_path / "out")
    for number, pixels in enumerate([*deep, *many]):
        np.testing.assert_array_equal(again.read(number), pixels)
    assert again.labels() == ["0", "1", "2", "0", "1", "2"]
    pack(images, tmp_path / "small", Encoding(side=12), name="deep")
    small = open_images(tmp_path / "small")
    assert [small.read(number).shape for number in (0, 5)] == [(12, 18, 1), (13, 12, 12)]
    assert small.read(0).dtype == np.uint16


def test_an_array_whose_layout_no_reader_would_know_is_left_out(tmp_path: Path) -> None:
    draw = np.random.default_rng(0)
    images = SequenceImages([draw.normal(size=(9, 9, 2)).astype(np.float32) for _ in range(20)])
    images.items[4] = np.zeros((4, 4, 2), np.float32)  # type: ignore[index]
    wide = np.zeros((4, 5, 5), np.float32)
    with pytest.raises(UnreadableImageError, match="5 channels"):
        encode(wide, LOSSLESS)
    assert pack(images, tmp_path / "out", LOSSLESS, name="a").index.images == 20


@pytest.mark.parametrize(
    ("label", "content"),
    [
        ("cat", b"cat"),
        ("grüße 猫", "grüße 猫".encode()),
        ("\udcff", b"\\udcff"),
        ("a\nb", b"a\nb"),
        (" a", b"\\x20a"),
        ("a\t ", b"a\\x09\\x20"),
        (" ", b"\\x20"),
        ("", b"\\x"),
    ],
)
def test_labels_survive(label: str, content: bytes) -> None:
    assert label_bytes(label) == content
    assert content.decode().strip() == content.decode() != ""


@pytest.mark.parametrize(
    ("path", "name"),
    [
        ("photos", "photos"),
        ("my photos.zip", "my-photos"),
        ("a-{000..010}.tar", "a-000..010"),
        ("-rf", "rf"),
        ("猫", "images"),
        (".hidden", "hidden"),
        ("/", "images"),
        ("x" * 300 + ".tar", "x" * 100),
    ],
)
def test_shards_have_plain_names(path: str, name: str) -> None:
    assert plain_name(Path(path)) == name


def test_no_pack_in_its_own_source(photos: Path, tmp_path: Path) -> None:
    check_apart(photos, tmp_path)
    check_apart(photos / "even", photos)
    for out in (photos, photos / "even" / "packed"):
        with pytest.raises(UsageError, match="lies in the images"):
            check_apart(photos, out)


def test_sizes_before(photos: Path, tmp_path: Path) -> None:
    expected = sum(path.stat().st_size for path in photos.rglob("*.png"))
    assert stored_bytes(photos, FolderImages(photos)) == expected
    shutil.make_archive(str(tmp_path / "photos"), "zip", photos)
    archive = tmp_path / "photos.zip"
    assert stored_bytes(archive, open_images(archive)) == archive.stat().st_size
    packed(photos, tmp_path / "out")
    assert stored_bytes(tmp_path / "out", open_images(tmp_path / "out")) is None
