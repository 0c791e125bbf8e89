from __future__ import annotations

import gc
import io
import os
import tarfile
import time
import tracemalloc
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from any_damage import check_errors, same_draws
from hypothesis import given
from hypothesis import strategies as st
from source_makers import ENCODED, add, contents, png, write_tar

from moco.data.images import StoredImages, UnreadableImageError
from moco.data.sources.files import MOST_OPEN
from moco.data.sources.names import is_image
from moco.data.sources.opening import open_images
from moco.data.sources.tar_index import scan_tar
from moco.data.sources.tar_shards import TarImages
from moco.errors import DataError

GOOD = png()


def names(images: StoredImages) -> list[str]:
    return [images.name(number) for number in range(len(images))]


def tar_bytes(*members: tuple[str, bytes, bytes], format: int = tarfile.GNU_FORMAT) -> bytes:
    """Return a tar archive of members (name, kind, content)."""
    file = io.BytesIO()
    with tarfile.open(fileobj=file, mode="w", format=format) as archive:
        for name, kind, content in members:
            add(archive, name, content, kind)
    return file.getvalue()


def test_only_image_members_count_and_only_safe_names(tmp_path: Path) -> None:
    harmless = ("a/1.png", "a/x.pyd", "a/x.pkl", "a/x.pth", "x.py", "a/2.PNG", "a/._1.png")
    kinds = dict.fromkeys(harmless, (b"0", GOOD))
    hostile = ["../up.png", "a/../../up.png", "/etc/up.png", "..\\up.png", "C:\\up.png"]
    kinds |= dict.fromkeys(hostile, (b"0", GOOD))
    kinds |= {"s.png": (tarfile.SYMTYPE, b""), "l.png": (tarfile.LNKTYPE, b"")}
    kinds |= {"c.png": (tarfile.CHRTYPE, b""), "b.png": (tarfile.BLKTYPE, b"")}
    kinds |= {"f.png": (tarfile.FIFOTYPE, b""), "d.png": (tarfile.DIRTYPE, b"")}
    kinds |= {"./b/3.png": (b"0", GOOD), "a/..png": (b"0", GOOD), "a/..b.png": (b"0", GOOD)}
    path = tmp_path / "deep" / "x.tar"
    path.parent.mkdir()
    path.write_bytes(tar_bytes(*((name, kind, data) for name, (kind, data) in kinds.items())))
    before = sorted(tmp_path.rglob("*"))
    images = TarImages([path])
    assert names(images) == ["a/..b.png", "a/1.png", "a/2.PNG", "b/3.png"]
    assert sorted(name for name, _ in images.damaged) == sorted(f"x.tar/{name}" for name in hostile)
    for number in range(len(images)):
        images.read(number)
    images.labels()
    assert sorted(tmp_path.rglob("*")) == before


def test_a_member_that_is_a_program_is_never_run(tmp_path: Path) -> None:
    canary = tmp_path / "canary"
    program = b"cos\nsystem\n(S'touch %s'\ntR." % os.fsencode(canary)
    suffixes = (".pyd", ".pkl", ".pth", ".npy", ".png", ".cls", ".json")
    files = {f"a/1{suffix}": program for suffix in suffixes} | {"a/2.png": GOOD}
    images = TarImages([write_tar(tmp_path / "x.tar", files)])
    assert names(images) == ["a/1.npy", "a/1.png", "a/2.png"]
    for number in range(2):
        with pytest.raises(UnreadableImageError):
            images.read(number)
    assert images.labels() == ["a", "a", "a"]
    assert not canary.exists()


def test_links_out_of_the_archive_are_not_followed(tmp_path: Path) -> None:
    (tmp_path / "secret.png").write_bytes(GOOD)
    with tarfile.open(tmp_path / "x.tar", "w") as archive:
        for kind in (tarfile.SYMTYPE, tarfile.LNKTYPE):
            link = tarfile.TarInfo(f"link{int(kind)}.png")
            link.type, link.linkname = kind, str(tmp_path / "secret.png")
            archive.addfile(link)
    with pytest.raises(DataError, match="no image in"):
        TarImages([tmp_path / "x.tar"])


def test_members_of_one_name_are_images_each(tmp_path: Path) -> None:
    first, second = png(1), png(2)
    path = tmp_path / "x.tar"
    path.write_bytes(
        tar_bytes(("b.png", b"0", first), ("a.png", b"0", GOOD), ("b.png", b"0", second))
    )
    images = TarImages([path])
    assert names(images) == ["a.png", "b.png", "b.png"]
    assert not np.array_equal(images.read(1), images.read(2))


