"""Files of weights that strangers' scripts wrote, read without running anything of theirs.

Beside what `checkpoint_reading` takes, whose layout checks are used: files of torch before 1.6,
pickles of numpy arrays, and what training scripts leave beside weights. Nothing is unpickled:
`pickles` says what is asked for, and tensors are made here from numbers the file holds.
"""

from __future__ import annotations

import io
import struct
import sys
import zipfile
from pathlib import Path
from typing import Any, BinaryIO

from moco.checkpoint_reading import pickle_in, read_noted_weights
from moco.inert.pickles import Call, Stored, read_pickle
from moco.inert.values import MOST_VALUES, Making, storage_of
from moco.plain_files import open_regular

MOST_PICKLE_BYTES = 1 << 26
"""Of the structure around the tensors; logs of training lie in it too."""
OLD_MAGIC = 0x1950A86A20F9469CFC6C
"""What a file of torch before 1.6 begins with."""
NOTES = "__notes__"
"""Under this name stands what the writer of a safetensors file noted."""


def read_inert(path: Path) -> dict[str, Any]:
    """Return the plain values and tensors of a file, whatever wrote it.

    Takes what `torch.save` writes and wrote before 1.6, safetensors, and pickled numpy arrays. What
    is neither a plain value nor a tensor is `Unread`.

    Raises:
        OSError: It cannot be opened.
        ValueError: It is none of these, asks for code, or claims what it does not hold.
    """
    try:
        with open_regular(path) as file:
            begin = file.read(16)
            _refuse_other(begin)
            if begin[:2] == b"PK":
                values = _of_zip(file)
            elif begin[8:9] == b"{":
                weights, notes = read_noted_weights(path)
                return {**weights, NOTES: notes}
            else:
                values = _of_pickles(file)
    except OSError:
        raise
    except Exception as error:  # whatever it holds, it is the file that is wrong
        text = str(error).removeprefix(f"{path.name}: ")
        raise ValueError(f"{path.name}: {text}") from error
    if not isinstance(values, dict):
        raise ValueError(f"{path.name}: it holds no named values")
    return {str(name): value for name, value in values.items()}


def _refuse_other(begin: bytes) -> None:
    """Refuse what is often found in place of weights.

    Raises:
        ValueError: With what it is.
    """
    if not begin:
        raise ValueError("it is empty; fetch it again")
    if begin.startswith(b"version https://"):
        raise ValueError("it is a Git LFS pointer, not the file it stands for; run git lfs pull")
    if begin.lstrip()[:1] == b"<":
        raise ValueError("it is a web page; fetch the file itself")


def _of_zip(file: BinaryIO) -> Any:
    content = pickle_in(file, MOST_PICKLE_BYTES)
    with zipfile.ZipFile(file) as archive:
        folder = archive.infolist()[0].filename.partition("/")[0]
        names = set(archive.namelist())
        if f"{folder}/byteorder" in names:
            order = archive.read(f"{folder}/byteorder")
            if order.decode("ascii", "replace") != sys.byteorder:
                raise ValueError("its numbers are in another byte order; save it again here")
        storages: dict[str, bytearray] = {}

        def numbers(key: str, size: int) -> bytearray:
            if key not in storages:
                name = f"{folder}/data/{key}"
                if name not in names or archive.getinfo(name).file_size < size:
                    raise ValueError("it claims more numbers than it holds")
                storages[key] = bytearray(archive.read(name))
            return storages[key]

        return Making(numbers).plain(read_pickle(content))


def _of_pickles(file: BinaryIO) -> Any:
    """Return the values of a file that begins with a pickle: numpy's arrays, or torch before 1.6.

    The latter has five pickles (magic number, version, machine, values, storages' names) and then,
    for each storage, how many numbers it has and the numbers.
    """
    file.seek(0)
    size = file.seek(0, 2)
    file.seek(0)
    begin = io.BytesIO(file.read(MOST_PICKLE_BYTES))
    if begin.getvalue()[:1] not in (b"\x80", b"(", b"}"):
        raise ValueError("it is neither of torch, nor safetensors, nor a pickle")
    if begin.getvalue()[2:3] != b"\x8a":  # a long number
        file.seek(0)
        return Making(None).plain(read_pickle(file.read()))
    if read_pickle(begin) != OLD_MAGIC:
        raise ValueError("it begins with a number that is not torch's")
    version, machine, values, keys = (read_pickle(begin) for _ in range(4))
    if version != 1001 or not isinstance(machine, dict) or not machine.get("little_endian", True):
        raise ValueError("it is of another machine or version; save it again with torch")
    places = _places(file, begin.tell(), size, keys, _number_sizes(values))

    storages: dict[str, bytearray] = {}

    def numbers(key: str, claimed: int) -> bytearray:
        start, held = places[key]
        if claimed > held:
            raise ValueError("it claims more numbers than it holds")
        if key not in storages:
            file.seek(start)
            storages[key] = bytearray(file.read(held))
        return storages[key]

    return Making(numbers).plain(values)


def _number_sizes(values: Any) -> dict[str, int]:
    """Return how many bytes a number takes in each storage."""
    sizes: dict[str, int] = {}
    left, seen = [values], 0
    while left:
        value = left.pop()
        seen += 1
        if seen > MOST_VALUES:
            raise ValueError("it holds more values than any state")
        if isinstance(value, Stored):
            key, kind, _ = storage_of(value)
            sizes[key] = kind.itemsize
        elif isinstance(value, dict):
            left += value.values()
        elif isinstance(value, list | tuple):
            left += value
        elif isinstance(value, Call):
            left += [value.arguments, value.contents, value.state]
    return sizes


def _places(
    file: BinaryIO, start: int, size: int, keys: Any, number_sizes: dict[str, int]
) -> dict[str, tuple[int, int]]:
    """Return where each storage's numbers begin, and how many bytes they take."""
    places: dict[str, tuple[int, int]] = {}
    if not isinstance(keys, list):
        raise ValueError("its storages have no names")
    for key in keys:
        file.seek(start)
        (count,) = struct.unpack("<q", file.read(8))
        held = count * number_sizes.get(str(key), 0)
        if count < 0 or str(key) not in number_sizes or start + 8 + held > size:
            raise ValueError("it claims more numbers than it holds")
        places[str(key)] = (start + 8, held)
        start += 8 + held
    return places
