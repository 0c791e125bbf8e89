"""Shards written aside and renamed when whole, and the index that says which there are.

OUT/index.json       settings, source, shards, images passed over
    NAME-000000.tar  N.jpg, N.cls, ...: N is the image's number in the source
"""

from __future__ import annotations

import io
import json
import os
import re
import tarfile
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from moco.data_tools.words import plain_text
from moco.errors import StorageError, UsageError

INDEX = "index.json"
FORMAT = "moco-pack 1"
BLOCK = 512
PLAIN_NAME = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_.-]*")
"""What shards may be called after: what leads nowhere else and no shell minds."""
_ASIDE = re.compile(r"\.tmp-\d+\Z")


@dataclass(frozen=True)
class Shard:
    """A whole shard."""

    file: str
    first: int
    """The number of its first image in the source; with those passed over."""
    end: int
    """The number of the next shard's first."""
    images: int
    bytes: int


@dataclass(frozen=True)
class PassedOver:
    """An image that was not packed."""

    image: int
    name: str
    reason: str


@dataclass
class Index:
    """What index.json says: nothing in it depends on when or how often packing was begun."""

    name: str
    """What the shards are called after."""
    settings: dict[str, Any]
    source: dict[str, Any]
    """How many images, a fingerprint of their names, whether they have labels."""
    shards: list[Shard] = field(default_factory=list)
    skipped: list[PassedOver] = field(default_factory=list)
    complete: bool = False

    @property
    def next_image(self) -> int:
        """The first image that is in no whole shard."""
        return self.shards[-1].end if self.shards else 0

    @property
    def images(self) -> int:
        """How many are packed."""
        return sum(shard.images for shard in self.shards)

    @property
    def bytes(self) -> int:
        """Of all shards."""
        return sum(shard.bytes for shard in self.shards)

    def as_text(self) -> str:
        """Return the file."""
        plain = {"format": FORMAT, "complete": self.complete, "images": self.images}
        return json.dumps({**plain, **asdict(self)}, indent=1) + "\n"


def read_index(out: Path) -> Index | None:
    """Return the index of a folder, None where there is nothing; with the shards that are whole.

    Raises:
        UsageError: The folder holds something else, or is none.
        StorageError: It cannot be read.
    """
    try:
        names = sorted(os.listdir(out)) if os.path.lexists(out) else []
        text = (out / INDEX).read_text(encoding="utf-8") if INDEX in names else ""
    except NotADirectoryError as error:
        raise UsageError(f"{out} is a file; name a new folder to pack into") from error
    except UnicodeDecodeError as error:
        raise _foreign(out, INDEX) from error
    except OSError as error:
        raise StorageError(
            f"cannot read {out}: {error.strerror or error}; name another folder"
        ) from error
    index = _parsed(out, text) if text else None
    name = re.escape(index.name) if index else ""
    ours = re.compile(
        rf"(index\.json|{name}-\d{{6,}}\.tar)(\.tmp-\d+)?" if index else "index.json.*"
    )
    for file in names:
        if not ours.fullmatch(file):
            raise _foreign(out, file)
    if index is not None:
        _keep_whole(out, index)
    return index


def _parsed(out: Path, text: str) -> Index:
    try:
        found = json.loads(text)
        if found["format"] != FORMAT or not PLAIN_NAME.fullmatch(found["name"]):
            raise ValueError(found["format"])
        counts = ("first", "end", "images", "bytes")
        return Index(
            found["name"],
            dict(found["settings"]),
            dict(found["source"]),
            [
                Shard(shard["file"], *(int(shard[key]) for key in counts))
                for shard in found["shards"]
            ],
            [
                PassedOver(int(image["image"]), str(image["name"]), str(image["reason"]))
                for image in found["skipped"]
            ],
            found["complete"] is True,
        )
    except (ValueError, KeyError, TypeError, RecursionError) as error:
        raise _foreign(out, INDEX) from error


def _foreign(out: Path, file: str) -> UsageError:
    return UsageError(
        f"{out} holds files of something else ({plain_text(file)}); pack into a new folder"
    )


def _keep_whole(out: Path, index: Index) -> None:
    """Forget a shard that is gone or cut short, with those behind it."""
    for place, shard in enumerate(index.shards):
        path = out / shard.file
        if path.parent != out or not path.is_file() or path.stat().st_size != shard.bytes:
            del index.shards[place:]
            index.skipped = [image for image in index.skipped if image.image < index.next_image]
            index.complete = False
            return


