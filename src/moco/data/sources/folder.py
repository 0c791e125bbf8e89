"""Images in a folder, one file each."""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from pathlib import Path

from moco.data.decoding import decode, read_bytes
from moco.data.images import Pixels
from moco.data.sources.base import Source
from moco.data.sources.names import IMAGE_SUFFIXES, PackedNames, first_folders, is_image
from moco.errors import DataError


class FolderImages(Source):
    """All images below a folder, in the order of their paths; no class folders needed.

    Args:
        path: searched recursively; other files are left alone.
        names: the images' paths below it where they are known already.

    Raises:
        DataError: The folder is missing or holds no image file.
    """

    def __init__(
        self, path: str | Path, *, cache_bytes: int = 0, names: Sequence[str] | None = None
    ) -> None:
        super().__init__(cache_bytes=cache_bytes)
        self.path = Path(path)
        self._names = PackedNames(find_images(self.path) if names is None else names)

    def __len__(self) -> int:
        return len(self._names)

    def _name(self, image_id: int) -> str:
        return self._names[image_id]

    def _read(self, image_id: int) -> Pixels:
        name = self._names[image_id]
        return decode(read_bytes(os.path.join(self.path, name)), name)

    def labels(self) -> list[str] | None:
        """Return the first folder of each path, None unless every image lies in one."""
        return first_folders(self._names)


def find_images(folder: Path) -> list[str]:
    """Return the paths of all image files below `folder`, relative to it, sorted.

    Raises:
        DataError: The folder is missing, one below it cannot be read, or none of its files has an
            image's suffix.
    """
    found = sorted(name for name in walk_files(folder) if is_image(name))
    if not found:
        raise DataError(nothing_found(folder))
    return found


def nothing_found(folder: Path) -> str:
    """Return the message for a folder without images."""
    kinds = " ".join(sorted(IMAGE_SUFFIXES))
    return f"no image below {folder}; files that count end in {kinds}"


def walk_files(folder: Path) -> Iterator[str]:
    """Yield the paths of all files below `folder`, relative to it; links are followed.

    Raises:
        DataError: The folder is missing, or one below it cannot be read.
    """
    if not os.path.isdir(folder):
        what = "is a file, not a folder" if folder.exists() else "does not exist"
        raise DataError(f"image folder {folder} {what}; name a folder of images")
    walked = set()
    for directory, folders, files in os.walk(folder, onerror=_refuse_folder, followlinks=True):
        status = os.stat(directory)
        if (status.st_dev, status.st_ino) in walked:  # a link to where we were
            folders.clear()
            continue
        walked.add((status.st_dev, status.st_ino))
        folders.sort()
        below = os.path.relpath(directory, folder)
        for file in files:
            yield file if below == os.curdir else os.path.join(below, file)


def _refuse_folder(error: OSError) -> None:
    raise DataError(
        f"folder {error.filename} cannot be read ({error.strerror}); make it readable, or move it"
    )
