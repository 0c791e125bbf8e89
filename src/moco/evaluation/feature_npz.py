"""Features as a NumPy archive: `numpy.load` reads it, without pickles.

Members: features [N, D], labels [N] or [N, Y], paths [N], classes [Y], encoder []. They lie there
as they are, so that features are mapped into memory, not read; dates are left out, so that equal
features make equal files.
"""

from __future__ import annotations

import zipfile
import zlib
from collections.abc import Sequence
from pathlib import Path
from typing import IO, Any

import numpy as np
from numpy.typing import NDArray

from moco.data.sources.array_header import ArrayHeader, read_header
from moco.data.sources.base import one_line
from moco.data.sources.files import OpenFiles
from moco.data.sources.zip_members import (
    Stored,
    content_place,
    fault_of_packing,
    is_bomb,
    open_directory,
)
from moco.errors import DataError
from moco.evaluation.stored_features import CHUNK_BYTES, StoredFeatures

WORDS_AT_ONCE = 1 << 16
READ_ERRORS = (
    *(OSError, ValueError, KeyError, EOFError, MemoryError, OverflowError),
    *(zipfile.BadZipFile, zlib.error, NotImplementedError),
)


def write_npz(path: Path, stored: StoredFeatures) -> None:
    """Write the archive; raises OSError."""
    with zipfile.ZipFile(path, "w", zipfile.ZIP_STORED, allowZip64=True) as archive:
        header: dict[str, Any] = {
            "descr": np.lib.format.dtype_to_descr(stored.features.dtype),
            "fortran_order": False,
            "shape": stored.features.shape,
        }
        with archive.open(zipfile.ZipInfo("features.npy"), "w", force_zip64=True) as member:
            np.lib.format.write_array_header_2_0(member, header)
            for chunk in stored.chunks():
                member.write(chunk.data)
        if stored.labels is not None:
            _write_array(archive, "labels", stored.labels)
        if stored.paths:
            _write_words(archive, "paths", stored.paths)
        _write_words(archive, "classes", stored.classes)
        _write_array(archive, "encoder", np.array(stored.encoder))


def _write_array(archive: zipfile.ZipFile, name: str, values: NDArray[Any]) -> None:
    with archive.open(zipfile.ZipInfo(f"{name}.npy"), "w", force_zip64=True) as member:
        np.lib.format.write_array(member, values, allow_pickle=False)


def _write_words(archive: zipfile.ZipFile, name: str, words: Sequence[str]) -> None:
    """Write words a few at a time: each takes the room of the longest."""
    kind = np.dtype(f"<U{max(1, max(map(len, words), default=1))}")
    header = {"descr": kind.str, "fortran_order": False, "shape": (len(words),)}
    with archive.open(zipfile.ZipInfo(f"{name}.npy"), "w", force_zip64=True) as member:
        np.lib.format.write_array_header_1_0(member, header)
        together = max(1, min(WORDS_AT_ONCE, CHUNK_BYTES // kind.itemsize))
        for first in range(0, len(words), together):
            member.write(np.array(words[first : first + together], kind).data.cast("B"))


def has_features(path: Path) -> bool:
    """Return whether a file is an archive with an array of that name."""
    try:
        return "features.npy" in {info.filename for info in open_directory(path)}
    except ValueError:
        return False


def read_npz(path: Path) -> StoredFeatures:
    """Return what the archive holds, features mapped into memory where they lie as they are.

    Raises:
        DataError: It is damaged, or its arrays cannot be used.
    """
    try:
        with zipfile.ZipFile(path) as archive:
            size = path.stat().st_size
            members = {info.filename: _usable(info, size) for info in archive.infolist()}
            read = _Reader(path, archive, members)
            return StoredFeatures(
                read.features(),
                read.array("labels"),
                read.names("paths"),
                read.names("classes"),
                next(iter(read.names("encoder")), ""),
            )
    except READ_ERRORS as error:
        raise DataError(
            f"{path} holds no features that can be read ({one_line(error)}); embed the images again"
        ) from error


class _Reader:
    """The arrays of an open archive."""

    def __init__(
        self, path: Path, archive: zipfile.ZipFile, members: dict[str, zipfile.ZipInfo]
    ) -> None:
        self.path, self.archive, self.members = path, archive, members

    def features(self) -> NDArray[Any]:
        info = self.members["features.npy"]
        if info.compress_type != zipfile.ZIP_STORED:
            found = self.array("features")
            if found is None:
                raise KeyError("features")
            return np.ascontiguousarray(found.astype(_native(found.dtype), copy=False))
        with self.archive.open(info) as file:
            header = _checked(read_header(file), info)
        place = content_place(OpenFiles(), self.path, Stored.of(info)) + header.begin
        if place + header.nbytes > self.path.stat().st_size:
            raise ValueError("it was cut off")
        if 0 in header.shape:
            return np.empty(header.shape, header.dtype)
        mapped: NDArray[Any] = np.memmap(
            self.path,
            dtype=header.dtype,
            mode="c",
            offset=place,
            shape=header.shape,
            order="F" if header.fortran_order else "C",
        )
        if not header.fortran_order and header.dtype.isnative:
            return mapped
        return np.ascontiguousarray(mapped, dtype=_native(header.dtype))

    def array(self, name: str) -> NDArray[Any] | None:
        """Return an array in memory, None where there is none of that name."""
        info = self.members.get(f"{name}.npy")
        if info is None:
            return None
        with self.archive.open(info) as file:
            _checked(read_header(file), info)
        with self.archive.open(info) as file:
            return _plain(file)

    def names(self, name: str) -> Sequence[str]:
        """Return an array of words, empty where there is none of that name."""
        values = self.array(name)
        if values is None:
            return ()
        if values.dtype.kind not in "US" or values.ndim > 1:
            raise ValueError(f"{name} is {values.dtype} {list(values.shape)}, no list of words")
        if values.dtype.kind == "S":
            return [word.decode("utf-8", "replace") for word in values.ravel().tolist()]
        return [str(word) for word in values.ravel()]


def _checked(header: ArrayHeader, info: zipfile.ZipInfo) -> ArrayHeader:
    if header.begin + header.nbytes != info.file_size:
        raise ValueError(f"{info.filename} promises {header.nbytes} bytes and holds other")
    return header


def _usable(info: zipfile.ZipInfo, size: int) -> zipfile.ZipInfo:
    """Return a member that takes no more memory than its archive of so many bytes accounts for."""
    fault = fault_of_packing(Stored.of(info))
    if fault is not None:
        raise ValueError(f"{info.filename}: {fault}")
    if info.compress_size > size:
        raise ValueError(f"{info.filename} promises more bytes than the file has")
    unpacked = info.file_size != info.compress_size and info.compress_type == zipfile.ZIP_STORED
    if unpacked or is_bomb(info.compress_size, info.file_size):
        raise ValueError(f"{info.filename} would unpack to {info.file_size} bytes")
    return info


def _plain(file: IO[bytes]) -> NDArray[Any]:
    values: NDArray[Any] = np.lib.format.read_array(file, allow_pickle=False)
    return values


def _native(dtype: np.dtype[Any]) -> np.dtype[Any]:
    return dtype.newbyteorder("=")
