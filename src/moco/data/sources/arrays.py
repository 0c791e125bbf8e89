"""Images in a NumPy array: a .npy file, or the one in a .npz archive."""

from __future__ import annotations

import zipfile
import zlib
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from moco.data.sources.array_header import ArrayHeader, read_header
from moco.data.sources.base import Source, class_names, one_line
from moco.data.sources.files import OpenFiles
from moco.data.sources.records import (
    Layout,
    RecordFile,
    RecordImages,
    UnpackedImages,
    layout_of_stack,
)
from moco.data.sources.zip_members import Stored, content_place, fault_of_packing, is_bomb
from moco.errors import DataError

IMAGE_ARRAYS = ("images", "x", "x_train", "arr_0")
LABEL_ARRAYS = ("labels", "y", "y_train")
MOST_UNPACKED = 8 << 30
MOST_LABEL_BYTES = 1 << 30
MOST_ARRAYS = 1000
READ_ERRORS = (zipfile.BadZipFile, zlib.error, RuntimeError, OSError, EOFError, ValueError)
"""What an archive that is damaged, or made to do harm, raises."""


def open_npy(path: Path, *, cache_bytes: int = 0) -> Source:
    """Return the images of an array [N, H, W], [N, H, W, C] or [N, C, H, W] in a .npy file.

    The last axis holds the channels unless it is larger than the second one. See
    `array_pixels.pixel_type` for the types of values.

    Raises:
        DataError: It is no such array, or one whose values do not lie image by image.
    """
    try:
        with open(path, "rb") as file:
            header = read_header(file)
    except (ValueError, EOFError) as error:
        raise DataError(
            f"{path} is not a usable NumPy file: {one_line(error)}; save it again"
        ) from error
    except OSError as error:
        raise DataError(f"{path} cannot be read ({error.strerror})") from error
    layout = layout_of_stack(str(path), header.shape, header.dtype)
    _check_size(str(path), header, path.stat().st_size)
    if header.fortran_order:
        raise DataError(
            f"{path} lies in Fortran order, not image by image; save it again with "
            "numpy.save(path, numpy.ascontiguousarray(images))"
        )
    record = _record(path, header, layout, header.begin)
    return RecordImages(path, [record], layout, cache_bytes=cache_bytes)


def open_npz(path: Path, *, cache_bytes: int = 0) -> Source:
    """Return the images of a .npz archive: of its array `images`, `x`, `x_train` or `arr_0`.

    Or of its only array with 3 or 4 axes, laid out as for `open_npy`. Labels are its array
    `labels`, `y` or `y_train`. A compressed archive is unpacked into memory.

    Raises:
        DataError: There is no such array, or it is too large to unpack.
    """
    arrays = _arrays(path)
    name = _pick_images(path, arrays)
    what, (header, stored) = f"{path} array {name}", arrays[name]
    layout = layout_of_stack(what, header.shape, header.dtype)
    _check_size(what, header, stored.size)
    label = next((label for label in LABEL_ARRAYS if label in arrays), None)
    if stored.method == zipfile.ZIP_STORED and not header.fortran_order:
        begin = content_place(OpenFiles(), path, stored) + header.begin
        record = _record(path, header, layout, begin)
        return _StoredArray(path, [record], layout, label=label, cache_bytes=cache_bytes)
    if stored.size > MOST_UNPACKED or is_bomb(stored.packed, stored.size):
        raise DataError(
            f"{what} unpacks from {stored.packed} to {stored.size} bytes, too many for the memory; "
            "save it by numpy.save as .npy, which is read image by image"
        )
    images = _PackedArray(path, layout, header.shape[0], name=name, label=label)
    images.unpack()
    return images


class _StoredArray(RecordImages):
    """An array that lies in its archive as in a .npy file."""

    def __init__(
        self,
        path: Path,
        records: list[RecordFile],
        layout: Layout,
        *,
        label: str | None,
        cache_bytes: int,
    ) -> None:
        super().__init__(path, records, layout, cache_bytes=cache_bytes)
        self.label = label

    def labels(self) -> list[str] | None:
        """Return what the archive's array of labels holds."""
        return _labels(self.path, self.label, len(self))


