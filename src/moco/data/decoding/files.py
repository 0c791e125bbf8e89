"""The bytes of a file that may be anything: a pipe, a device, a folder, a broken link."""

from __future__ import annotations

import os
import stat
from pathlib import Path

from moco.data.images import UnreadableImageError

MAX_FILE_BYTES = 2 * 1024**3

_WITHOUT_WAITING = os.O_RDONLY | sum(
    getattr(os, flag, 0) for flag in ("O_NONBLOCK", "O_NOCTTY", "O_CLOEXEC", "O_BINARY")
)
_KINDS = {
    stat.S_IFDIR: "a folder",
    stat.S_IFIFO: "a pipe",
    stat.S_IFSOCK: "a socket",
    stat.S_IFCHR: "a device",
    stat.S_IFBLK: "a device",
}


def read_bytes(path: str | Path) -> bytes:
    """Return what a regular file holds; never waits for the other end of a pipe.

    Raises:
        UnreadableImageError: It cannot be opened, is no regular file, or is over 2 GiB.
    """
    try:
        descriptor = os.open(path, _WITHOUT_WAITING)
    except OSError as error:
        raise UnreadableImageError(_why_not_opened(path, error)) from error
    except ValueError as error:  # a NUL, or half of a surrogate pair
        raise UnreadableImageError("no file can have this name") from error
    try:
        return _contents(descriptor, os.fstat(descriptor))
    except OSError as error:
        raise UnreadableImageError(f"cannot be read ({error.strerror or error.errno})") from error
    finally:
        os.close(descriptor)


def _why_not_opened(path: str | Path, error: OSError) -> str:
    if isinstance(error, FileNotFoundError) and os.path.islink(path):
        return "a link to what is not there"
    return f"cannot be opened ({error.strerror or error.errno})"


def _contents(descriptor: int, status: os.stat_result) -> bytes:
    """Read up to the size that the file had when it was opened: one that grows has an end too."""
    if not stat.S_ISREG(status.st_mode):
        kind = _KINDS.get(stat.S_IFMT(status.st_mode), "something else")
        raise UnreadableImageError(f"not a regular file but {kind}")
    left = status.st_size
    if left > MAX_FILE_BYTES:
        raise UnreadableImageError(f"{left} bytes are more than the limit of {MAX_FILE_BYTES}")
    pieces = []
    while left > 0 and (piece := os.read(descriptor, left)):
        pieces.append(piece)
        left -= len(piece)
    return pieces[0] if len(pieces) == 1 else b"".join(pieces)
