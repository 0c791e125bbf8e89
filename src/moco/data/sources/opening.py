"""Images from whatever a path names: the kind of source is found from what is there."""

from __future__ import annotations

import glob
import itertools
import json
import os
import re
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

from moco.data.images import StoredImages
from moco.data.sources import cifar, idx_format
from moco.data.sources.arrays import open_npy, open_npz
from moco.data.sources.base import Source
from moco.data.sources.cifar import CifarImages
from moco.data.sources.folder import FolderImages, nothing_found, walk_files
from moco.data.sources.idx_format import open_idx
from moco.data.sources.listed import LIST_SUFFIXES, ListedImages
from moco.data.sources.names import is_image
from moco.data.sources.parquet import ParquetImages
from moco.data.sources.tar_shards import TarImages
from moco.data.sources.zip_archive import ZipImages
from moco.errors import DataError

COMPRESSED_TAR = re.compile(r"\.(tgz|tbz2?|txz|tar\.(gz|bz2|xz|zst|lz4))$", re.IGNORECASE)
SCHEME = re.compile(r"[A-Za-z][A-Za-z0-9+.-]+:")
BRACES = re.compile(r"\{([^{}]*)\}")
RANGE = re.compile(r"(\d{1,12})\.\.(\d{1,12})")
MOST_NAMED = 100_000
MOST_INDEX_CHARACTERS = 1 << 26
KINDS = (
    "a folder of images, a list (.txt, .csv, .tsv), a .zip, .tar or .parquet file, an array (.npy, "
    ".npz), or binary CIFAR or IDX files"
)

_OPENERS: dict[str, Callable[..., Source]] = {
    **dict.fromkeys(LIST_SUFFIXES, ListedImages),
    ".zip": ZipImages,
    ".npy": open_npy,
    ".npz": open_npz,
}
_OPENERS_OF_SEVERAL: dict[str, Callable[..., Source]] = {
    ".tar": TarImages,
    ".parquet": ParquetImages,
    ".bin": CifarImages,
}


def open_images(path: str | Path, *, cache_bytes: int = 0) -> StoredImages:
    """Return the images that a path names.

    A folder of image files; a list of them (.txt, .lst, .csv, .tsv); a .zip archive; .tar archives,
    .parquet files, binary CIFAR or IDX files, or a folder of those; an array (.npy, .npz); or a
    pattern such as "train-{000..099}.tar" or "part-*.parquet".

    Args:
        cache_bytes: decoded images are kept in memory up to this size, per process.

    Raises:
        DataError: Nothing is there, it is of no such kind, or it holds no image.
    """
    text, path = str(path), Path(path)
    if os.path.isdir(path):  # false for a pattern that is too long for a name, too
        return _open_folder(path, cache_bytes)
    if os.path.isfile(path):
        return _open_file(path, cache_bytes)
    if os.path.exists(path):
        raise DataError(f"{path} is neither a file nor a folder; name {KINDS}")
    if SCHEME.match(text):
        raise DataError(f"{text} is not on this machine; only local paths are read: copy it first")
    if is_pattern(str(path)):
        return _open_pattern(path, cache_bytes)
    raise DataError(f"image folder {path} {_why_not_found(path)}; name {KINDS}")


def _why_not_found(path: Path) -> str:
    try:
        path.stat()
    except (FileNotFoundError, ValueError):
        return "does not exist"
    except OSError as error:
        return f"cannot be found ({error.strerror})"
    return "was not there before"


def _open_file(path: Path, cache_bytes: int) -> Source:
    suffix = path.suffix.lower()
    _refuse_compressed(path)
    if suffix in _OPENERS:
        return _OPENERS[suffix](path, cache_bytes=cache_bytes)
    if suffix in _OPENERS_OF_SEVERAL:
        return _OPENERS_OF_SEVERAL[suffix]([path], path=path, cache_bytes=cache_bytes)
    if idx_format.NAME.fullmatch(path.name):
        return open_idx(path, cache_bytes=cache_bytes)
    what = "is a single image" if is_image(path.name) else "is no file of images that is known here"
    raise DataError(f"{path} {what}; name {KINDS}")


