"""Small archives that unpack to much: refused at once, and without the memory for it."""

from __future__ import annotations

import gzip
import io
import struct
import tarfile
import zipfile
from collections.abc import Callable
from pathlib import Path

import pytest
from forked import in_fork

from moco.data.images import UnreadableImageError
from moco.data.sources.opening import open_images
from moco.errors import DataError

ZEROS = bytes(100_000_000)


def tar_of_zeros() -> bytes:
    file = io.BytesIO()
    with tarfile.open(fileobj=file, mode="w") as archive:
        member = tarfile.TarInfo("a.png")
        member.size = len(ZEROS)
        archive.addfile(member, io.BytesIO(ZEROS))
    return file.getvalue()


def zip_of(name: str, content: bytes, *, copies: int = 1) -> bytes:
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w", zipfile.ZIP_DEFLATED) as archive:
        for number in range(copies):
            archive.writestr(f"{number}{name}", content)
    return file.getvalue()


def npy_header(shape: str) -> bytes:
    header = f"{{'descr': '|u1', 'fortran_order': False, 'shape': {shape}, }}".ljust(117) + "\n"
    return b"\x93NUMPY\1\0" + struct.pack("<H", 118) + header.encode()


BOMBS: dict[str, Callable[[], bytes]] = {
    "x.tar.gz": lambda: gzip.compress(tar_of_zeros()),
    "x.tgz": lambda: gzip.compress(tar_of_zeros()),
    "x.tar": lambda: gzip.compress(tar_of_zeros()),
    "image.zip": lambda: zip_of(".png", ZEROS),
    "overfull.npz": lambda: zip_of(".npy", npy_header("(1, 2, 2)") + ZEROS),
    "claims.npz": lambda: zip_of(".npy", npy_header("(99999999, 999, 999)")),
    "claims.npy": lambda: npy_header("(99999999, 999, 999)") + bytes(100),
}


@pytest.mark.parametrize("name", BOMBS)
def test_a_bomb_is_refused_at_once_and_without_its_memory(name: str, tmp_path: Path) -> None:
    path = tmp_path / name
    path.write_bytes(BOMBS[name]())
    assert path.stat().st_size < 1 << 20

    def work() -> str:
        try:
            images = open_images(path)
            for number in range(len(images)):
                images.read(number)
        except (DataError, UnreadableImageError) as error:
            return str(error)
        return ""

    in_fork(work)  # so that the readers' own files are warm
    done = in_fork(work)
    assert done.value, "it was read"
    assert "\n" not in done.value
    assert done.seconds < 0.3, done  # 0.1 on a quiet machine
    assert done.grown < 50 << 20, done
