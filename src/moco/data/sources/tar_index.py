"""Where the files of a tar archive lie, found from its headers alone.

Reads POSIX ustar and pax and the long names of GNU tar; nothing is unpacked, and no link is
followed. A tar archive is counted in blocks of 512 bytes.
"""

from __future__ import annotations

import os
import zlib
from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import BinaryIO, NamedTuple

from moco.data.sources.names import decoded_name, fault_of_name, is_archived_image

BLOCK = 512
MOST_HEADER_BYTES = 1 << 16
MOST_LISTED = 100
"""Refused members of one archive that are named; the rest are counted."""
END = bytes(BLOCK)
FILES = frozenset({b"0", b"\0", b"7"})
EXTENSIONS = frozenset({b"x", b"g", b"L", b"K"})
"""Headers that only tell of the next one."""
WITHOUT_CONTENT = frozenset({b"1", b"2", b"3", b"4", b"5", b"6"})
"""Links, devices, folders and pipes."""
SPARSE = "it is stored as a sparse file"
MOST_BYTES = BLOCK << 32
PADDING = 64 << 10  # what a writer may add after the end mark
AHEAD, NEAR = 256 << 10, 32 << 10


class TarMember(NamedTuple):
    """A file in an archive; places in bytes."""

    name: str
    start: int
    """Of its first header: a long name has headers of its own."""
    content: int
    size: int


@dataclass
class TarScan:
    """What an archive holds."""

    members: list[TarMember] = field(default_factory=list)
    """By name; those of one name in the order in which they lie."""
    damaged: list[tuple[str, str]] = field(default_factory=list)
    """Members that are left out, or "" for the archive itself, and why."""
    unlisted: int = 0

    def refuse(self, name: str, reason: str) -> None:
        """Note what is left out."""
        if len(self.damaged) < MOST_LISTED:
            self.damaged.append((name, reason))
        else:
            self.unlisted += 1


def scan_tar(path: Path, is_wanted: Callable[[str], bool] = is_archived_image) -> TarScan:
    """Return the files in an archive whose names are wanted; reads headers only.

    What follows damage is left out; so is every member that is no regular file, and one whose name
    is absolute or leads out of the archive.
    """
    scan = TarScan()
    try:
        if not path.is_file():
            scan.refuse("", "not a regular file")
            return scan
        with open(path, "rb", buffering=0) as file:
            for member in _Walk(file, scan).members():
                if is_wanted(member.name) and not _refused(member, scan):
                    scan.members.append(member)
    except OSError as error:
        scan.refuse("", error.strerror or type(error).__name__)
    scan.members.sort(key=lambda member: member.name)
    if scan.unlisted:
        scan.damaged.append(("", f"{scan.unlisted} more of its members are left out"))
    return scan


def _refused(member: TarMember, scan: TarScan) -> bool:
    fault = fault_of_name(member.name)
    if fault is None and member.content - member.start > MOST_HEADER_BYTES * 4:
        fault = "its header is too long"
    if member.content >= MOST_BYTES:
        fault = f"it lies beyond {MOST_BYTES >> 40} TiB"
    if fault is not None:
        scan.refuse(member.name, fault)
    return fault is not None


def member_name(headers: bytes) -> str:
    """Return the name in all the headers of one member.

    Raises:
        ValueError: They are no headers.
    """
    extra, place = _Extra(0), 0
    while headers[place + 156 : place + 157] in EXTENSIONS:
        size = _number(headers[place + 124 : place + 136])
        content = headers[place + BLOCK : place + BLOCK + size]
        extra.learn(headers[place + 156 : place + 157], content)
        place += BLOCK + _padded(size)
    return extra.name if extra.name is not None else _name(headers[place : place + BLOCK])


class _Extra:
    """What headers before a member's own say of it."""

    def __init__(self, start: int) -> None:
        self.start = start
        self.name: str | None = None
        self.size: int | None = None
        self.fault: str | None = None

    def learn(self, kind: bytes, content: bytes) -> None:
        """Raises ValueError for records that are none."""
        if kind == b"L":
            self.name = _tidy(content.rstrip(b"\0"))
        if kind != b"x":
            return
        for key, value in _pax_records(content):
            if key == b"path":
                self.name = _tidy(value)
            elif key == b"size":
                self.size = _positive(int(value))
            elif key.startswith(b"GNU.sparse."):
                self.fault = SPARSE

    def overrule(self, member: TarMember) -> TarMember:
        """Return a member as this tells of it."""
        name = member.name if self.name is None else self.name
        size = member.size if self.size is None else self.size
        return TarMember(name, self.start, member.content, size)