class ShardWriter:
    """Puts images into shards, one after another; any of them can be last.

    Members of a shard take at most `shard_bytes`, unless one image alone takes more.

    Where a shard ends depends on its own images alone, so that a second run goes on as the first
    would have.
    """

    def __init__(self, out: Path, index: Index, *, shard_bytes: int) -> None:
        self.out, self.index, self.shard_bytes = out, index, shard_bytes
        self.skipped: list[PassedOver] = []
        """Since the last whole shard."""
        self._first, self._images, self._bytes = index.next_image, 0, 0
        self._file: io.BufferedWriter | None = None
        self._tar: tarfile.TarFile | None = None

    def begin(self) -> None:
        """Make the folder, or take it up again: without what a killed run left."""
        self.out.mkdir(parents=True, exist_ok=True)
        try:
            for path in self.out.iterdir():
                if _ASIDE.search(path.name):
                    path.unlink()
            self._write_index()
        except OSError:
            with suppress(OSError):
                self.out.rmdir()  # which a folder with anything in it withstands
            raise

    def skip(self, image: int, name: str, reason: str) -> None:
        """Note an image that is not packed."""
        self.skipped.append(PassedOver(image, name, reason))

    def add(self, image: int, members: Sequence[tuple[str, bytes]]) -> None:
        """Add the files of an image, named and in order."""
        size = sum(BLOCK + _padded(len(content)) for _, content in members)
        if self._images and self._bytes + size > self.shard_bytes:
            self._finish(image)
        tar = self._opened()
        for name, content in members:
            about = tarfile.TarInfo(name)  # with mode 644, and neither time nor owner
            about.size = len(content)
            tar.addfile(about, io.BytesIO(content))
        self._images, self._bytes = self._images + 1, self._bytes + size

    def end(self, images: int) -> None:
        """Finish the last shard; the source has so many images."""
        if self._images:
            self._finish(images)
        self.index.skipped += self.skipped
        self.index.complete = True
        self._write_index()

    def abandon(self) -> None:
        """Leave nothing of a shard that is not whole."""
        if self._file is not None:
            with suppress(OSError):
                self._file.close()
            with suppress(OSError):  # or it would hide why the shard is abandoned
                self._aside(self._name()).unlink(missing_ok=True)

    def _name(self) -> str:
        return f"{self.index.name}-{len(self.index.shards):06}.tar"

    def _aside(self, name: str) -> Path:
        return self.out / f"{name}.tmp-{os.getpid()}"

    def _opened(self) -> tarfile.TarFile:
        if self._tar is None:
            self._file = open(self._aside(self._name()), "wb")  # noqa: SIM115  closed when whole
            self._tar = tarfile.open(  # noqa: SIM115
                fileobj=self._file, mode="w", format=tarfile.USTAR_FORMAT
            )
        return self._tar

    def _finish(self, next_image: int) -> None:
        """Give the shard its name once the disk has it, then tell of it in the index."""
        if self._tar is None or self._file is None:
            return
        self._tar.close()
        _synced(self._file)
        size, name = self._file.tell(), self._name()
        self._file.close()
        os.replace(self._aside(name), self.out / name)
        sync_folder(self.out)
        self._file = self._tar = None
        shard = Shard(name, self._first, next_image, self._images, size)
        before = [image for image in self.skipped if image.image < next_image]
        self.index.shards.append(shard)
        self.index.skipped += before
        self.skipped = self.skipped[len(before) :]
        self._first, self._images, self._bytes = next_image, 0, 0
        self._write_index()

    def _write_index(self) -> None:
        aside = self._aside(INDEX)
        try:
            with open(aside, "wb") as file:
                file.write(self.index.as_text().encode())
                _synced(file)
            os.replace(aside, self.out / INDEX)
        finally:
            aside.unlink(missing_ok=True)
        sync_folder(self.out)


def _padded(size: int) -> int:
    return -(-size // BLOCK) * BLOCK


def _synced(file: io.BufferedWriter) -> None:
    file.flush()
    os.fsync(file.fileno())


def sync_folder(folder: Path) -> None:
    """Make renames in a folder outlast a power cut."""
    if os.name == "nt":  # Windows cannot sync a directory
        return
    handle = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)
