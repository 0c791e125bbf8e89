"""Features as a NumPy archive: `numpy.load` reads it, without pickles.

Members: features [N, D], labels [N] or [N, Y], paths [N], classes [Y], encoder []. They lie there
as they are, so that features are mapped into memory, not read; dates are left out, so that equal
features make equal files.
"""

from __future__ import annotations

import zipfile
from collections.abc import Sequence
from pathlib import Path
from typing import IO, Any

import numpy as np
from numpy.typing import NDArray

from moco.data.sources.array_header import ArrayHeader, read_header
from moco.data.sources.base import one_line
from moco.data.sources.files import OpenFiles
from moco.data.sources.zip_members import Stored, content_place, is_bomb, open_directory
from moco.errors import DataError
from moco.evaluation.stored_features import StoredFeatures

MOST_WORD_BYTES = 4 << 30
"""Of an array of names."""
READ_ERRORS = (OSError, ValueError, EOFError, zipfile.BadZipFile, NotImplementedError, KeyError)


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
        words: dict[str, NDArray[Any] | None] = {
            "labels": stored.labels,
            "paths": _words(stored.paths) if stored.paths else None,
            "classes": _words(stored.classes),
            "encoder": np.array(stored.encoder),
        }
        for name, values in words.items():
            if values is not None:
                with archive.open(zipfile.ZipInfo(f"{name}.npy"), "w", force_zip64=True) as member:
                    np.lib.format.write_array(member, values, allow_pickle=False)


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
            members = {info.filename: info for info in archive.infolist()}
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
        if header.fortran_order or header.dtype.byteorder == ">" or 0 in header.shape:
            found = self.array("features")
            return np.ascontiguousarray(found).astype(_native(header.dtype))
        return np.memmap(self.path, dtype=header.dtype, mode="c", offset=place, shape=header.shape)

    def array(self, name: str) -> NDArray[Any] | None:
        """Return an array in memory, None where there is none of that name."""
        info = self.members.get(f"{name}.npy")
        if info is None:
            return None
        if is_bomb(info.compress_size, info.file_size):
            raise ValueError(f"{name} would unpack to {info.file_size} bytes")
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
    if header.dtype.kind in "US" and header.nbytes > MOST_WORD_BYTES:
        raise ValueError(f"{info.filename} holds {header.nbytes} bytes of words")
    return header


def _plain(file: IO[bytes]) -> NDArray[Any]:
    values: NDArray[Any] = np.lib.format.read_array(file, allow_pickle=False)
    return values


def _native(dtype: np.dtype[Any]) -> np.dtype[Any]:
    return dtype.newbyteorder("=")


def _words(words: Sequence[str]) -> NDArray[Any]:
    return np.array(list(words)) if words else np.array([], "<U1")