class _PackedArray(UnpackedImages):
    """An array that has to be unpacked as a whole."""

    def __init__(
        self, path: Path, layout: Layout, count: int, *, name: str, label: str | None
    ) -> None:
        super().__init__(path, layout, count)
        self.array, self.label = name, label

    def _unpack(self) -> NDArray[Any]:
        return read_array(self.path, self.array)

    def labels(self) -> list[str] | None:
        """Return what the archive's array of labels holds."""
        return _labels(self.path, self.label, len(self))


def _check_size(what: str, header: ArrayHeader, size: int) -> None:
    if size < header.begin + header.nbytes:
        raise DataError(
            f"{what} promises {header.nbytes} bytes of values and holds {size - header.begin}; it "
            "was cut off: copy it again"
        )


def _record(path: Path, header: ArrayHeader, layout: Layout, begin: int) -> RecordFile:
    return RecordFile(path, header.shape[0], begin, stride=layout.nbytes)


def _arrays(path: Path) -> dict[str, tuple[ArrayHeader, Stored]]:
    """Return the arrays of an archive that can be read, by name."""
    found: dict[str, tuple[ArrayHeader, Stored]] = {}
    fault = "it holds no .npy files"
    try:
        with zipfile.ZipFile(path) as archive:
            for info in archive.infolist()[:MOST_ARRAYS]:
                name, _, suffix = info.filename.rpartition(".")
                if suffix == "npy":
                    header = _header_in(archive, info)
                    if isinstance(header, ArrayHeader):
                        found[name] = header, Stored.of(info)
                    else:
                        fault = f"{name}: {header}"
    except READ_ERRORS as error:
        raise DataError(
            f"{path} is not a usable .npz archive: {one_line(error)}; save it again"
        ) from error
    if not found:
        raise DataError(f"no array of numbers in {path}: {fault}")
    return found


def _header_in(archive: zipfile.ZipFile, info: zipfile.ZipInfo) -> ArrayHeader | str:
    """Return the header of an array, or why it has none."""
    fault = fault_of_packing(Stored.of(info))
    if fault is not None:
        return fault
    try:
        with archive.open(info) as file:
            return read_header(file)
    except READ_ERRORS as error:
        return one_line(error)


def _pick_images(path: Path, arrays: dict[str, tuple[ArrayHeader, Stored]]) -> str:
    stacks = [name for name, (header, _) in arrays.items() if len(header.shape) in (3, 4)]
    named = [name for name in IMAGE_ARRAYS if name in stacks]
    if named or len(stacks) == 1:
        return (named or stacks)[0]
    known = ", ".join(f"{name} {list(header.shape)}" for name, (header, _) in arrays.items())
    raise DataError(f"which array of {path} holds the images? Call it images; found {known:.300}")


def _labels(path: Path, name: str | None, count: int) -> list[str] | None:
    if name is None:
        return None
    header, stored = _arrays(path)[name]
    is_label = header.dtype.kind in "iubUS" and header.shape in ((count,), (count, 1))
    if not is_label or stored.size > MOST_LABEL_BYTES:
        raise DataError(
            f"{path} array {name} holds {header.dtype} {list(header.shape)}; labels are one "
            f"integer or text for each of the {count} images: call anything else otherwise"
        )
    _check_size(f"{path} array {name}", header, stored.size)
    values = read_array(path, name).ravel()
    if header.dtype.kind == "S":
        return [value.decode("utf-8", "replace") for value in values.tolist()]
    return [str(value) for value in values] if header.dtype.kind == "U" else class_names(values, [])


def read_array(path: Path, name: str) -> NDArray[Any]:
    """Return an array of an archive; raises DataError, also for one of Python objects."""
    try:
        with zipfile.ZipFile(path) as archive, archive.open(f"{name}.npy") as file:
            values: NDArray[Any] = np.lib.format.read_array(file, allow_pickle=False)
            return values
    except READ_ERRORS as error:
        raise DataError(f"{path} array {name} cannot be unpacked: {one_line(error)}") from error
