"""`--json FILE`: a command's figures as one flat object."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from pathlib import Path

from moco.errors import StorageError


def check_json_path(path: Path | None, option: str = "--json") -> None:
    """Refuse a file that cannot be written, before the long work.

    Args:
        option: what it was given as.

    Raises:
        StorageError: Its folder is missing or not writable.
    """
    if path is None:
        return
    try:
        os.lstat(path)
    except FileNotFoundError:
        pass
    except OSError as error:
        raise _not_written(path, error, option) from error
    folder = path.absolute().parent
    if not os.path.isdir(folder) or not os.access(folder, os.W_OK) or os.path.isdir(path):
        raise StorageError(f"cannot write {option} {path}; name a file in a writable folder")


def write_json(path: Path | None, figures: Mapping[str, object]) -> None:
    """Write the figures, if a file was asked for.

    Raises:
        StorageError: It cannot be written.
    """
    if path is None:
        return
    try:
        path.write_text(json.dumps(dict(figures), indent=1) + "\n", encoding="utf-8")
    except OSError as error:
        raise _not_written(path, error) from error


def _not_written(path: Path, error: OSError, option: str = "--json") -> StorageError:
    return StorageError(
        f"cannot write {option} {path}: {error.strerror or error}; name another file"
    )
