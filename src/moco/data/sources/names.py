"""Names of very many images in little memory, and what a name tells."""

from __future__ import annotations

import hashlib
import os
import re
import sys
from array import array
from collections.abc import Iterable, Iterator

import numpy as np

IMAGE_SUFFIXES = frozenset(
    {
        *(".bmp", ".gif", ".jfif", ".jpeg", ".jpg", ".npy", ".pbm", ".pgm", ".png", ".pnm"),
        *(".ppm", ".tif", ".tiff", ".webp"),
    }
)
"""Which files count as images; what one holds is decided by its content."""

LABEL_SEPARATOR = "\x1f"
"""Behind each label of an image that may have several: what lists of labels in files become."""

_DRIVE = re.compile(r"[A-Za-z]:[\\/]")


class PackedNames:
    """Names by number in one block of bytes: 9 bytes each beside their letters."""

    def __init__(self, names: Iterable[str]) -> None:
        packed, starts = bytearray(), array("q", [0])
        for name in names:
            packed += encoded_name(name)
            packed.append(0)
            starts.append(len(packed))
        self._packed = bytes(packed)
        self._starts = np.array(starts, np.int64)

    def __len__(self) -> int:
        return len(self._starts) - 1

    def __getitem__(self, number: int) -> str:
        return decoded_name(self._packed[self._starts[number] : self._starts[number + 1] - 1])

    def __iter__(self) -> Iterator[str]:
        return (self[number] for number in range(len(self)))

    @property
    def nbytes(self) -> int:
        """Memory that the names take."""
        return len(self._packed) + self._starts.nbytes


class NamesDigest:
    """A SHA-256 over names in order, one after another."""

    def __init__(self) -> None:
        self._digest, self._between = hashlib.sha256(), b""

    def add(self, name: str) -> None:
        self._digest.update(self._between + encoded_name(name))
        self._between = b"\0"

    def hexdigest(self) -> str:
        return self._digest.hexdigest()


def encoded_name(name: str) -> bytes:
    """Return the bytes of a name; those that are no text came from `decoded_name` or the system."""
    return name.encode("utf-8", "surrogateescape")


def decoded_name(name: bytes) -> str:
    """Return a name that `encoded_name` turns back to the same bytes."""
    return name.decode("utf-8", "surrogateescape")


def is_image(name: str) -> bool:
    """Return whether a file of that name counts as an image."""
    return os.path.splitext(name)[1].lower() in IMAGE_SUFFIXES


def is_archived_image(name: str) -> bool:
    """Return whether a member of an archive counts as one: not the notes that macOS packs along."""
    return is_image(name) and "/._" not in f"/{name}" and not name.startswith("__MACOSX/")


def fault_of_name(name: str) -> str | None:
    """Return why a name from an archive is refused; it may be written to or shown elsewhere."""
    if name.startswith(("/", "\\")) or _DRIVE.match(name):
        return "its name is an absolute path"
    if ".." in name and ".." in name.replace("\\", "/").split("/"):
        return "its name leads out of the archive"
    if "\0" in name:
        return "its name holds a NUL"
    return None


def first_folders(names: Iterable[str]) -> list[str] | None:
    """Return the first folder of each path, None when a path has none."""
    folders = []
    for name in names:
        folder, separator, _ = name.replace(os.sep, "/").partition("/")
        if not separator:
            return None
        folders.append(sys.intern(folder))
    return folders
