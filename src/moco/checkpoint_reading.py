"""What a checkpoint's files hold, whoever made them: no code runs, memory stays near their size.

Checksums are no defence here, since whoever made the files made the sums too. The only module that
unpickles anything, and it does so with `weights_only`. That alone refuses code, but not a small
file that asks for much memory: records that unpack to more, storages that are not there, sizes that
nothing holds. So the layout is checked first, and the sizes of what came out afterwards.
"""

from __future__ import annotations

import json
import pickletools
import struct
import zipfile
from collections.abc import Iterator, Set
from contextlib import contextmanager
from pathlib import Path
from typing import Any, BinaryIO

import torch
from safetensors.torch import load_file
from torch import Tensor

from moco.pickle_builds import check_builds
from moco.plain_files import open_regular, read_small

MOST_JSON_BYTES = 1 << 18
"""A recipe takes about 3 kB."""
MOST_HEADER_BYTES = 1 << 20
"""Of the tensors' names, or of a zip directory: a ViT-L with its optimizer takes about 100 kB."""
MOST_OPERATIONS = 1 << 18
"""Of a pickle: the same ViT-L takes about 30,000."""
STORAGES = ("Float", "Double", "Half", "BFloat16", "Byte", "Char", "Short", "Int", "Long", "Bool")
ALLOWED = {
    "torch._utils _rebuild_tensor_v2",
    "collections OrderedDict",
    *(f"torch {kind}Storage" for kind in STORAGES),
}
NEVER_WRITTEN = {
    *("STACK_GLOBAL", "INST", "OBJ", "NEWOBJ", "NEWOBJ_EX"),
    *("BUILD", "PERSID", "EXT1", "EXT2", "EXT4"),
}


def read_json(path: Path) -> Any:
    """Return the value of a small JSON file.

    Raises:
        OSError: It cannot be read.
        ValueError: It is not JSON, too large or nested too deeply.
    """
    try:
        return json.loads(read_small(path, MOST_JSON_BYTES))
    except RecursionError as error:
        raise ValueError(f"{path.name} is nested too deeply") from error


@contextmanager
def _naming(path: Path) -> Iterator[None]:
    """Put the file's name before whatever its reader says."""
    try:
        yield
    except Exception as error:
        raise ValueError(f"{path.name}: {error}") from error


def read_weights(path: Path) -> dict[str, Tensor]:
    """Return the tensors of a safetensors file, by name.

    Raises:
        ValueError: It is none, with what its reader says.
    """
    return read_noted_weights(path)[0]


def read_noted_weights(path: Path) -> tuple[dict[str, Tensor], dict[str, str]]:
    """Return the tensors of a safetensors file by name, and the texts that its writer noted.

    Raises:
        ValueError: It is none, with what its reader says.
    """
    with _naming(path):
        with open_regular(path) as file:
            (size,) = struct.unpack("<Q", file.read(8))
            if size > MOST_HEADER_BYTES:
                raise ValueError(f"it claims a header of {size} bytes, which none needs")
            header = json.loads(file.read(size), object_pairs_hook=_once_each)
        notes = header.get("__metadata__") or {}
        return load_file(path), {str(name): str(note) for name, note in notes.items()}


def _once_each(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    if len({name for name, _ in pairs}) < len(pairs):
        raise ValueError("a name is given twice")
    return dict(pairs)


def read_train_state(path: Path, *, of_modules: bool = False) -> dict[str, Any]:
    """Return the plain values and tensors of a file that `torch.save` wrote.

    Args:
        of_modules: it may hold state dicts of modules, each an OrderedDict with attributes.

    Raises:
        ValueError: It is none, with what its reader says.
    """
    with _naming(path):
        with open_regular(path) as file:
            content = pickle_in(file, MOST_HEADER_BYTES)
            _check_pickle(content, allowed={"BUILD"} if of_modules else set())
            check_builds(content)
            size = file.seek(0, 2)
        state = torch.load(path, map_location="cpu", weights_only=True)
        if not isinstance(state, dict):
            raise ValueError("it holds no named values")
        if sum(value.nbytes for value in _tensors(state)) > size:
            raise ValueError("it claims more numbers than it holds")
        return state


def pickle_in(file: BinaryIO, most_bytes: int) -> bytes:
    """Return the pickled structure inside a file of torch's, its other members stored as they are.

    Args:
        most_bytes: of the structure, and of the directory of members.

    Raises:
        ValueError: The file is laid out in another way.
    """
    size = file.seek(0, 2)
    file.seek(max(0, size - 98))
    tail = file.read().rjust(98, b"\0")
    # both readers, zipfile here and torch's own, must see the same directory: no comment at the end
    end, locator, wide_end = tail[76:], tail[56:76], tail[:56]
    length = int.from_bytes(end[12:16], "little")
    if locator[:4] == b"PK\6\7":
        if wide_end[:4] != b"PK\6\6" or int.from_bytes(locator[8:16], "little") != size - 98:
            raise ValueError("its zip directory is not where it should be")
        length = int.from_bytes(wide_end[40:48], "little")
    if end[:4] != b"PK\5\6" or length > most_bytes:
        raise ValueError("it is no zip file as torch writes it")
    with zipfile.ZipFile(file) as archive:
        members = archive.infolist()
        names = {member.filename.lower() for member in members}  # torch's reader ignores case
        pickle = f"{members[0].filename.partition('/')[0]}/data.pkl" if members else ""
        if len(names) < len(members) or pickle.lower() not in names:
            raise ValueError("its members are not those that torch writes")
        if any(member.compress_type != zipfile.ZIP_STORED for member in members) or size < sum(
            member.file_size for member in members
        ):
            raise ValueError("its members unpack to more than the file holds")
        if archive.getinfo(pickle).file_size > most_bytes:
            raise ValueError("it holds more values than any state")
        return archive.read(pickle)


def _check_pickle(content: bytes, *, allowed: Set[str]) -> None:
    """Refuse a pickle that asks for anything but tensors and plain values, or for very many.

    Args:
        allowed: operations that would be refused else.

    Raises:
        ValueError: The first that it asks for.
    """
    for number, (operation, argument, _) in enumerate(pickletools.genops(content)):
        if number > MOST_OPERATIONS:
            raise ValueError("it holds more values than any state")
        if operation.name in NEVER_WRITTEN - allowed:
            raise ValueError(f"it asks for {operation.name}, and only tensors and values are read")
        if operation.name == "GLOBAL" and argument not in ALLOWED:
            asked = str(argument).replace(" ", ".", 1)
            raise ValueError(f"it asks for {asked:.80}, and only tensors and values are read")


def _tensors(state: Any) -> Iterator[Tensor]:
    """Yield every tensor in nested values, as often as it stands there."""
    left, seen = [state], 0
    while left:
        value = left.pop()
        seen += 1
        if seen > MOST_OPERATIONS:  # a value inside itself, or copied over and over
            raise ValueError("it holds more values than any state")
        if isinstance(value, Tensor):
            yield value
        elif isinstance(value, dict):
            left += [*value, *value.values()]
        elif isinstance(value, list | tuple):
            left += value
