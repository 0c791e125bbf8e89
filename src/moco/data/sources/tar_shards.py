"""Images in tar archives as WebDataset lays them out, read in any order and never unpacked."""

from __future__ import annotations

import json
import os
from array import array
from collections.abc import Iterable, Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from moco.data.decoding import decode
from moco.data.images import Pixels, UnreadableImageError
from moco.data.sources.base import Source, joined_labels
from moco.data.sources.files import OpenFiles
from moco.data.sources.names import NamesDigest, first_folders, is_archived_image
from moco.data.sources.tar_index import BLOCK, TarMember, TarScan, member_name, scan_tar
from moco.errors import DataError

LABEL_BYTES = {".cls": 1 << 10, ".json": 64 << 10}
"""The suffixes of files that may hold a label, and up to which size they are read."""
MOST_IMAGE_BYTES = 1 << 30
MOST_STORED = (1 << 32) - 1


class TarImages(Source):
    """The images of one or more shards, shard by shard, by name within a shard.

    Ten bytes of memory for each image: names are read again from the archive when asked for.

    Args:
        paths: the shards, in order.
        path: what they were named by.

    Raises:
        DataError: There is no image in any shard.
    """

    def __init__(
        self, paths: Sequence[Path], *, path: str | Path | None = None, cache_bytes: int = 0
    ) -> None:
        super().__init__(cache_bytes=cache_bytes)
        self.path = Path(path if path is not None else paths[0])
        self.shards = list(paths)
        self._prefixes = shard_prefixes(self.shards)
        self._files = OpenFiles()
        digest, places, counts = NamesDigest(), _Places(), []
        for number, shard in enumerate(self.shards):
            scan = scan_tar(shard)
            self._note_damage(number, scan)
            for member in scan.members:
                digest.add(self._prefixes[number] + member.name)
            places.add(scan.members)
            counts.append(len(scan.members))
        self._keep_shards_with_images(counts)
        self._fingerprint = digest.hexdigest()
        if not len(self):
            raise DataError(f"no image in {self.path}; {self._first_damage()}")
        self._contents = np.frombuffer(places.contents, np.uint32)
        self._headers = np.frombuffer(places.headers, np.uint16)
        self._sizes = np.frombuffer(places.sizes, np.uint32)

    def _keep_shards_with_images(self, counts: Sequence[int]) -> None:
        kept = [number for number, count in enumerate(counts) if count]
        self.shards = [self.shards[number] for number in kept]
        self._prefixes = [self._prefixes[number] for number in kept]
        self._starts = np.cumsum([0, *(counts[number] for number in kept)])

    def _note_damage(self, number: int, scan: TarScan) -> None:
        shard = self._prefixes[number] or f"{self.shards[number].name}/"
        for name, reason in scan.damaged:
            self.damaged.append((f"{shard}{name}" if name else shard[:-1], reason))

    def _first_damage(self) -> str:
        if self.damaged:
            return ": ".join(self.damaged[0])
        return "shards hold image files such as 000001.jpg"

    def __len__(self) -> int:
        return int(self._starts[-1])

    @property
    def nbytes(self) -> int:
        """Memory that the index takes."""
        parts = (self._contents, self._headers, self._sizes, self._starts)
        return sum(part.nbytes for part in parts)

    def _place(self, image_id: int) -> tuple[int, int, int]:
        """Return the shard of an image, and the bytes of its first header and of its content."""
        shard = int(np.searchsorted(self._starts, image_id, "right")) - 1
        content = int(self._contents[image_id]) * BLOCK
        return shard, content - int(self._headers[image_id]) * BLOCK, content

    def _name(self, image_id: int) -> str:
        shard, start, content = self._place(image_id)
        try:
            headers = self._files.read(self.shards[shard], start, content - start)
            return self._prefixes[shard] + member_name(headers)
        except (UnreadableImageError, ValueError):  # the shard was changed meanwhile
            return f"{self._prefixes[shard]}{self.shards[shard].name} byte {start}"

    def _read(self, image_id: int) -> Pixels:
        shard, start, content = self._place(image_id)
        size = int(self._sizes[image_id])
        if size > MOST_IMAGE_BYTES:
            raise UnreadableImageError(f"larger than {MOST_IMAGE_BYTES >> 30} GiB")
        found = self._files.read(self.shards[shard], start, content - start + size)
        try:
            name = member_name(found[: content - start])
        except ValueError as error:
            raise UnreadableImageError("the shard was changed meanwhile") from error
        return decode(found[content - start :], name)

    def labels(self) -> list[str] | None:
        """Return the class of each image.

        From the `.cls` file of its key, else from "label" in its `.json` file; where some image
        has neither, the first folder of the names when every image lies in one, else None.
        """
        labels: list[str | None] = []
        names: list[str] = []
        for shard in self.shards:
            members = scan_tar(shard, lambda name: is_archived_image(name) or is_label(name))
            images = [member.name for member in members.members if is_archived_image(member.name)]
            known = self._read_labels(shard, members.members)
            labels += [known.get(key_of(name)) for name in images]
            names += images
        if len(names) != len(self):
            raise DataError(f"the shards of {self.path} were changed meanwhile; start again")
        stored = [label for label in labels if label is not None]
        return stored if len(stored) == len(labels) else first_folders(names)

    def _read_labels(self, shard: Path, members: Iterable[TarMember]) -> dict[str, str]:
        known: dict[str, str] = {}
        for suffix, most in reversed(LABEL_BYTES.items()):  # the last one read counts
            for member in members:
                if member.name.endswith(suffix) and member.size <= most:
                    label = label_in(self._files.read(shard, member.content, member.size), suffix)
                    if label is not None:
                        known[key_of(member.name)] = label
        return known

    def fingerprint(self) -> str:
        """Return a SHA-256 of the names of all images in order, as they were when opened."""
        return self._fingerprint

    def shard_sizes(self) -> NDArray[np.int64]:
        """Return how many images each shard holds."""
        return np.diff(self._starts)

    def prefetch(self, shard: int) -> None:
        """Ask the system to read a shard that will soon be needed."""
        self._files.prefetch(self.shards[shard])


