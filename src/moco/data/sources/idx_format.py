"""Images in the IDX format of MNIST, plain or compressed by gzip."""

from __future__ import annotations

import gzip
import math
import re
import zlib
from collections.abc import Sequence
from pathlib import Path
from typing import IO, Any

import numpy as np
from numpy.typing import NDArray

from moco.data.sources.base import Source, class_names, one_line
from moco.data.sources.records import (
    RecordFile,
    RecordImages,
    UnpackedImages,
    layout_of_stack,
)
from moco.data.sources.zip_members import is_bomb
from moco.errors import DataError

NAME = re.compile(r".*images(?P<mark>[-.])idx[34]-ubyte(\.gz)?")
MOST_UNPACKED = 8 << 30
READ_ERRORS = (OSError, EOFError, zlib.error)


def open_idx(path: Path, *, cache_bytes: int = 0) -> Source:
    """Return the images of an IDX file of bytes with 3 or 4 axes, laid out as for `open_npy`.

    Labels are in the file of the same name with `labels` and `idx1` beside it, if there is one.

    Raises:
        DataError: It is no such file, or its size is not the one that it promises.
    """
    is_packed = path.suffix == ".gz"
    shape, begin = _read_shape(path, (3, 4))
    layout = layout_of_stack(str(path), shape, np.dtype(np.uint8))
    size, expected = path.stat().st_size, begin + math.prod(shape)
    if not is_packed:
        if size != expected:
            raise DataError(
                f"{path} has {size} bytes, expected {expected} for {list(shape)}; copy it again"
            )
        record = RecordFile(path, shape[0], begin, stride=layout.nbytes)
        return _PlainIdx(path, [record], layout, cache_bytes=cache_bytes)
    if expected > MOST_UNPACKED or is_bomb(size, expected):
        raise DataError(f"{path} promises {expected} bytes from {size}; unpack it by gunzip first")
    images = _PackedIdx(path, layout, shape[0])
    images.unpack()
    return images


def pick_file(names: Sequence[str]) -> str | None:
    """Return which of a folder's files to use: training images where there are any."""
    found = sorted(name for name in names if NAME.fullmatch(Path(name).name))
    training = [name for name in found if "train" in Path(name).name]
    return next(iter(training or found), None)


class _PlainIdx(RecordImages):
    def labels(self) -> list[str] | None:
        """Return the labels in the file beside."""
        return _labels_beside(self.path, len(self))


class _PackedIdx(UnpackedImages):
    def _unpack(self) -> NDArray[Any]:
        return _read_values(self.path, (self.count, *self.layout.shape))

    def labels(self) -> list[str] | None:
        """Return the labels in the file beside."""
        return _labels_beside(self.path, len(self))


def _labels_beside(path: Path, count: int) -> list[str] | None:
    found = NAME.fullmatch(path.name)
    if found is None:
        return None
    start = path.name[: found.start("mark")].removesuffix("images")
    stem = f"{start}labels{found['mark']}idx1-ubyte"
    files = [path.with_name(stem), path.with_name(f"{stem}.gz")]
    file = next((file for file in files if file.is_file()), None)
    if file is None:
        return None
    shape, _ = _read_shape(file, (1,))
    if shape != (count,):
        raise DataError(f"{file} has {shape[0]} labels, expected {count} as {path.name} has images")
    return class_names(_read_values(file, shape), [])


def _open(path: Path) -> IO[bytes] | gzip.GzipFile:
    return gzip.open(path) if path.suffix == ".gz" else open(path, "rb")


def _read_shape(path: Path, axes: tuple[int, ...]) -> tuple[tuple[int, ...], int]:
    """Return the shape that a file promises and where its values begin."""
    try:
        with _open(path) as file:
            magic = file.read(4)
            sides = file.read(4 * magic[3]) if len(magic) == 4 else b""
    except READ_ERRORS as error:
        raise DataError(f"{path} cannot be read: {one_line(error)}") from error
    if len(magic) < 4 or magic[:3] != b"\0\0\x08" or magic[3] not in axes:
        kinds = " or ".join(f"0x0000080{number}" for number in axes)
        raise DataError(
            f"{path} begins with 0x{magic.hex()}, expected {kinds} as IDX files of bytes; "
            "name an IDX file of images, or another kind of source"
        )
    if len(sides) != 4 * magic[3]:
        raise DataError(f"{path} ends within its header; it was cut off: copy it again")
    return tuple(np.frombuffer(sides, ">u4").tolist()), 4 + len(sides)


def _read_values(path: Path, shape: tuple[int, ...]) -> NDArray[np.uint8]:
    """Return a file's values, no more of them than it promises."""
    count = math.prod(shape)
    try:
        with _open(path) as file:
            file.read(4 + 4 * len(shape))
            values = np.frombuffer(file.read(count + 1), np.uint8)
    except READ_ERRORS as error:
        raise DataError(f"{path} cannot be unpacked: {one_line(error)}") from error
    if len(values) != count:
        more = "more" if len(values) > count else len(values)
        raise DataError(
            f"{path} has {more} values, expected {count} for {list(shape)}; copy it again"
        )
    return values.reshape(shape)
