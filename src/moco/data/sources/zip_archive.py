"""Images in a zip archive."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from moco.data.decoding import decode
from moco.data.images import Pixels
from moco.data.sources.base import Source, one_line
from moco.data.sources.files import OpenFiles
from moco.data.sources.names import (
    PackedNames,
    fault_of_name,
    first_folders,
    is_archived_image,
)
from moco.data.sources.zip_members import Stored, open_directory, read_member
from moco.errors import DataError

_ENTRY = np.dtype(
    [
        ("header", np.uint64),
        ("packed", np.uint64),
        ("size", np.uint64),
        ("checksum", np.uint32),
        ("method", np.uint16),
        ("flags", np.uint16),
    ]
)


class ZipImages(Source):
    """The image files of a zip archive, sorted by name; it is never unpacked.

    Raises:
        DataError: The archive is missing, damaged, or holds no image.
    """

    def __init__(self, path: str | Path, *, cache_bytes: int = 0) -> None:
        super().__init__(cache_bytes=cache_bytes)
        self.path = Path(path)
        self._files = OpenFiles()
        try:
            directory = open_directory(self.path)
        except ValueError as error:
            raise DataError(
                f"{self.path} is not a usable zip archive: {one_line(error)}; copy it again"
            ) from error
        used = []
        for info in directory:
            if not is_archived_image(info.filename):
                continue
            fault = fault_of_name(info.filename)
            if fault is None:
                used.append(info)
            else:
                self._leave_out(info.filename, fault)
        if not used:
            faults = (
                ": ".join(self.damaged[0]) if self.damaged else "it holds no files such as 1.jpg"
            )
            raise DataError(f"no image in {self.path}; {faults}")
        used.sort(key=lambda info: info.filename)
        self._names = PackedNames(info.filename for info in used)
        self._entries = np.zeros(len(used), _ENTRY)
        for number, info in enumerate(used):
            stored = Stored.of(info)
            self._entries[number] = tuple(getattr(stored, name) for name in _ENTRY.names or ())

    def __len__(self) -> int:
        return len(self._names)

    def _name(self, image_id: int) -> str:
        return self._names[image_id]

    def _read(self, image_id: int) -> Pixels:
        stored = Stored(*self._entries[image_id].tolist())
        return decode(read_member(self._files, self.path, stored), self._names[image_id])

    def labels(self) -> list[str] | None:
        """Return the first folder of each path, None unless every image lies in one."""
        return first_folders(self._names)
