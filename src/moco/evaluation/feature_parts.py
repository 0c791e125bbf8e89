"""Features on their way to a file: parts in a folder, kept as they are done.

FOLDER/about.json         what all parts have in common: model, layer, views, images
FOLDER/rows.float32       room for a row an image; each part's rows from its first image's place on
FOLDER/part_00000.json    written last: the part is done, its images that could not be read, a sum
FOLDER/dense.float32      all rows without gaps, made at the end where images could not be read

Letters: N images, D features, P images of a part.
"""

from __future__ import annotations

import hashlib
import json
import math
import os
import shutil
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import asdict, dataclass
from io import BufferedRandom
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from moco.errors import StorageError, UsageError, storage_remedy
from moco.evaluation.features import Features
from moco.plain_files import read_small, through_no_link
from moco.run_lock import LOCK_NAME, RunLock

ABOUT, ROWS, DENSE = "about.json", "rows.float32", "dense.float32"
MOST_JSON_BYTES = 1 << 26
COPIED_BYTES = 1 << 26
NUMBER_BYTES = 4


@dataclass(frozen=True)
class PartsOf:
    """What parts must have in common to be put together, in words."""

    model: str
    """Its weights."""
    layer: str
    views: str
    images: str
    """Which images, in order."""
    precision: str
    device: str
    """Its kind: others compute other bits."""
    count: int
    """N."""
    features: int
    """D."""
    part_images: int
    """P; the last part may have fewer."""

    @property
    def parts(self) -> int:
        """How many there are."""
        return math.ceil(self.count / self.part_images)

    def image_ids(self, part: int) -> range:
        """Return which images a part is of."""
        first = part * self.part_images
        return range(first, min(first + self.part_images, self.count))


@dataclass(frozen=True)
class Skipped:
    """An image that could not be read."""

    image_id: int
    name: str
    reason: str