@pytest.mark.parametrize("format", [tarfile.GNU_FORMAT, tarfile.PAX_FORMAT, tarfile.USTAR_FORMAT])
def test_long_and_foreign_names(format: int, tmp_path: Path) -> None:
    long = "/".join(["folder-of-some-length"] * 8)
    given = {f"{long}/1.png", "café 日本.png", "new\nline.png"}
    if format != tarfile.USTAR_FORMAT:
        given |= {"x" * 1000 + ".png", "ü" * 120 + ".png"}
    files = {name: png(number) for number, name in enumerate(sorted(given))}
    images = TarImages([write_tar(tmp_path / "x.tar", files, format=format)])
    assert names(images) == sorted(given)
    assert images.damaged == []
    for number in range(len(images)):
        assert images.read(number).shape == (8, 8, 3)


def test_names_that_are_no_text_are_kept(tmp_path: Path) -> None:
    with tarfile.open(tmp_path / "x.tar", "w", errors="surrogateescape") as archive:
        add(archive, "\udcff\udcfe.png", GOOD)
    images = TarImages([tmp_path / "x.tar"])
    assert names(images) == ["\udcff\udcfe.png"]
    assert len(images.fingerprint()) == 64


def test_a_size_in_a_pax_header_counts(tmp_path: Path) -> None:
    body = GOOD + bytes(-len(GOOD) % 512)
    member = tarfile.TarInfo("a.png")
    member.size = len(GOOD)
    member.pax_headers = {"size": str(len(GOOD))}
    plain = tarfile.TarInfo("b.png")
    plain.size = len(GOOD)
    whole = member.tobuf(tarfile.PAX_FORMAT)
    header = bytearray(whole[-512:])
    header[124:136] = b"00000000000\0"
    header[148:156] = b"        "
    header[148:156] = b"%06o\0 " % sum(header)
    archive = whole[:-512] + bytes(header) + body + plain.tobuf() + body + bytes(1024)
    (tmp_path / "x.tar").write_bytes(archive)
    images = TarImages([tmp_path / "x.tar"])
    assert names(images) == ["a.png", "b.png"]
    np.testing.assert_array_equal(images.read(0), images.read(1))


def test_a_binary_size_counts(tmp_path: Path) -> None:
    archive = bytearray(tar_bytes(("a.png", b"0", GOOD), ("b.png", b"0", GOOD)))
    archive[124:136] = b"\x80" + len(GOOD).to_bytes(11, "big")
    archive[148:156] = b"        "
    archive[148:156] = b"%06o\0 " % sum(archive[:512])
    (tmp_path / "x.tar").write_bytes(archive)
    assert names(TarImages([tmp_path / "x.tar"])) == ["a.png", "b.png"]


def test_sparse_files_are_left_out_and_what_follows_is_read(tmp_path: Path) -> None:
    with tarfile.open(tmp_path / "x.tar", "w", format=tarfile.PAX_FORMAT) as archive:
        sparse = tarfile.TarInfo("a.png")
        sparse.size, sparse.pax_headers = len(GOOD), {"GNU.sparse.major": "1"}
        archive.addfile(sparse, io.BytesIO(GOOD))
        add(archive, "b.png", GOOD)
    images = TarImages([tmp_path / "x.tar"])
    assert names(images) == ["b.png"]
    assert images.damaged == [("x.tar/a.png", "it is stored as a sparse file")]


def test_old_gnu_sparse_files_are_skipped_with_their_maps(tmp_path: Path) -> None:
    header = bytearray(tar_bytes(("a.png", b"S", GOOD))[:512])
    header[482] = 1
    header[148:156] = b"        "
    header[148:156] = b"%06o\0 " % sum(header)
    maps = bytes(504) + b"\1" + bytes(7) + bytes(512)
    body = GOOD + bytes(-len(GOOD) % 512)
    (tmp_path / "x.tar").write_bytes(bytes(header) + maps + body + tar_bytes(("b.png", b"0", GOOD)))
    images = TarImages([tmp_path / "x.tar"])
    assert names(images) == ["b.png"]
    assert images.damaged == [("x.tar/a.png", "it is stored as a sparse file")]


