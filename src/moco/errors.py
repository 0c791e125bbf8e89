"""What can go wrong for a reason the user can mend: one line each, with its exit code.

The codes are documented in `docs/exit_codes.md`. Anything else that escapes is a bug (code 1).
"""

from __future__ import annotations

import errno


class MocoError(Exception):
    """A failure whose message has cause and remedy; the command returns `exit_code`."""

    exit_code = 1


class ChangedNetworkError(MocoError, RuntimeError):
    """A network that was to stay as it is was changed while it was looked at (exit code 1)."""


class UsageError(MocoError, ValueError):
    """The command, a recipe field or a combination of fields makes no sense (exit code 2)."""

    exit_code = 2


class DataError(MocoError, ValueError):
    """The images or labels cannot serve: none there, too few, none readable (exit code 3)."""

    exit_code = 3


class DivergedError(MocoError, RuntimeError):
    """The loss is no longer a finite number (exit code 4)."""

    exit_code = 4


class StorageError(MocoError, OSError):
    """A directory or file cannot be written, or the disk is full (exit code 5)."""

    exit_code = 5


def storage_remedy(error: Exception) -> str:
    """Return what to do about a file that cannot be written, by what the system says of it."""
    match getattr(error, "errno", None):
        case errno.EACCES | errno.EPERM | errno.EROFS:
            return "allow writing there"
        case errno.EIO | errno.ENOENT | errno.ESTALE | errno.ENODEV | errno.ENXIO:
            return "see to that disk"
        case _:
            return "make room"


class CheckpointError(MocoError, ValueError):
    """No checkpoint can be used: missing, damaged or of another recipe (exit code 6)."""

    exit_code = 6


class LostProcessError(MocoError, RuntimeError):
    """The other processes of a run cannot be reached (exit code 7).

    Attributes:
        reports: this process is the first of those that are left, and speaks for the run.
    """

    exit_code = 7

    def __init__(self, message: str, *, reports: bool = False) -> None:
        super().__init__(message)
        self.reports = reports


class FailedElsewhereError(LostProcessError):
    """Another process failed and says why, so this one need not; with its exit code."""

    def __init__(self, message: str, exit_code: int, *, reports: bool = False) -> None:
        super().__init__(message, reports=reports)
        self.exit_code = exit_code


class InterruptedRunError(MocoError):
    """A run was asked to stop and saved first (exit code 75, or 130 from the keyboard)."""

    def __init__(self, message: str, exit_code: int) -> None:
        super().__init__(message)
        self.exit_code = exit_code
