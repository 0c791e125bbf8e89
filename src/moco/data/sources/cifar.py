"""CIFAR-10 and CIFAR-100 in their binary version (Krizhevsky 2009)."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from moco.data.sources.base import class_names
from moco.data.sources.records import Layout, RecordFile, RecordImages
from moco.errors import DataError

LAYOUT = Layout((3, 32, 32), np.dtype(np.uint8), channels_first=True)
TRAINING_10 = re.compile(r"data_batch_\d+\.bin")
FILES_100 = ("train.bin", "test.bin")
LOOKED_AT = 1000
MOST_NAME_BYTES = 1 << 16


@dataclass(frozen=True)
class CifarKind:
    """How a record of one of the two data sets begins: with a byte for each of its labels."""

    title: str
    label_bytes: int
    classes: int
    class_file: str

    @property
    def stride(self) -> int:
        """Bytes of a record."""
        return self.label_bytes + LAYOUT.nbytes


CIFAR_10 = CifarKind("CIFAR-10", 1, 10, "batches.meta.txt")
CIFAR_100 = CifarKind("CIFAR-100", 2, 100, "fine_label_names.txt")


class CifarImages(RecordImages):
    """The images [32, 32, 3] of binary CIFAR files; the label is CIFAR-100's fine one.

    Raises:
        DataError: A file's size or first labels are not CIFAR's.
    """

    def __init__(
        self, files: Sequence[Path], *, path: str | Path | None = None, cache_bytes: int = 0
    ) -> None:
        self.kind = kind_of(files[0])
        records = [_record(file, self.kind) for file in files]
        where = Path(path if path is not None else files[0])
        super().__init__(where, records, LAYOUT, cache_bytes=cache_bytes)
        for record in records:
            self._codes(record, LOOKED_AT)

    def _codes(self, record: RecordFile, most: int) -> NDArray[np.uint8]:
        """Return the class number of up to so many first images of a file."""
        kind, count = self.kind, min(most, record.images)
        values = np.memmap(record.path, np.uint8, "r", shape=(count, kind.stride))
        codes = np.array(values[:, kind.label_bytes - 1])
        if codes.max() >= kind.classes:
            place = int(np.argmax(codes >= kind.classes))
            raise DataError(
                f"{record.path} row {place} has class {codes[place]}; {kind.title} has "
                f"{kind.classes} classes: is it its binary version?"
            )
        return codes

    def labels(self) -> list[str] | None:
        """Return the class of each image, by name where the file of names lies beside."""
        codes = np.concatenate([self._codes(record, record.images) for record in self.records])
        return class_names(codes, self._class_names())

    def _class_names(self) -> list[str]:
        file = self.records[0].path.with_name(self.kind.class_file)
        if not file.is_file():
            return []
        with open(file, "rb") as text:
            lines = text.read(MOST_NAME_BYTES).decode("utf-8", "replace").split("\n")
        return [line.strip() for line in lines if line.strip()]


def kind_of(file: Path) -> CifarKind:
    """Return which data set a file is of, by its size, and its name where that leaves it open."""
    size = file.stat().st_size
    fitting = [kind for kind in (CIFAR_10, CIFAR_100) if size and size % kind.stride == 0]
    if not fitting:
        raise DataError(
            f"{file} has {size} bytes, no multiple of {CIFAR_10.stride} (CIFAR-10) or "
            f"{CIFAR_100.stride} (CIFAR-100): it is cut off, or no binary CIFAR file; copy it again"
        )
    return fitting[-1] if file.name in FILES_100 else fitting[0]


def pick_files(names: Sequence[str]) -> list[str]:
    """Return which of a folder's files to use: the training files where there are any."""
    cifar_10 = sorted(name for name in names if TRAINING_10.fullmatch(Path(name).name))
    if cifar_10:
        return [name for name in cifar_10 if Path(name).parent == Path(cifar_10[0]).parent]
    for wanted in ("train.bin", "test_batch.bin", "test.bin"):
        found = [name for name in names if Path(name).name == wanted]
        if found:
            return found[:1]
    return []


def _record(file: Path, kind: CifarKind) -> RecordFile:
    size = file.stat().st_size
    if not size or size % kind.stride:
        raise DataError(
            f"{file} has {size} bytes, no multiple of {kind.stride} as {kind.title} has: it is cut "
            "off: copy it again"
        )
    return RecordFile(file, size // kind.stride, 0, kind.stride, pixels=kind.label_bytes)