@pytest.mark.parametrize("share", [0.01, 0.3, 0.5, 0.9, 0.99])
def test_the_images_before_a_cut_are_used(share: float, tmp_path: Path) -> None:
    files = {f"{number:02}.png": png(number, (16, 16, 3)) for number in range(20)}
    whole = write_tar(tmp_path / "whole.tar", files).read_bytes()[: 20 * 1536]  # no end mark
    cut = whole[: int(len(whole) * share)]
    (tmp_path / "cut.tar").write_bytes(cut)
    full = len(cut) // 1536
    if not full:
        with pytest.raises(DataError, match="cut"):
            TarImages([tmp_path / "cut.tar"])
        return
    images = TarImages([tmp_path / "cut.tar"])
    assert names(images) == sorted(files)[: full + (len(cut) % 1536 > 512 + len(files["00.png"]))]
    assert len(images.damaged) == 1
    assert "cut" in images.damaged[0][1]
    for number in range(len(images)):
        images.read(number)


def test_what_follows_damage_is_left_out_and_said(tmp_path: Path) -> None:
    whole = bytearray(tar_bytes(*((f"{number}.png", b"0", GOOD) for number in range(5))))
    step = 512 + len(GOOD) + -len(GOOD) % 512
    whole[3 * step + 10] ^= 1
    (tmp_path / "x.tar").write_bytes(whole)
    images = TarImages([tmp_path / "x.tar"])
    assert names(images) == ["0.png", "1.png", "2.png"]
    assert images.damaged == [("x.tar", f"damaged at byte {3 * step}; what follows is left out")]


def test_archives_behind_the_end_mark_are_said(tmp_path: Path) -> None:
    one = tar_bytes(("a.png", b"0", GOOD))
    (tmp_path / "x.tar").write_bytes(
        one + tar_bytes(*((f"{n}.png", b"0", GOOD) for n in range(99)))
    )
    images = TarImages([tmp_path / "x.tar"])
    assert names(images) == ["a.png"]
    assert "what follows is left out" in images.damaged[0][1]


def test_a_shard_that_is_no_archive_is_left_out_and_said(tmp_path: Path) -> None:
    write_tar(tmp_path / "a.tar", {"1.png": GOOD})
    (tmp_path / "b.tar").write_bytes(b"<!DOCTYPE html>" * 100)
    (tmp_path / "c.tar").write_bytes(b"")
    os.mkfifo(tmp_path / "d.tar")
    write_tar(tmp_path / "e.tar", {"1.png": GOOD, "2.png": GOOD})
    images = TarImages(sorted(tmp_path.glob("*.tar")))
    assert names(images) == ["a.tar/1.png", "e.tar/1.png", "e.tar/2.png"]
    assert images.shard_sizes().tolist() == [1, 2]
    assert images.damaged == [
        ("b.tar", "not a tar archive"),
        ("c.tar", "not a tar archive"),
        ("d.tar", "not a regular file"),
    ]


def test_no_image_at_all_is_refused(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"no image in .*x\.tar; shards hold image files"):
        TarImages([write_tar(tmp_path / "x.tar", {"a.txt": b"text"})])
    (tmp_path / "y.tar").write_bytes(b"text" * 300)
    with pytest.raises(DataError, match=r"no image in .*y\.tar; y\.tar: not a tar archive"):
        open_images(tmp_path / "y.tar")


def test_many_hostile_members_fill_no_list(tmp_path: Path) -> None:
    many = [(f"../{number}.png", b"0", b"") for number in range(500)]
    (tmp_path / "x.tar").write_bytes(tar_bytes(("a.png", b"0", GOOD), *many))
    images = TarImages([tmp_path / "x.tar"])
    assert len(images.damaged) == 101
    assert images.damaged[-1] == ("x.tar", "400 more of its members are left out")


HOSTILE_HEADERS = {
    "endless pax": ("x", b"99999999999 path=a.png\n"),
    "pax without blank": ("x", b"aaaa"),
    "negative size": ("x", b"12 size=-99\n"),
    "size in words": ("x", b"12 size=abc\n"),
    "record of no length": ("x", b"0 path=a\n"),
    "long pax": ("x", b"a" * 70_000),
    "long name": ("L", b"a" * 70_000),
    "NUL in the name": ("x", b"16 path=a\0b.png\n"),
    "empty name": ("L", b""),
}


@pytest.mark.parametrize("kind", HOSTILE_HEADERS)
def test_hostile_headers_do_no_harm(kind: str, tmp_path: Path) -> None:
    letter, content = HOSTILE_HEADERS[kind]
    members = [("a.png", b"0", GOOD), ("h", letter.encode(), content), ("b.png", b"0", GOOD)]
    (tmp_path / "x.tar").write_bytes(tar_bytes(*members))
    images = TarImages([tmp_path / "x.tar"])
    assert names(images) == ["a.png"]
    assert len(images.damaged) == (kind != "empty name")


