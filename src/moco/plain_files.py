"""Files that may be anything: only regular ones are read, so that nothing hangs; no torch here."""

from __future__ import annotations

import errno
import os
import stat
from io import BufferedReader
from pathlib import Path

_WITHOUT_WAITING = os.O_RDONLY | sum(
    getattr(os, flag, 0) for flag in ("O_NONBLOCK", "O_NOCTTY", "O_CLOEXEC", "O_BINARY")
)
_THROUGH_NO_LINK = getattr(os, "O_NOFOLLOW", 0)


def through_no_link(path: str, flags: int) -> int:
    """Open a file as `open(..., opener=through_no_link)` does; a link there is an OSError.

    For files that a run writes: a run directory from elsewhere must not lead out of itself.
    """
    return os.open(path, flags | _THROUGH_NO_LINK, 0o666)


def write_own(path: Path, text: str) -> None:
    """Write a file of a run as UTF-8.

    Raises:
        OSError: It cannot be written, or a link is in its place.
    """
    with open(path, "w", encoding="utf-8", opener=through_no_link) as file:
        file.write(text)


def open_regular(path: Path) -> BufferedReader:
    """Open a file for reading, links followed; a pipe or a device is closed again unread.

    Raises:
        OSError: It cannot be opened, or is no regular file.
    """
    descriptor = os.open(path, _WITHOUT_WAITING)
    if not stat.S_ISREG(os.fstat(descriptor).st_mode):
        os.close(descriptor)
        raise OSError(errno.EINVAL, "this is no ordinary file", str(path))
    return os.fdopen(descriptor, "rb")


def read_small(path: Path, most_bytes: int) -> bytes:
    """Return a file's content, without the memory for one that is larger than such a file can be.

    Raises:
        OSError: It cannot be read, or is no regular file.
        ValueError: It is larger.
    """
    with open_regular(path) as file:
        content = file.read(most_bytes + 1)
    if len(content) > most_bytes:
        raise ValueError(f"{path.name} is larger than {most_bytes >> 10} kB, which none is")
    return content
