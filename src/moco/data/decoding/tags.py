"""The tags of a TIFF file, and of the Exif metadata of others, which are a small one."""

from __future__ import annotations

import struct
from collections.abc import Collection
from typing import NamedTuple

ORIENTATION = 274
_MAX_TAGS = 4096
_MAX_VALUES = 4096  # of one tag; those that are asked for have one for each channel
_LETTERS = {1: "B", 3: "H", 4: "I", 16: "Q"}  # of the types that are whole numbers


class _Kind(NamedTuple):
    """How wide a file's numbers are: BigTIFF, for more than 4 GB, has wider ones."""

    order: str
    number: str  # of an offset in the file
    tags: str  # of how many tags a directory has
    first: int  # where the offset of the first directory stands
    room: int  # for the values of a tag; more lie elsewhere


def read_tags(data: bytes, wanted: Collection[int]) -> dict[int, tuple[int, ...]]:
    """Return the whole numbers that the first directory of a TIFF file holds for some tags.

    Raises:
        ValueError: The directory does not lie within the data.
    """
    try:
        return _first_directory(data, _kind_of(data), wanted)
    except struct.error as error:
        raise ValueError("the directory of tags is damaged") from error


def count_directories(data: bytes, most: int) -> int:
    """Return how many directories, one for each page, follow one another; `most` where more do.

    Raises:
        ValueError: One does not lie within the data.
    """
    kind, found = _kind_of(data), 0
    place, entry = kind.first, 4 + struct.calcsize(kind.order + kind.number) + kind.room
    try:
        (start,) = struct.unpack_from(kind.order + kind.number, data, place)
        while start and found < most:
            found += 1
            (count,) = struct.unpack_from(kind.order + kind.tags, data, start)
            place = start + struct.calcsize(kind.order + kind.tags) + count * entry
            (start,) = struct.unpack_from(kind.order + kind.number, data, place)
    except struct.error as error:
        raise ValueError("the file is cut off: a page is not in it") from error
    return found


def _kind_of(data: bytes) -> _Kind:
    order = {b"II": "<", b"MM": ">"}.get(data[:2])
    if order is None or len(data) < 8:
        raise ValueError("no directory of tags")
    if struct.unpack_from(order + "H", data, 2)[0] == 43:
        return _Kind(order, "Q", "Q", 8, 8)
    return _Kind(order, "I", "H", 4, 4)


def _first_directory(
    data: bytes, kind: _Kind, wanted: Collection[int]
) -> dict[int, tuple[int, ...]]:
    order = kind.order
    (start,) = struct.unpack_from(order + kind.number, data, kind.first)
    (count,) = struct.unpack_from(order + kind.tags, data, start)
    entry = struct.Struct(order + "HH" + kind.number)
    place = start + struct.calcsize(order + kind.tags)
    found: dict[int, tuple[int, ...]] = {}
    for _ in range(min(count, _MAX_TAGS)):
        tag, letter, length = entry.unpack_from(data, place)
        place += entry.size
        if tag in wanted and letter in _LETTERS and 0 < length <= _MAX_VALUES:
            values = struct.Struct(f"{order}{length}{_LETTERS[letter]}")
            where = place
            if values.size > kind.room:
                (where,) = struct.unpack_from(order + kind.number, data, place)
            found[tag] = values.unpack_from(data, where)
        place += kind.room
    return found