def test_a_hundred_thousand_empty_members_take_little(tmp_path: Path) -> None:
    member = tarfile.TarInfo("00000000.jpg").tobuf()
    blank = int(np.frombuffer(member, np.uint8).sum()) - sum(member[148:156]) + 8 * 32
    blocks = []
    for number in range(100_000):
        name = b"%08d" % number
        total = blank + sum(name) - 8 * 48
        blocks.append(name + member[8:148] + b"%06o\0 " % total + member[156:])
    (tmp_path / "x.tar").write_bytes(b"".join(blocks) + bytes(1024))
    began = time.process_time()
    images = TarImages([tmp_path / "x.tar"])
    assert time.process_time() - began < 3
    assert len(images) == 100_000
    assert images.nbytes <= 16 * len(images)
    assert images.name(77_777) == "00077777.jpg"
    with pytest.raises(UnreadableImageError):
        images.read(5)
    few = tmp_path / "few.tar"
    few.write_bytes(b"".join(blocks[:5_000]) + bytes(1024))
    tracemalloc.start()
    kept = TarImages([few])
    gc.collect()
    held, _ = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert held < 16 * len(kept)


def test_contents_are_not_read_when_indexed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    files = {f"{number}.png": bytes(300_000) for number in range(20)}
    path = write_tar(tmp_path / "x.tar", files)
    read = 0
    true_open = open

    class Counting(io.FileIO):
        def read(self, size: int | None = -1, /) -> bytes | None:
            nonlocal read
            found = super().read(size)
            read += len(found or b"")
            return found

    monkeypatch.setattr(
        "builtins.open",
        lambda name, *rest, **more: (
            Counting(name) if name == path else true_open(name, *rest, **more)
        ),
    )
    assert len(scan_tar(path).members) == 20
    assert read < 2 * 300_000


def test_a_changed_shard_is_unreadable_not_a_crash(tmp_path: Path) -> None:
    files = {f"a/{number}.png": png(number) for number in range(9)}
    images = TarImages([write_tar(tmp_path / "x.tar", files)])
    images.read(0)
    os.truncate(tmp_path / "x.tar", 2000)
    with pytest.raises(UnreadableImageError, match=r"x\.tar ends before"):
        images.read(8)
    assert "x.tar" in images.name(8)
    again = TarImages([write_tar(tmp_path / "y.tar", files)])
    (tmp_path / "y.tar").unlink()
    with pytest.raises(UnreadableImageError, match="No such file"):
        again.read(0)
    with pytest.raises(DataError, match="changed meanwhile"):
        again.labels()


def test_labels_need_every_image_and_small_files(tmp_path: Path) -> None:
    files = {"a/1.png": GOOD, "a/1.cls": b"x", "b/2.png": GOOD}
    assert TarImages([write_tar(tmp_path / "1.tar", files)]).labels() == ["a", "b"]
    files["b/2.json"] = b'{"label": 7}'
    assert TarImages([write_tar(tmp_path / "2.tar", files)]).labels() == ["x", "7"]
    files["b/2.cls"] = b" y\n"
    assert TarImages([write_tar(tmp_path / "3.tar", files)]).labels() == ["x", "y"]
    for content in (
        b'{"label": 7}' + b" " * 70_000,
        b"[" * 60_000,
        b"7",
        b'{"label": [[1]]}',
        b'{"label": {"x": 1}}',
        b"\xff",
    ):
        del files["b/2.cls"], files["b/2.json"]
        files |= {"b/2.json": content, "b/2.cls": b"y" * 2000}
        assert TarImages([write_tar(tmp_path / "4.tar", files)]).labels() == ["a", "b"]
    loose = write_tar(tmp_path / "5.tar", {"1.png": GOOD, "a/2.png": GOOD})
    assert TarImages([loose]).labels() is None


def test_images_of_one_sample_share_its_label(tmp_path: Path) -> None:
    files = {"1.left.png": GOOD, "1.right.png": GOOD, "1.cls": b"pair"}
    assert TarImages([write_tar(tmp_path / "x.tar", files)]).labels() == ["pair", "pair"]


