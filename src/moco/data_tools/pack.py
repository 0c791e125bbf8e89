"""A source's images made small and put into shards, for training that reads little and in order."""

from __future__ import annotations

import os
import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

from moco.bad_limit import check_bad_limit, most_bad
from moco.data.images import StoredImages
from moco.data.sources.folder import FolderImages
from moco.data_tools.encoding import Encoded, Encoding, Unusable, encode_image
from moco.data_tools.reading import Report, each_image
from moco.data_tools.shards import Index, ShardWriter, read_index
from moco.data_tools.words import plain_text
from moco.errors import DataError, InterruptedRunError, StorageError, UsageError, storage_remedy
from moco.specs import BAD_LIMIT

CHUNK = 4
"""Packed images that wait together: few, as they may be large."""
SHARD_BYTES = 256_000_000
FIRST_NAMES = 5
MOST_LETTERS = 100
"""Of a source's name, which may be a long pattern, in that of a shard."""


@dataclass(frozen=True)
class Packed:
    """What is in the folder now."""

    index: Index
    new_images: int
    """How many of them this call has packed."""


def pack(  # noqa: PLR0913  as many things can be asked for
    images: StoredImages,
    out: Path,
    encoding: Encoding,
    *,
    name: str,
    shard_bytes: int = SHARD_BYTES,
    workers: int = 0,
    bad_limit: float = BAD_LIMIT,
    report: Report | None = None,
    stop: Callable[[], int | None] = lambda: None,
) -> Packed:
    """Pack the images into shards OUT/NAME-000000.tar, ..., or go on where a stopped call was.

    The same images, settings and versions of libraries give the same bytes, in one call or many.

    Args:
        name: what shards are called after, from `plain_name`; a begun folder keeps its own.
        bad_limit: share of the images, 0 to 1, that may be left out.
        report: called with (images done, images in all).
        stop: the exit code to stop with, None to go on; asked after each image.

    Raises:
        UsageError: The folder holds something else, or other images or settings; or no such limit.
        DataError: More images than the limit cannot be packed, or none can.
        StorageError: The folder cannot be written, or the disk is full; whole shards stay.
        InterruptedRunError: It was asked to stop; whole shards stay.
    """
    check_bad_limit(bad_limit)
    labels = images.labels()
    index = _index_for(
        images, out, name, {**encoding.settings(), "shard_bytes": shard_bytes}, labels
    )
    if index.complete:
        return Packed(index, 0)
    before = index.images
    writer = ShardWriter(out, index, shard_bytes=shard_bytes)
    try:
        writer.begin()
        found = each_image(
            images,
            range(index.next_image, len(images)),
            partial(encode_image, encoding=encoding),
            workers=workers,
            chunk=CHUNK,
        )
        _add_images(writer, images, labels, found, bad_limit, report, stop)
    except OSError as error:
        if isinstance(error, StorageError):
            raise
        raise StorageError(
            f"cannot write {error.filename or out}: {error.strerror or error}; "
            f"{storage_remedy(error)}, then the same command goes on after the last whole shard"
        ) from error
    finally:
        writer.abandon()
    return Packed(index, index.images - before)


def _index_for(
    images: StoredImages,
    out: Path,
    name: str,
    settings: dict[str, Any],
    labels: list[str] | None,
) -> Index:
    source = {
        "images": len(images),
        "fingerprint": images.fingerprint(),
        "labels": labels is not None,
    }
    found = read_index(out)
    if found is None:
        return Index(name, settings, source)
    different = [
        f"{key} {old.get(key)} -> {value}"
        for old, new in ((found.settings, settings), (found.source, source))
        for key, value in new.items()
        if old.get(key) != value
    ]
    if found.source != source:
        different = [text for text in different if not text.startswith("fingerprint")]
        different.append("other images")
    if different:
        raise UsageError(
            f"{out} was packed otherwise ({plain_text(', '.join(different))}); pack into another "
            "folder, or remove it"
        )
    return found


def _add_images(
    writer: ShardWriter,
    images: StoredImages,
    labels: list[str] | None,
    found: Iterator[Encoded | Unusable],
    bad_limit: float,
    report: Report | None,
    stop: Callable[[], int | None],
) -> None:
    total, first = len(images), writer.index.next_image
    digits = max(6, len(str(total - 1)))
    most, bad = most_bad(bad_limit, total), len(writer.index.skipped)
    for image_id, image in enumerate(found, start=first):
        if isinstance(image, Unusable):
            bad += 1
            writer.skip(image_id, images.name(image_id), image.reason)
            if bad > most:
                raise _too_many(writer, total, bad, bad_limit)
        else:
            key = f"{image_id:0{digits}}"
            members = [(key + image.suffix, image.content)]
            if labels is not None:
                members.append((f"{key}.cls", label_bytes(labels[image_id])))
            writer.add(image_id, members)
        if report is not None:
            report(image_id + 1, total)
        code = stop()
        if code is not None:
            raise InterruptedRunError(
                f"stopped after {writer.index.images} packed images; the same command goes on", code
            )
    if bad == total:
        raise _too_many(writer, total, bad, bad_limit)
    writer.end(total)


def _too_many(writer: ShardWriter, total: int, bad: int, bad_limit: float) -> DataError:
    skipped = [*writer.index.skipped, *writer.skipped]
    named = "; ".join(
        f"{plain_text(image.name)}: {image.reason}" for image in skipped[:FIRST_NAMES]
    )
    return DataError(
        f"{bad} of {total} images cannot be packed, more than the limit of {100 * bad_limit:g} % "
        f"({named}); `moco data check` lists them: mend them, or raise --bad-limit, and "
        "the same command goes on; or remove them and pack into another folder"
    )


def label_bytes(label: str) -> bytes:
    """Return a class name as a `.cls` file holds it: UTF-8 in which blanks at the ends count."""
    inner = label.strip()
    if inner != label or not inner:
        start = label.index(inner) if inner else len(label)
        ends = (label[:start], label[start + len(inner) :])
        before, after = ("".join(f"\\x{ord(letter):02x}" for letter in end) for end in ends)
        label = before + inner + after or "\\x"
    return label.encode("utf-8", "backslashreplace")


def plain_name(source: Path) -> str:
    """Return what shards of a source are called after: some letters that no shell minds."""
    path = source.resolve()
    name = path.name if os.path.isdir(path) else path.stem
    return re.sub(r"[^A-Za-z0-9_.]+", "-", name).strip("-.")[:MOST_LETTERS] or "images"


def check_apart(source: Path, out: Path) -> None:
    """Refuse to pack into the source itself.

    Raises:
        UsageError: The folder lies in the source, or is it.
    """
    if source.resolve() in (out.resolve(), *out.resolve().parents):
        raise UsageError(
            f"{out} lies in the images themselves; pack into a folder outside {source}"
        )


def stored_bytes(source: Path, images: StoredImages) -> int | None:
    """Return the size of the files that a source reads, None where they are not known."""
    try:
        if source.is_file():
            return source.stat().st_size
        if isinstance(images, FolderImages):
            names = (images.name(image_id) for image_id in range(len(images)))
            return sum(os.stat(images.path / name).st_size for name in names)
    except OSError:
        return None
    return None
