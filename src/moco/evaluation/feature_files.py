"""Features on disk: .npz, .parquet or .safetensors by the file's name (docs/features.md)."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

from moco.data.sources.row_groups import import_parquet
from moco.errors import DataError, StorageError, UsageError, storage_remedy
from moco.evaluation import feature_npz, feature_parquet
from moco.evaluation.feature_npz import read_npz, write_npz
from moco.evaluation.feature_parquet import read_parquet, write_parquet
from moco.evaluation.feature_set import FeatureSet
from moco.evaluation.feature_tensors import read_tensors, write_tensors
from moco.evaluation.stored_features import StoredFeatures, from_stored, to_stored


class Format(NamedTuple):
    """How one kind of file is written, read and told from images of the same ending."""

    write: Callable[[Path, StoredFeatures], None]
    read: Callable[[Path], StoredFeatures]
    holds_features: Callable[[Path], bool]


FORMATS = {
    ".npz": Format(write_npz, read_npz, feature_npz.has_features),
    ".parquet": Format(write_parquet, read_parquet, feature_parquet.has_features),
    ".safetensors": Format(write_tensors, read_tensors, lambda _: True),
}


def check_feature_path(path: Path) -> None:
    """Refuse a file that cannot be written, before the long work.

    Raises:
        UsageError: Its name ends in none of the formats.
        StorageError: Its folder is missing or not writable.
        DataError: It is to be .parquet, and pyarrow is not installed.
    """
    if path.suffix.lower() not in FORMATS:
        raise UsageError(f"--out must end in {', '.join(FORMATS)}, got {path}")
    folder = path.absolute().parent
    if not os.path.isdir(folder) or not os.access(folder, os.W_OK) or os.path.isdir(path):
        raise StorageError(f"cannot write --out {path}; name a file in a writable folder")
    if path.suffix.lower() == ".parquet":
        import_parquet()


def write_features(path: Path, features: FeatureSet) -> None:
    """Write features aside, a chunk at a time, and put the file in its place at once.

    Equal features make equal bytes. Images without labels have `labels` of length 0.

    Raises:
        UsageError, StorageError, DataError: As `check_feature_path`; or the disk is full.
    """
    check_feature_path(path)
    aside = path.with_name(f".{path.name}.tmp-{os.getpid()}")
    try:
        FORMATS[path.suffix.lower()].write(aside, to_stored(features))
        with open(aside, "rb+") as file:
            os.fsync(file.fileno())
        os.replace(aside, path)
    except OSError as error:
        reason = error.strerror or error
        raise StorageError(f"cannot write {path}: {reason}; {storage_remedy(error)}") from error
    finally:
        aside.unlink(missing_ok=True)


def read_features(path: Path) -> FeatureSet:
    """Return the features in a file, from anyone; .npz and .safetensors are mapped into memory.

    Raises:
        UsageError: Its name ends in none of the formats.
        DataError: It cannot be read, or what it holds makes no sense.
    """
    if path.suffix.lower() not in FORMATS:
        raise UsageError(f"features are read from {', '.join(FORMATS)} files, not {path}")
    if not os.path.isfile(path):
        what = "is no file" if os.path.lexists(path) else "does not exist"
        raise DataError(f"{path} {what}; name a file that `moco embed` wrote")
    return from_stored(FORMATS[path.suffix.lower()].read(path), path)


def is_feature_file(path: Path) -> bool:
    """Return whether a path is a file of features; images may be .npz and .parquet, too."""
    found = FORMATS.get(path.suffix.lower())
    return found is not None and os.path.isfile(path) and found.holds_features(path)
