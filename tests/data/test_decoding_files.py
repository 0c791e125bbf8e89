"""What may lie in a folder of images: each file is used, or skipped with a reason."""

from __future__ import annotations

import errno
import os
import socket
from pathlib import Path

import pytest
from test_image_zoo import ZOO

from moco.data.decoding import decode, files, read_bytes
from moco.data.images import UnreadableImageError

ODD_NAMES = [
    "new\nline.png",
    "caf\u00e9 \u65e5\u672c.png",
    "x" * 251 + ".png",
    "-rf.png",
    "'\"$(x).png",
]


def odd_files(folder: Path) -> tuple[set[bytes], dict[bytes, str]]:
    """Make what else may lie in a folder; return names to be used, and reasons of the others."""
    for name in ODD_NAMES:
        (folder / name).write_bytes(ZOO["png colour"].content)
    not_text = b"\xff\xfe.png"
    Path(os.fsdecode(os.fsencode(folder) + b"/" + not_text)).write_bytes(ZOO["gif"].content)
    (folder / "linked.jpg").symlink_to(folder / ODD_NAMES[0])
    (folder / "folder.jpg").mkdir()
    os.mkfifo(folder / "pipe.jpg")
    (folder / "loop.jpg").symlink_to(folder / "loop.jpg")
    (folder / "nowhere.jpg").symlink_to(folder / "none.jpg")
    (folder / "device.jpg").symlink_to("/dev/zero")
    with socket.socket(socket.AF_UNIX) as listener:
        here = os.getcwd()
        os.chdir(folder)  # the name of a socket is short
        listener.bind("socket.jpg")
        os.chdir(here)
    used = {os.fsencode(name) for name in [*ODD_NAMES, "linked.jpg"]} | {not_text}
    return used, {
        b"folder.jpg": "not a regular file but a folder",
        b"pipe.jpg": "not a regular file but a pipe",
        b"device.jpg": "not a regular file but a device",
        b"loop.jpg": "cannot be opened (Too many levels of symbolic links)",
        b"nowhere.jpg": "a link to what is not there",
        b"socket.jpg": "cannot be opened (No such device or address)",
    }


@pytest.mark.timeout(20)
def test_every_file_is_used_or_skipped_with_a_reason(tmp_path: Path) -> None:
    used, reasons = odd_files(tmp_path)
    for number, (name, kind) in enumerate(ZOO.items()):
        path = f"{number} {name.replace('/', ' ')}.jpg"
        (tmp_path / path).write_bytes(kind.content)
        if kind.pixels is not None:
            used.add(path.encode())
    found, skipped = set(), {}
    for path in os.listdir(os.fsencode(tmp_path)):
        try:
            decode(read_bytes(tmp_path / os.fsdecode(path)), os.fsdecode(path))
            found.add(path)
        except UnreadableImageError as error:
            skipped[path] = str(error)
    assert found == used
    assert not [reason for reason in skipped.values() if str(tmp_path) in reason]
    assert skipped.items() >= reasons.items()
    assert len(found) + len(skipped) == len(ZOO) + len(ODD_NAMES) + 8
    assert len(ZOO) >= 45


@pytest.mark.skipif(os.geteuid() == 0, reason="root reads everything")
def test_a_file_that_must_not_be_read_says_so(tmp_path: Path) -> None:
    (tmp_path / "x.jpg").write_bytes(ZOO["png colour"].content)
    (tmp_path / "x.jpg").chmod(0)
    with pytest.raises(UnreadableImageError, match="Permission denied"):
        read_bytes(tmp_path / "x.jpg")


@pytest.mark.parametrize("number", [errno.EACCES, errno.EIO, errno.ENFILE])
def test_what_the_system_refuses_says_so(
    number: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "x.jpg"
    path.write_bytes(bytes(9))

    def refusing(*call: object) -> None:
        raise OSError(number, os.strerror(number), str(path))

    for name in ("open", "fstat", "read"):
        with monkeypatch.context() as patch:
            patch.setattr(os, name, refusing)
            with pytest.raises(UnreadableImageError) as caught:
                read_bytes(path)
        assert os.strerror(number) in str(caught.value)
        assert "x.jpg" not in str(caught.value)


@pytest.mark.parametrize("name", ["x\0.jpg", "\ud800.jpg", "x" * 300])
def test_names_that_no_file_can_have_are_refused(name: str, tmp_path: Path) -> None:
    with pytest.raises(UnreadableImageError, match="name"):
        read_bytes(tmp_path / name)


def test_files_over_the_limit_are_refused_before_they_are_read(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "x.jpg"
    path.write_bytes(bytes(10))
    monkeypatch.setattr(files, "MAX_FILE_BYTES", 10)
    assert read_bytes(path) == bytes(10)
    monkeypatch.setattr(files, "MAX_FILE_BYTES", 9)
    monkeypatch.setattr(os, "read", None)
    with pytest.raises(UnreadableImageError, match="10 bytes are more than the limit of 9"):
        read_bytes(path)


def test_no_file_is_left_open(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe.jpg")
    (tmp_path / "x.jpg").write_bytes(b"x")
    before = len(os.listdir("/proc/self/fd")) if Path("/proc").exists() else 0
    for _ in range(20):
        read_bytes(tmp_path / "x.jpg")
        with pytest.raises(UnreadableImageError):
            read_bytes(tmp_path / "pipe.jpg")
    assert not before or len(os.listdir("/proc/self/fd")) == before