def shard_prefixes(shards: Sequence[Path]) -> list[str]:
    """Return what stands before the names of each shard's files: nothing where there is one."""
    if len(shards) == 1:
        return [""]
    folder = os.path.commonpath([os.path.abspath(shard.parent) for shard in shards])
    return [f"{os.path.relpath(os.path.abspath(shard), folder)}/" for shard in shards]


def key_of(name: str) -> str:
    """Return what the files of one sample have in common: their path up to the first dot."""
    folder, separator, file = name.rpartition("/")
    return folder + separator + file.partition(".")[0]


def is_label(name: str) -> bool:
    """Return whether a file may hold a label."""
    return name.endswith(tuple(LABEL_BYTES))


def label_in(content: bytes, suffix: str) -> str | None:
    """Return the label that a `.cls` or `.json` file holds, None where there is none."""
    try:
        if suffix == ".cls":
            return content.decode("utf-8").strip() or None
        fields = json.loads(content)
    except (ValueError, RecursionError):
        return None
    label = fields.get("label") if isinstance(fields, dict) else None
    if isinstance(label, list) and all(isinstance(part, int | str) for part in label):
        return joined_labels(label)
    return str(label) if isinstance(label, int | float | str) else None


class _Places:
    """Where contents begin and how long their headers are, in blocks, and their bytes.

    Grows in place, so that building it takes hardly more memory than keeping it.
    """

    def __init__(self) -> None:
        self.contents, self.headers, self.sizes = array("I"), array("H"), array("I")

    def add(self, members: Sequence[TarMember]) -> None:
        self.contents.extend(member.content // BLOCK for member in members)
        self.headers.extend((member.content - member.start) // BLOCK for member in members)
        self.sizes.extend(min(member.size, MOST_STORED) for member in members)
