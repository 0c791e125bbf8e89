"""Members of zip archives, read in pieces from any process and never unpacked to files."""

from __future__ import annotations

import zipfile
import zlib
from dataclasses import dataclass
from pathlib import Path

from moco.data.images import UnreadableImageError
from moco.data.sources.base import one_line
from moco.data.sources.files import OpenFiles

MOST_MEMBER_BYTES = 1 << 30
MOST_EASILY_UNPACKED = 64 << 20
MOST_RATIO = 200
"""Above so many bytes unpacked, data that shrink more than this are taken for a bomb."""
LOCAL_HEADER = 30
MOST_OFFSET = 1 << 62
ENCRYPTED = 1


@dataclass(frozen=True)
class Stored:
    """Where and how a member lies in its archive."""

    header: int
    """Where its own header begins, in bytes."""
    packed: int
    """Its bytes as they lie there."""
    size: int
    """Its bytes as declared."""
    checksum: int
    method: int
    flags: int

    @classmethod
    def of(cls, info: zipfile.ZipInfo) -> Stored:
        """Return what the archive's directory says of a member."""
        return cls(
            header=info.header_offset,
            packed=info.compress_size,
            size=info.file_size,
            checksum=info.CRC,
            method=info.compress_type,
            flags=info.flag_bits,
        )


def is_bomb(packed: int, size: int) -> bool:
    """Return whether data are far larger unpacked than real images could be."""
    return size > MOST_EASILY_UNPACKED and size > MOST_RATIO * packed


def open_directory(path: Path) -> list[zipfile.ZipInfo]:
    """Return what an archive's directory lists.

    Raises:
        ValueError: It is no zip archive, or a damaged one.
    """
    try:
        with zipfile.ZipFile(path) as archive:
            members = archive.infolist()
    except (zipfile.BadZipFile, NotImplementedError, OSError, EOFError, OverflowError) as error:
        raise ValueError(one_line(error)) from error
    if any(not 0 <= info.header_offset < MOST_OFFSET for info in members):
        raise ValueError("its directory is damaged")
    return members


def content_place(files: OpenFiles, path: Path, stored: Stored) -> int:
    """Return where a member's content begins, in bytes; raises UnreadableImageError."""
    header = files.read(path, stored.header, LOCAL_HEADER)
    if header[:4] != b"PK\x03\x04":
        raise UnreadableImageError("the archive is damaged: no header where one should be")
    name, extra = int.from_bytes(header[26:28], "little"), int.from_bytes(header[28:30], "little")
    return stored.header + LOCAL_HEADER + name + extra


def read_member(files: OpenFiles, path: Path, stored: Stored) -> bytes:
    """Return a member's content.

    Raises:
        UnreadableImageError: It is encrypted, packed in an unusual way, too large or damaged.
    """
    fault = fault_of_packing(stored) or _fault_of_size(stored)
    if fault is not None:
        raise UnreadableImageError(fault)
    packed = files.read(path, content_place(files, path, stored), stored.packed)
    content = packed
    if stored.method == zipfile.ZIP_DEFLATED:
        try:
            content = zlib.decompressobj(-zlib.MAX_WBITS).decompress(packed, stored.size + 1)
        except zlib.error as error:
            raise UnreadableImageError(f"the archive is damaged: {error}") from error
    if len(content) != stored.size:
        raise UnreadableImageError(f"it does not unpack to the {stored.size} bytes declared")
    if zlib.crc32(content) != stored.checksum:
        raise UnreadableImageError("the archive is damaged: a checksum differs")
    return content


def fault_of_packing(stored: Stored) -> str | None:
    """Return why a member cannot be unpacked, None for most."""
    if stored.flags & ENCRYPTED:
        return "it is encrypted"
    if stored.method not in (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED):
        return f"it is packed by method {stored.method}, which is not read; pack it by deflate"
    return None


def _fault_of_size(stored: Stored) -> str | None:
    if max(stored.size, stored.packed) > MOST_MEMBER_BYTES:
        return f"it is larger than {MOST_MEMBER_BYTES >> 30} GiB"
    if is_bomb(stored.packed, stored.size):
        return f"its {stored.packed} bytes unpack to {stored.size}, as no image does"
    return None