def _open_folder(folder: Path, cache_bytes: int) -> Source:
    images: list[str] = []
    others: list[str] = []
    for name in walk_files(folder):
        (images if is_image(name) else others).append(name)
    if images:
        return FolderImages(folder, cache_bytes=cache_bytes, names=sorted(images))
    others = sorted(name for name in others if (folder / name).is_file())
    for suffix in (".tar", ".parquet"):
        files = [folder / name for name in others if name.lower().endswith(suffix)]
        if files:
            _refuse_unfinished(folder)
            return _OPENERS_OF_SEVERAL[suffix](files, path=folder, cache_bytes=cache_bytes)
    batches = [folder / name for name in cifar.pick_files(others)]
    if batches:
        return CifarImages(batches, path=folder, cache_bytes=cache_bytes)
    file = idx_format.pick_file(others)
    if file is not None:
        return open_idx(folder / file, cache_bytes=cache_bytes)
    raise DataError(_nothing_in(folder, others))


def _refuse_unfinished(folder: Path) -> None:
    """Refuse a folder that `moco data pack` has written a part of."""
    try:
        with open(folder / "index.json", encoding="utf-8") as file:
            index = json.loads(file.read(MOST_INDEX_CHARACTERS))
    except (OSError, ValueError, RecursionError):
        return
    if isinstance(index, dict) and index.get("complete") is False:
        raise DataError(f"{folder} is packed in part only; run the same `moco data pack` again")


def _nothing_in(folder: Path, names: Sequence[str]) -> str:
    """Return the message for a folder without images, with what might have been meant."""
    for name in names:
        if COMPRESSED_TAR.search(name):
            _refuse_compressed(folder / name)
        if os.path.basename(name) == "data_batch_1":
            return (
                f"{folder} is CIFAR's version for Python, made of pickles; use its binary version"
            )
    known = [name for name in names if Path(name).suffix.lower() in _OPENERS]
    meant = f"; {folder / known[0]} is read when named itself" if known else ""
    return nothing_found(folder) + meant


def _refuse_compressed(path: Path) -> None:
    if COMPRESSED_TAR.search(path.name):
        raise DataError(
            f"{path} is compressed, which allows no reading in any order; unpack it by gunzip (or "
            "what packed it), or write shards with moco data pack SRC OUT"
        )


def _open_pattern(path: Path, cache_bytes: int) -> Source:
    files = files_of(str(path))
    suffixes = {file.suffix.lower() for file in files}
    if len(suffixes) != 1 or not suffixes <= {".tar", ".parquet"}:
        for file in files:
            _refuse_compressed(file)
        raise DataError(f"pattern {path} must name .tar or .parquet files only")
    return _OPENERS_OF_SEVERAL[suffixes.pop()](files, path=path, cache_bytes=cache_bytes)


def is_pattern(text: str) -> bool:
    """Return whether a path stands for several."""
    return glob.has_magic(text) or BRACES.search(text) is not None


def files_of(pattern: str) -> list[Path]:
    """Return the files that a pattern such as "a-{00..12}.tar" or "a-*.tar" names, sorted.

    Raises:
        DataError: It names none, or one that does not exist.
    """
    named = list(itertools.islice(expand_braces(pattern), MOST_NAMED + 1))
    if len(named) > MOST_NAMED:
        raise DataError(f"pattern {pattern} names over {MOST_NAMED} files; name fewer")
    files: set[str] = set()
    missing: list[str] = []
    for name in named:
        found = glob.glob(name, recursive=True) if glob.has_magic(name) else [name]
        files.update(found)
        missing += [file for file in found or [name] if not os.path.isfile(file)]
    if missing:
        raise DataError(
            f"{len(missing)} of the files that pattern {pattern} names do not exist, or are "
            f"folders, such as {missing[0]}"
        )
    return [Path(file) for file in sorted(files)]


def expand_braces(pattern: str) -> Iterator[str]:
    """Yield what a pattern with {first..last} or {one,other} stands for, one by one."""
    braces = BRACES.search(pattern)
    if braces is None:
        yield pattern
        return
    before, after = pattern[: braces.start()], pattern[braces.end() :]
    limits = RANGE.fullmatch(braces[1])
    if limits is None:
        choices: Iterator[str] | list[str] = braces[1].split(",")
    else:
        first, last = limits.groups()
        width = max(len(first), len(last)) if first.startswith("0") or last.startswith("0") else 0
        choices = (f"{number:0{width}d}" for number in range(int(first), int(last) + 1))
    for choice in choices:
        for rest in expand_braces(after):
            yield before + choice + rest