class _Walk:
    """Goes from header to header of one archive."""

    def __init__(self, file: BinaryIO, scan: TarScan) -> None:
        self.scan, self.headers = scan, _Headers(file)

    def members(self) -> Iterator[TarMember]:
        """Yield the regular files in the order in which they lie."""
        place: int | None = 0
        extra = None
        while place is not None and (header := self._header(place)) is not None:
            kind = header[156:157]
            try:
                size = _number(header[124:136])
                if kind in EXTENSIONS:
                    extra = extra or _Extra(place)
                    self._learn(extra, kind, place + BLOCK, size)
                    place += BLOCK + _padded(size)
                    continue
                member = TarMember(_name(header), place, place + BLOCK, size)
            except ValueError:
                self.scan.refuse("", f"damaged at byte {place}; what follows is left out")
                return
            if extra is not None:
                member = extra.overrule(member)
            place = self._next(kind, member)
            if place is not None and self._is_file(kind, member, extra):
                yield member
            extra = None

    def _is_file(self, kind: bytes, member: TarMember, extra: _Extra | None) -> bool:
        fault = extra.fault if extra is not None else None
        if kind == b"S":
            fault = SPARSE
        if fault is not None:
            self.scan.refuse(member.name, fault)
        return fault is None and kind in FILES and not member.name.endswith("/")

    def _learn(self, extra: _Extra, kind: bytes, content: int, size: int) -> None:
        if size <= MOST_HEADER_BYTES:
            extra.learn(kind, self.headers.read(content, size))
        elif kind in (b"x", b"L"):
            extra.fault = "its header is too long"

    def _next(self, kind: bytes, member: TarMember) -> int | None:
        """Return where the next header lies, None where the archive ends before that."""
        content = member.content
        if kind in WITHOUT_CONTENT:
            return content
        if kind == b"S":
            more = self.headers.read(content - BLOCK, BLOCK)[482:483]
            while more not in (b"", b"\0"):  # further blocks of the map of its holes
                more, content = self.headers.read(content, BLOCK)[504:505], content + BLOCK
        if content + member.size > self.headers.size:
            self.scan.refuse(member.name, "the archive is cut off within it")
            return None
        return content + _padded(member.size)

    def _header(self, place: int) -> bytes | None:
        """Return the header at a place; None at the end, which is noted unless it is proper."""
        header = self.headers.read(place, BLOCK)
        if _sums_up(header):
            return header
        if place == 0 and header != END:
            self.scan.refuse("", "not a tar archive")
        elif len(header) < BLOCK:
            self.scan.refuse("", f"cut off: it ends at byte {self.headers.size} without end mark")
        elif header != END:
            self.scan.refuse("", f"damaged at byte {place}; what follows is left out")
        elif self.headers.size - place > PADDING:
            self.scan.refuse("", f"ends at byte {place}; what follows is left out")
        return None


class _Headers:
    """Reads blocks of a file by place: near ones ahead at once, far ones alone."""

    def __init__(self, file: BinaryIO) -> None:
        self._file, self._held, self._begin, self._last = file, b"", 0, 0
        self.size = os.fstat(file.fileno()).st_size
        if hasattr(os, "posix_fadvise"):  # or the system reads the contents along
            with suppress(OSError):  # only advice
                os.posix_fadvise(file.fileno(), 0, 0, os.POSIX_FADV_RANDOM)

    def read(self, place: int, size: int) -> bytes:
        """Return `size` bytes, or those up to the end of the file."""
        if place >= self.size:  # a damaged size may lead further than the system can seek
            return b""
        within = place - self._begin
        if not 0 <= within <= len(self._held) - size:
            is_near = 0 <= place - self._last <= NEAR
            self._file.seek(place)
            self._held = self._file.read(max(size, AHEAD if is_near else BLOCK))
            self._begin, within = place, 0
        self._last = place
        return self._held[within : within + size]


def _sums_up(header: bytes) -> bool:
    """Return whether a block is a header: it holds the sum of its bytes."""
    if len(header) < BLOCK or header[0] == 0 == header[156]:
        return False
    try:
        expected = _number(header[148:156])
    except ValueError:
        return False
    blanked = b"%b        %b" % (header[:148], header[156:])
    if zlib.adler32(blanked) & 0xFFFF == (expected + 1) % 65521:  # its low half is that sum
        return True
    signed = sum(byte - 256 if byte > 127 else byte for byte in blanked)  # as old writers add up
    return signed == expected


def _number(digits: bytes) -> int:
    """Return a number in octal digits, or in binary for large ones; raises ValueError."""
    if digits[0] == 0x80:
        return int.from_bytes(digits[1:], "big")
    return _positive(int(digits.strip(b" \0") or b"0", 8))


def _positive(number: int) -> int:
    if number < 0:
        raise ValueError("a negative size")
    return number


def _padded(size: int) -> int:
    return -(-size // BLOCK) * BLOCK


def _name(header: bytes) -> str:
    name = header[:100].partition(b"\0")[0]
    if header[257:263] == b"ustar\0" and header[345]:
        name = header[345:500].partition(b"\0")[0] + b"/" + name
    return _tidy(name)


def _tidy(name: bytes) -> str:
    while name.startswith(b"./"):
        name = name[2:]
    return decoded_name(name)


def _pax_records(content: bytes) -> Iterator[tuple[bytes, bytes]]:
    """Yield the records "LENGTH KEY=VALUE"; raises ValueError for what is none."""
    place = 0
    while place < len(content):
        blank = content.index(b" ", place)
        end = place + int(content[place:blank])
        if not blank < end <= len(content):
            raise ValueError("a record of no such length")
        key, _, value = content[blank + 1 : end - 1].partition(b"=")
        yield key, value
        place = end