class FeatureParts:
    """Keeps parts in a folder, each for good once `keep` returned.

    Args:
        folder: is made by `begin`, and removed by `drop`.
        about: what the parts have in common.
    """

    def __init__(self, folder: Path, about: PartsOf) -> None:
        self.folder, self.about = folder, about
        self._lock = RunLock(folder, what="folder", option="--out")

    def begin(self) -> None:
        """Make the folder, or take up one whose parts are of the same; it is ours until `leave`.

        Raises:
            UsageError: It has parts of something else; says what differs. Or it is in use.
            StorageError: It cannot be made, or the disk has no room.
        """
        with self._storing(self.folder):
            self.folder.mkdir(exist_ok=True)
            names = set(os.listdir(self.folder))
            foreign = names - {LOCK_NAME, ROWS, f".{ABOUT}.tmp"}
            if foreign and ABOUT not in names:
                raise UsageError(
                    f"{self.folder} holds files of something else, such as {min(foreign):.80}; "
                    "move them, or name another --out"
                )
            self._lock.acquire()
            if os.path.lexists(self.folder / ABOUT):
                self._check_same()
            else:
                self._make()
            size = self.about.count * self.about.features * NUMBER_BYTES
            with self._rows() as file:
                if file.seek(0, os.SEEK_END) != size:
                    file.truncate(size)

    def _make(self) -> None:
        needed = 2 * self.about.count * self.about.features * NUMBER_BYTES  # these and the file
        free = shutil.disk_usage(self.folder).free
        if free < needed:
            raise StorageError(
                f"{self.folder} and the file need {needed / 1e6:,.0f} MB and {free / 1e6:,.0f} MB "
                "are free; make room, or name another --out"
            )
        os.close(through_no_link(str(self.folder / ROWS), os.O_RDWR | os.O_CREAT))
        self._write_json(ABOUT, asdict(self.about))

    def _check_same(self) -> None:
        kept = self._read_json(ABOUT)
        if not isinstance(kept, dict) or set(kept) != set(asdict(self.about)):
            raise UsageError(
                f"{self.folder} has no readable {ABOUT}; remove the folder to begin again, or name "
                "another --out"
            )
        for name, value in asdict(self.about).items():
            if kept[name] != value:
                raise UsageError(
                    f"{self.folder} has parts of other {name.replace('_', ' ')} "
                    f"({kept[name]!s:.80}, now {value!s:.80}); remove the folder to begin again, "
                    "or name another --out"
                )

    def missing(self) -> list[int]:
        """Return the parts that are not done, or no longer as they were written."""
        return [part for part in range(self.about.parts) if not self._is_done(part)]

    def _is_done(self, part: int) -> bool:
        marker = self._read_json(_marker(part))
        skipped = _skipped_in(marker, self.about.image_ids(part))
        if skipped is None:
            return False
        count = len(self.about.image_ids(part)) - len(skipped)
        with self._storing(self.folder / ROWS), self._rows() as file:
            file.seek(self._place(part))
            rows = file.read(count * self.about.features * NUMBER_BYTES)
        return bool(hashlib.sha256(rows).hexdigest() == marker["sha256"])

    def keep(self, part: int, found: Features) -> None:
        """Write a part's rows, then that it is done.

        Raises:
            StorageError: They cannot be written; other parts are untouched.
        """
        rows = found.rows.contiguous().numpy().astype("<f4", copy=False).tobytes()
        lost = sorted(set(self.about.image_ids(part)) - set(found.image_ids.tolist()))
        skipped = [
            [image_id, name, reason]
            for image_id, (name, reason) in zip(lost, found.skipped, strict=True)
        ]
        with self._storing(self.folder / ROWS), self._rows() as file:
            file.seek(self._place(part))
            file.write(rows)
            file.flush()
            os.fsync(file.fileno())
        with self._storing(self.folder / _marker(part)):
            digest = hashlib.sha256(rows).hexdigest()
            self._write_json(_marker(part), {"sha256": digest, "skipped": skipped})

    def skipped(self) -> list[Skipped]:
        """Return the images that could not be read, once all parts are done."""
        found: list[Skipped] = []
        for part in range(self.about.parts):
            of_part = _skipped_in(self._read_json(_marker(part)), self.about.image_ids(part))
            if of_part is None:
                raise StorageError(f"{self.folder / _marker(part)} is gone; begin again")
            found += of_part
        return found

    def rows(self, skipped: Sequence[Skipped]) -> Tensor:
        """Return [N - skipped, D] float32, memory-mapped, once all parts are done.

        Raises:
            StorageError: There is no room for rows without gaps.
        """
        path, count = self.folder / ROWS, self.about.count - len(skipped)
        with self._storing(self.folder / DENSE):
            if skipped:
                self._write_dense({image.image_id for image in skipped})
                path = self.folder / DENSE
            shape = (count, self.about.features)
            return torch.from_numpy(np.memmap(path, "<f4", "r+", shape=shape))

    def _write_dense(self, skipped: set[int]) -> None:
        row_bytes = self.about.features * NUMBER_BYTES
        with (
            self._rows() as source,
            open(self.folder / DENSE, "wb", opener=through_no_link) as target,
        ):
            for part in range(self.about.parts):
                left = sum(image_id not in skipped for image_id in self.about.image_ids(part))
                source.seek(self._place(part))
                size = left * row_bytes
                while size:
                    content = source.read(min(size, COPIED_BYTES))
                    target.write(content)
                    size -= len(content)

    def leave(self) -> None:
        """Let others have the folder; remove it if nothing was begun in it."""
        self._lock.release()
        with suppress(OSError):
            os.rmdir(self.folder)

    def drop(self) -> None:
        """Remove the folder: what it held is in a file."""
        self.leave()
        shutil.rmtree(self.folder, ignore_errors=True)

    def _place(self, part: int) -> int:
        return part * self.about.part_images * self.about.features * NUMBER_BYTES

    def _rows(self) -> BufferedRandom:
        return open(self.folder / ROWS, "r+b", opener=through_no_link)

    def _read_json(self, name: str) -> Any:
        """Return what a file holds, None where it is missing or damaged."""
        try:
            return json.loads(read_small(self.folder / name, MOST_JSON_BYTES))
        except (OSError, ValueError, RecursionError):
            return None

    def _write_json(self, name: str, value: object) -> None:
        aside = self.folder / f".{name}.tmp"
        with open(aside, "w", encoding="utf-8", opener=through_no_link) as file:
            json.dump(value, file)
            file.flush()
            os.fsync(file.fileno())
        os.replace(aside, self.folder / name)

    @contextmanager
    def _storing(self, path: Path) -> Iterator[None]:
        try:
            yield
        except StorageError:
            raise
        except OSError as error:
            raise StorageError(
                f"cannot write {path}: {error.strerror or error}; {storage_remedy(error)}, then "
                "the same command goes on with the parts that are done"
            ) from error


def _marker(part: int) -> str:
    return f"part_{part:05}.json"


def _skipped_in(marker: Any, image_ids: range) -> list[Skipped] | None:
    """Return the images that a part's marker says could not be read, None where it is none."""
    try:
        str(marker["sha256"])
        found = [Skipped(int(at), str(name), str(why)) for at, name, why in marker["skipped"]]
    except (TypeError, KeyError, ValueError):
        return None
    ids = [image.image_id for image in found]
    return found if ids == sorted(set(ids) & set(image_ids)) else None
