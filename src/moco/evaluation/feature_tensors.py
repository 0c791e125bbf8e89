"""Features as a safetensors file: any of its readers opens it, features mapped into memory.

Tensors: features [N, D], labels [N] or [N, Y], and paths, the bytes of the names in UTF-8, each
with a zero behind it. Metadata: classes, as JSON, and encoder.
"""

from __future__ import annotations

import json
import math
import struct
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from moco.errors import DataError
from moco.evaluation.stored_features import StoredFeatures
from moco.plain_files import open_regular

KINDS: dict[str, np.dtype[Any]] = {
    "F32": np.dtype("<f4"),
    "F16": np.dtype("<f2"),
    "F64": np.dtype("<f8"),
    "I64": np.dtype("<i8"),
    "I32": np.dtype("<i4"),
    "U8": np.dtype("u1"),
    "BOOL": np.dtype("?"),
}
NAMES = {kind: name for name, kind in KINDS.items()}
MOST_HEADER_BYTES = 8 << 20
"""Read as JSON, that takes up to 30 times the memory."""
ALIGNMENT = 8


def write_tensors(path: Path, stored: StoredFeatures) -> None:
    """Write the file; raises OSError, or DataError for far too many classes."""
    small: dict[str, NDArray[Any]] = {}
    if stored.labels is not None:
        small["labels"] = np.ascontiguousarray(stored.labels)
    if stored.paths:
        names = b"".join(f"{name}\0".encode("utf-8", "surrogateescape") for name in stored.paths)
        small["paths"] = np.frombuffer(names, np.uint8)
    metadata = {"classes": json.dumps(list(stored.classes)), "encoder": stored.encoder}
    header: dict[str, Any] = {"__metadata__": metadata}
    end = 0
    for name, values in {"features": stored.features, **small}.items():
        begin, end = end, end + values.nbytes
        kind = NAMES[values.dtype.newbyteorder("<")]
        header[name] = {
            "dtype": kind,
            "shape": list(values.shape),
            "data_offsets": [begin, end],
        }
    text = json.dumps(header).encode()
    text += b" " * (-len(text) % ALIGNMENT)
    if len(text) > MOST_HEADER_BYTES:
        raise DataError(
            f"names of {len(stored.classes)} classes do not fit in {path.name}; give --out .npz"
        )
    with open(path, "wb") as file:
        file.write(struct.pack("<Q", len(text)) + text)
        for chunk in stored.chunks():
            file.write(chunk.data)
        for values in small.values():
            file.write(values.tobytes())


def read_tensors(path: Path) -> StoredFeatures:
    """Return what the file holds, features mapped into memory.

    Raises:
        DataError: It is damaged, or its tensors cannot be used.
    """
    try:
        header, begin, size = _header(path)
        metadata = header.pop("__metadata__", {})
        features = _tensor(path, header["features"], begin, size)
        names = _tensor(path, header["paths"], begin, size).tobytes() if "paths" in header else b""
        if names and names[-1]:
            raise ValueError("its last path has no end")
        classes = json.loads(metadata.get("classes", "[]"))
        if not isinstance(classes, list) or not all(isinstance(name, str) for name in classes):
            raise ValueError("its classes are no list of words")
        return StoredFeatures(
            features,
            _tensor(path, header["labels"], begin, size) if "labels" in header else None,
            [name.decode("utf-8", "surrogateescape") for name in names.split(b"\0")[:-1]],
            classes,
            str(metadata.get("encoder", "")),
        )
    except (OSError, ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
        said = f"no {error}" if isinstance(error, KeyError) else f"{error!s:.200}"
        raise DataError(
            f"{path} holds no features that can be read ({said}); embed the images again"
        ) from error


def _header(path: Path) -> tuple[dict[str, Any], int, int]:
    """Return the header, where the tensors begin, and the file's size."""
    with open_regular(path) as file:
        size = file.seek(0, 2)
        file.seek(0)
        first = file.read(8)
        length = int.from_bytes(first, "little") if len(first) == 8 else MOST_HEADER_BYTES + 1
        if length > min(MOST_HEADER_BYTES, size - 8):
            raise ValueError("it is no safetensors file, or was cut off")
        header = json.loads(file.read(length))
    if not isinstance(header, dict):
        raise ValueError("its header is damaged")
    return header, 8 + length, size


def _tensor(path: Path, about: dict[str, Any], begin: int, size: int) -> NDArray[Any]:
    kind, shape = KINDS[about["dtype"]], about["shape"]
    first, last = about["data_offsets"]
    if any(type(side) is not int or side < 0 for side in (*shape, first, last)):
        raise ValueError("its header is damaged")
    count = math.prod(shape)
    if last - first != count * kind.itemsize or begin + last > size:
        raise ValueError("it promises more than it holds")
    if not count:
        return np.empty(shape, kind)
    return np.memmap(path, dtype=kind, mode="c", offset=begin + first, shape=tuple(shape))