def test_more_shards_than_are_kept_open(
    pictures: Path, tmp_path: Path, reads: Callable[..., list[str]]
) -> None:
    for number, (name, content) in enumerate(contents(pictures).items()):
        for copy in range(3):
            write_tar(tmp_path / f"{copy}-{number:02}.tar", {name: content})
    images = open_images(tmp_path)
    assert len(images) == 72
    here = reads(images)
    assert 0 < open_shards() <= MOST_OPEN
    assert reads(images, 2) == here
    del images
    assert open_shards() == 0


def open_shards() -> int:
    places = (os.path.join("/proc/self/fd", number) for number in os.listdir("/proc/self/fd"))
    return sum(os.readlink(place).endswith(".tar") for place in places if os.path.islink(place))


@pytest.mark.parametrize("kind", [b"x", b"g", b"L", b"K", b"0", b"S"])
def test_a_size_that_leads_beyond_all_files_is_damage(kind: bytes, tmp_path: Path) -> None:
    header = bytearray(tar_bytes(("a.png", b"0", b""))[:512])
    header[124:136] = b"\x80" + (1 << 80).to_bytes(11, "big")
    header[156:157] = kind
    header[148:156] = b"        "
    header[148:156] = b"%06o\0 " % sum(header)
    (tmp_path / "x.tar").write_bytes(tar_bytes(("1.png", b"0", GOOD))[:1024] + header + bytes(1024))
    images = TarImages([tmp_path / "x.tar"])
    assert names(images) == ["1.png"]
    assert "cut off" in images.damaged[0][1]


@same_draws(120)
@given(data=st.data())
def test_any_damage_is_an_error_of_ours(data: st.DataObject, tmp_path: Path) -> None:
    format = data.draw(st.sampled_from([tarfile.GNU_FORMAT, tarfile.PAX_FORMAT]))
    members = [("a/1.png", b"0", GOOD), ("é" * 80 + ".png", b"0", GOOD), ("1.cls", b"0", b"x")]
    archive = bytearray(tar_bytes(*members, format=format))
    places = st.integers(0, min(len(archive), 4000) - 1)
    for _ in range(data.draw(st.integers(1, 4))):
        header = data.draw(places) // 512 * 512
        place = header + data.draw(st.sampled_from([*range(0, 6), *range(124, 158), 257, 345]))
        archive[place % len(archive)] = data.draw(st.integers(0, 255))
        if data.draw(st.booleans()):  # a header that adds up all the same
            archive[header + 148 : header + 156] = b"        "
            archive[header + 148 : header + 156] = b"%06o\0 " % sum(archive[header : header + 512])
    if data.draw(st.booleans()):
        del archive[data.draw(places) :]
    (tmp_path / "x.tar").write_bytes(archive)
    images = check_errors(lambda: TarImages([tmp_path / "x.tar"]))
    assert images is None or all(is_image(name) for name in names(images))


def test_a_pattern_names_shards(pictures: Path, tmp_path: Path) -> None:
    ENCODED["tar shards"](pictures, tmp_path)
    assert len(open_images(tmp_path / "train-{000000,000002}.tar")) == 16
    assert len(open_images(tmp_path / "train-00000[01].tar")) == 16
    with pytest.raises(
        DataError, match=r"1 of the files .* do not exist, or are folders, such as .*000003\.tar"
    ):
        open_images(tmp_path / "train-{000000..000003}.tar")
    with pytest.raises(DataError, match="do not exist"):
        open_images(tmp_path / "test-*.tar")
    with pytest.raises(DataError, match="over 100000 files"):
        open_images(tmp_path / "train-{0..99999999999}.tar")
    with pytest.raises(DataError, match="over 100000 files"):
        open_images("/".join(["{0..9}"] * 40) + ".tar")


@pytest.mark.parametrize("command", ["touch canary", "cat x.tar"])
def test_pipes_and_addresses_are_refused(
    command: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    for path in (f"pipe:{command}", "http://a.org/x.tar", "s3://b/x-{0..3}.tar", "file:x.tar"):
        with pytest.raises(DataError, match="only local paths are read") as refused:
            open_images(path)
        assert str(refused.value).startswith(path)  # both slashes of an address
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("name", ["x.tar.gz", "x.tgz", "x.TAR.xz", "x.tar.zst"])
def test_compressed_archives_are_refused_with_the_remedy(name: str, tmp_path: Path) -> None:
    (tmp_path / name).write_bytes(b"\x1f\x8b" + bytes(100))
    for path in (tmp_path / name, tmp_path, tmp_path / "x.*"):
        with pytest.raises(DataError, match=r"unpack it by gunzip .* moco data pack SRC OUT"):
            open_images(path)
