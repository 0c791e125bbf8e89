"""Tensors and plain values made of what a pickle says and of the numbers that its file holds."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from moco.inert.pickles import Call, Named, Stored

MOST_VALUES = 1 << 18
DEEPEST = 60
TYPES = {
    "Float": torch.float32,
    "Double": torch.float64,
    "Half": torch.float16,
    "BFloat16": torch.bfloat16,
    "Byte": torch.uint8,
    "Char": torch.int8,
    "Short": torch.int16,
    "Int": torch.int32,
    "Long": torch.int64,
    "Bool": torch.bool,
}
NUMPY_TYPES = {
    **{"f2": torch.float16, "f4": torch.float32, "f8": torch.float64, "b1": torch.bool},
    **{"u1": torch.uint8, "i1": torch.int8, "i2": torch.int16, "i4": torch.int32},
    **{"i8": torch.int64},
}


class Unread:
    """A value that is left as it was: neither a number, a text, nor a tensor."""


def storage_of(stored: Stored) -> tuple[str, torch.dtype, int]:
    """Return a storage's key, the type of its numbers and how many there are."""
    about = stored.about
    if not isinstance(about, tuple) or len(about) < 5 or about[0] != "storage":
        raise ValueError("it says nothing of where its numbers lie")
    _, kind, key, _, count, *view = about
    name = kind.name.partition(" ")[2].removesuffix("Storage") if isinstance(kind, Named) else ""
    if name not in TYPES or not isinstance(count, int) or count < 0 or any(view):
        raise ValueError("it has numbers of a kind that no weights have")
    return str(key), TYPES[name], count


class Making:
    """From what a pickle says to plain values and tensors.

    Args:
        numbers: from a storage's key and the bytes claimed of it to its bytes; None: all numbers
            lie in the pickle.
    """

    def __init__(self, numbers: Callable[[str, int], bytearray] | None) -> None:
        self.numbers = numbers
        self.seen = 0

    def plain(self, value: Any, depth: int = 0) -> Any:
        """Return the value with tensors in the place of what would make them."""
        self.seen += 1
        if self.seen > MOST_VALUES or depth > DEEPEST:
            raise ValueError("it holds more values than any state")
        match value:
            case dict():
                items = value.items()
                return {self.plain_key(key): self.plain(of, depth + 1) for key, of in items}
            case list():
                return [self.plain(inner, depth + 1) for inner in value]
            case tuple():
                return tuple(self.plain(inner, depth + 1) for inner in value)
            case Call():
                return self.made(value)
            case None | bool() | int() | float() | str():
                return value
        return Unread()

    def plain_key(self, key: Any) -> Any:
        return key if isinstance(key, str | int | float | bool) else f"({type(key).__name__})"

    def made(self, call: Call) -> Any:
        arguments = call.arguments
        match call.name.partition(" ")[2]:
            case "_rebuild_tensor_v2" if call.name.startswith("torch."):
                return self.tensor(*arguments[:4])
            case "_rebuild_parameter" if isinstance(arguments[0], Call):
                return self.made(arguments[0])
            case "_reconstruct":
                return _array(call.state)
            case "_frombuffer":
                data, kind, shape, order = arguments
                return _array((1, shape, kind, order == "F", data))
            case "scalar":
                return _array((1, (), arguments[0], False, arguments[1])).item()
        return Unread()

    def tensor(self, storage: Any, offset: Any, shape: Any, strides: Any) -> Tensor:
        """Return the tensor that looks at numbers of the file so."""
        if self.numbers is None or not isinstance(storage, Stored):
            raise ValueError("it says nothing of where its numbers lie")
        key, kind, count = storage_of(storage)
        shape, strides = (tuple(of) for of in (shape, strides))
        if not all(
            isinstance(number, int) and number >= 0 for number in (offset, *shape, *strides)
        ):
            raise ValueError("it has a tensor of no shape")
        last = offset + sum((side - 1) * step for side, step in zip(shape, strides, strict=True))
        if math.prod(shape) > count or (math.prod(shape) and last >= count):
            raise ValueError("it claims more numbers than it holds")
        if not math.prod(shape):
            return torch.empty(shape, dtype=kind)
        held = torch.frombuffer(self.numbers(key, count * kind.itemsize), dtype=kind)
        return held.as_strided(shape, strides, offset)


def _array(state: Any) -> Tensor:
    """Return a tensor of what numpy says of an array: version, shape, type, order, numbers."""
    if not isinstance(state, tuple) or len(state) != 5:
        raise ValueError("it has an array of no known layout")
    _, shape, kind, in_columns, data = state
    if not isinstance(kind, Call) or kind.name != "numpy dtype" or not isinstance(shape, tuple):
        raise ValueError("it has an array of no known type")
    name, order = kind.arguments[0], kind.state[1] if kind.state else "<"
    if (
        name not in NUMPY_TYPES
        or order not in ("<", "|", "=")
        or not isinstance(data, bytes | bytearray)
    ):
        raise ValueError(f"it has an array of {name!s:.20}, which no weights are")
    dtype = NUMPY_TYPES[name]
    if not all(isinstance(side, int) and side >= 0 for side in shape):
        raise ValueError("it has an array of no shape")
    if math.prod(shape) * dtype.itemsize != len(data):
        raise ValueError("it claims more numbers than it holds")
    if not data:
        return torch.empty(shape, dtype=dtype)
    numbers = torch.frombuffer(bytearray(data), dtype=dtype)
    if in_columns:
        return numbers.reshape(shape[::-1]).permute(*range(len(shape))[::-1])
    return numbers.reshape(shape)
