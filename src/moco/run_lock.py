"""One run to a directory: a lock that the system takes back when its process ends, however."""

from __future__ import annotations

import json
import os
import socket
import sys
from contextlib import suppress
from pathlib import Path

from moco.errors import UsageError
from moco.plain_files import through_no_link

LOCK_NAME = ".lock"


class RunLock:
    """Held by the process that writes a run directory.

    A lock of the process, not of the open file: loading processes that outlive a killed run for a
    moment do not keep it. Where the file system has no locks, there is none.

    Args:
        run: the directory.
        what: a person calls it.
        option: names another.
    """

    def __init__(self, run: Path, *, what: str = "run directory", option: str = "--run") -> None:
        self.path, self.what, self.option = run / LOCK_NAME, what, option
        self._descriptor: int | None = None

    def acquire(self) -> None:
        """Take the lock; a directory that cannot be written is left without one.

        Raises:
            UsageError: Another process has it.
        """
        while (descriptor := self._locked()) is not None:
            if self._is_in_place(descriptor):
                self._descriptor = descriptor
                self._say_who(descriptor)
                return
            os.close(descriptor)  # its last holder removed it before we had it

    def _locked(self) -> int | None:
        try:
            descriptor = through_no_link(str(self.path), os.O_RDWR | os.O_CREAT)
        except OSError:
            return None  # whoever writes there next says why that cannot be
        try:
            _lock(descriptor)
        except (BlockingIOError, PermissionError) as error:
            holder = _holder(descriptor)
            os.close(descriptor)
            raise UsageError(
                f"{self.what} {self.path.parent} is in use{holder}; wait until that run ends, "
                f"stop it, or choose another {self.option}"
            ) from error
        except OSError:
            os.close(descriptor)
            return None
        return descriptor

    def _is_in_place(self, descriptor: int) -> bool:
        try:
            return os.path.samestat(os.fstat(descriptor), os.stat(self.path))
        except OSError:
            return False

    def _say_who(self, descriptor: int) -> None:
        about = json.dumps({"pid": os.getpid(), "host": socket.gethostname()})
        with suppress(OSError):  # it only tells others who holds the lock
            os.ftruncate(descriptor, 0)
            os.write(descriptor, about.encode())

    def release(self) -> None:
        """Give the lock back, and remove its file."""
        if self._descriptor is not None:
            with suppress(OSError):  # Windows removes no open file
                os.remove(self.path)
            os.close(self._descriptor)
            self._descriptor = None


def _holder(descriptor: int) -> str:
    try:
        about = json.loads(os.read(descriptor, 4096))
        return f" by process {int(about['pid'])} on {str(about['host'])[:80]}"
    except (OSError, ValueError, KeyError, TypeError):
        return ""


if sys.platform == "win32":
    import msvcrt

    def _lock(descriptor: int) -> None:
        os.lseek(descriptor, 1 << 20, os.SEEK_SET)  # beyond the text, which stays readable
        msvcrt.locking(descriptor, msvcrt.LK_NBLCK, 1)
        os.lseek(descriptor, 0, os.SEEK_SET)
else:
    import fcntl

    def _lock(descriptor: int) -> None:
        fcntl.lockf(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
