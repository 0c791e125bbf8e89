"""Pieces of large files, read from any process."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

from moco.data.images import UnreadableImageError

MOST_OPEN = 32
PIECE = 1 << 30  # the system reads no more than 2 GiB at once


class OpenFiles:
    """Reads pieces of files by offset and keeps the last few files open.

    No reader moves another's place in a file: after a fork both processes may go on reading.
    """

    def __init__(self) -> None:
        self._open: dict[str, _OpenFile] = {}

    def read(self, path: Path, offset: int, size: int) -> bytes:
        """Return `size` bytes from `offset` on.

        Raises:
            UnreadableImageError: The file is gone, ends before, or cannot be read.
        """
        try:
            found = _read_piece(self._file(os.fspath(path)), offset, size)
        except OSError as error:
            reason = error.strerror or type(error).__name__
            raise UnreadableImageError(f"{path.name}: {reason}") from error
        if len(found) < size:
            raise UnreadableImageError(f"{path.name} ends before byte {offset + size}")
        return found

    def prefetch(self, path: Path) -> None:
        """Ask the system to read the whole file soon, where it can be asked."""
        if hasattr(os, "posix_fadvise"):
            try:
                file = self._file(os.fspath(path))
                os.posix_fadvise(file.descriptor, 0, 0, os.POSIX_FADV_WILLNEED)
            except OSError:  # only advice; reading will say what is wrong
                return

    def _file(self, path: str) -> _OpenFile:
        file = self._open.pop(path, None) or _OpenFile(path)
        self._open[path] = file  # the last one used is the last to go
        while len(self._open) > MOST_OPEN:
            self._open.pop(next(iter(self._open)), None)
        return file

    def __getstate__(self) -> dict[str, Any]:
        return {"_open": {}}


class _OpenFile:
    """A file that is closed when nobody reads it any more, so that no reader loses it midway."""

    def __init__(self, path: str) -> None:
        self.descriptor = -1
        self.descriptor = os.open(path, os.O_RDONLY | getattr(os, "O_BINARY", 0))

    def __del__(self, close: Any = os.close) -> None:
        if self.descriptor >= 0:
            close(self.descriptor)


def _read_piece(file: _OpenFile, offset: int, size: int) -> bytes:
    pieces = []
    while size > 0:
        piece = _read_at(file.descriptor, min(size, PIECE), offset)
        if not piece:
            break
        pieces.append(piece)
        offset, size = offset + len(piece), size - len(piece)
    return pieces[0] if len(pieces) == 1 else b"".join(pieces)


def _read_at(descriptor: int, size: int, offset: int) -> bytes:
    if hasattr(os, "pread"):
        return os.pread(descriptor, size, offset)
    os.lseek(descriptor, offset, os.SEEK_SET)  # Windows, where no process is forked
    return os.read(descriptor, size)
