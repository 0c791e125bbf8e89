"""What a pickle says, without doing what it says: objects that it asks for are named, not made.

Training scripts leave settings, numpy numbers and their own classes beside the weights, which
neither run here nor need to. No torch and no numpy in here: an array or a tensor is a `Call` that
its reader understands.
"""

from __future__ import annotations

import io
import pickletools
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

MOST_OPERATIONS = 1 << 19
"""Of a pickle: a ViT-L with both its encoders, optimizer and logs takes about 100,000."""
MADE_OF_DICTS = {"collections OrderedDict", "collections defaultdict", "builtins dict"}
NUMPY = ("numpy.core.multiarray", "numpy._core.multiarray")
TENSORS = {
    *("torch._utils _rebuild_tensor_v2", "torch._utils _rebuild_parameter"),
    *(f"{module} {name}" for module in NUMPY for name in ("scalar", "_reconstruct")),
    *("numpy dtype", "numpy ndarray", "_codecs encode"),
    *("numpy.core.numeric _frombuffer", "numpy._core.numeric _frombuffer"),
}
STORAGES = ("Float", "Double", "Half", "BFloat16", "Byte", "Char", "Short", "Int", "Long", "Bool")
HARMLESS = {
    *("torch Size", "torch device", "argparse Namespace", "torch.torch_version TorchVersion"),
    *("collections deque", "collections Counter", "typing Any", "datetime datetime"),
    *("copyreg _reconstructor", "copy_reg _reconstructor", "types SimpleNamespace"),
    *(f"pathlib {kind}" for kind in ("PosixPath", "PurePosixPath", "WindowsPath", "Path")),
    *(f"torch {kind}" for kind in ("float32", "float64", "float16", "bfloat16", "int64")),
    *(
        f"{module} {kind}"
        for module in ("builtins", "__builtin__")
        for kind in ("dict", "list", "set", "frozenset", "tuple", "int", "float", "str", "bool")
    ),
    *("builtins object", "__builtin__ object"),
}
"""Values and plain containers that lie beside weights."""
HARMLESS_PACKAGES = {
    *("omegaconf", "mmengine", "mmcv", "pytorch_lightning", "lightning", "lightning_fabric"),
    *("vissl", "classy_vision", "solo", "lightly", "fvcore", "yacs"),
}
"""Training libraries whose own settings and logs lie in their checkpoints. None of it is made."""


@dataclass(eq=False)
class Named:
    """A class or function that a pickle asks for by name."""

    name: str
    """Module and name, a space between."""


@dataclass(eq=False)
class Call:
    """What a class or function was to make of its arguments, and what was to be put into it."""

    name: str
    arguments: Any
    state: Any = None
    contents: list[Any] = field(default_factory=list)


@dataclass(eq=False)
class Stored:
    """What a pickle says lies outside of it: a tensor's numbers."""

    about: Any


class PickleError(ValueError):
    """A pickle that asks for what is not read, or is none."""


def read_pickle(content: bytes | io.BytesIO) -> Any:
    """Return what a pickle says, containers as they are and everything else inert.

    Args:
        content: of a stream, the next pickle is read, and the stream stands behind it then.

    Raises:
        PickleError: It asks for code, has too many values, or is damaged.
    """
    machine = _Machine()
    try:
        for number, (operation, argument, _) in enumerate(pickletools.genops(content)):
            if number > MOST_OPERATIONS:
                raise PickleError("it holds more values than any state")
            machine.take(operation.name, argument)
        (value,) = machine.stack
    except PickleError:
        raise
    except Exception as error:  # whatever it holds, it is the pickle that is wrong
        raise PickleError(f"it is no whole pickle ({error!s:.80})") from error
    return value


def check_asked(name: str) -> None:
    """Refuse a class or function that is neither a tensor's nor known to lie beside weights.

    Raises:
        PickleError: With its name.
    """
    module, _, kind = name.partition(" ")
    known = name in MADE_OF_DICTS | TENSORS | HARMLESS
    storage = module == "torch" and kind.removesuffix("Storage") in STORAGES
    if not known and not storage and module.partition(".")[0] not in HARMLESS_PACKAGES:
        asked = name.replace(" ", ".", 1)
        raise PickleError(f"it asks for {asked:.80}, and only tensors and values are read")


class _Machine:
    """Pickle's stack machine, with nothing behind its operations."""

    def __init__(self) -> None:
        self.stack: list[Any] = []
        self.marks: list[int] = []
        self.memo: dict[int, Any] = {}

    def take(self, name: str, argument: Any) -> None:
        """Do one operation."""
        if name in _PUSHED_AS_THEY_ARE:
            self.stack.append(argument)
        elif name in _CONSTANTS:
            self.stack.append(_CONSTANTS[name]())
        elif name in _OPERATIONS:
            _OPERATIONS[name](self, argument)
        elif name not in ("PROTO", "FRAME", "STOP"):
            raise PickleError(f"it asks for {name}, and only tensors and values are read")

    def to_mark(self) -> list[Any]:
        """Take everything above the last mark off the stack."""
        first = self.marks.pop()
        items = self.stack[first:]
        del self.stack[first:]
        return items

    def top(self, count: int) -> list[Any]:
        """Take so many off the stack, the lowest first."""
        if len(self.stack) < count:
            raise PickleError("it takes more from its stack than there is")
        items = self.stack[len(self.stack) - count :]
        del self.stack[len(self.stack) - count :]
        return items

    def ask(self, name: str) -> None:
        check_asked(name)
        self.stack.append(Named(name))

    def ask_from_stack(self, _: Any) -> None:
        module, name = self.top(2)
        self.ask(f"{module} {name}")

    def call(self, _: Any) -> None:
        function, arguments = self.top(2)
        if not isinstance(function, Named):
            raise PickleError("it calls what has no name, and only tensors and values are read")
        if function.name in MADE_OF_DICTS:
            # an OrderedDict with items given at once is of old Pythons
            items = arguments[0] if arguments and isinstance(arguments[0], list) else []
            self.stack.append(dict(items))
        elif function.name == "_codecs encode" and arguments[1:] == ("latin1",):
            self.stack.append(arguments[0].encode("latin1"))
        else:
            self.stack.append(Call(function.name, arguments))

    def build(self, _: Any) -> None:
        target, state = self.top(2)
        if isinstance(target, Call):
            target.state = state
        elif not isinstance(target, dict):  # of a state dict it is its module's version: left out
            raise PickleError("it asks for BUILD, and only state dicts have attributes")
        self.stack.append(target)

    def put_items(self, items: list[Any]) -> None:
        target = self.stack[-1]
        pairs = list(zip(items[::2], items[1::2], strict=True))
        if isinstance(target, dict):
            target.update(pairs)
        elif isinstance(target, Call):
            target.contents += pairs
        else:
            raise PickleError("it puts items into what holds none")

    def put_values(self, values: list[Any]) -> None:
        target = self.stack[-1]
        if isinstance(target, Call):
            target.contents += values
        elif isinstance(target, list):
            target += values
        else:
            raise PickleError("it puts values into what holds none")

    def keep(self, place: int) -> None:
        self.memo[place] = self.stack[-1]


def _put_at_mark(machine: _Machine, put: Callable[[_Machine, list[Any]], None]) -> None:
    items = machine.to_mark()
    put(machine, items)


def _push_tuple(machine: _Machine, count: int) -> None:
    machine.stack.append(tuple(machine.top(count)))


def _drop(_: list[Any]) -> None:
    """Leave out what was taken off the stack."""


def _push_dict(machine: _Machine) -> None:
    items = machine.to_mark()
    machine.stack.append({})
    machine.put_items(items)


_PUSHED_AS_THEY_ARE = {
    *("INT", "BININT", "BININT1", "BININT2", "LONG", "LONG1", "LONG4", "FLOAT", "BINFLOAT"),
    *("STRING", "BINSTRING", "SHORT_BINSTRING", "UNICODE", "BINUNICODE", "SHORT_BINUNICODE"),
    *("BINUNICODE8", "BINBYTES", "SHORT_BINBYTES", "BINBYTES8", "BYTEARRAY8"),
}
_CONSTANTS: dict[str, Callable[[], Any]] = {
    "NONE": lambda: None,
    "NEWTRUE": lambda: True,
    "NEWFALSE": lambda: False,
    "EMPTY_DICT": dict,
    "EMPTY_LIST": list,
    "EMPTY_SET": list,
    "EMPTY_TUPLE": tuple,
}
_OPERATIONS: dict[str, Callable[[_Machine, Any], None]] = {
    "MARK": lambda m, _: m.marks.append(len(m.stack)),
    "POP": lambda m, _: _drop(m.top(1)),
    "POP_MARK": lambda m, _: _drop(m.to_mark()),
    "DUP": lambda m, _: m.stack.append(m.stack[-1]),
    "TUPLE": lambda m, _: m.stack.append(tuple(m.to_mark())),
    "LIST": lambda m, _: m.stack.append(m.to_mark()),
    "FROZENSET": lambda m, _: m.stack.append(tuple(m.to_mark())),
    "TUPLE1": lambda m, _: _push_tuple(m, 1),
    "TUPLE2": lambda m, _: _push_tuple(m, 2),
    "TUPLE3": lambda m, _: _push_tuple(m, 3),
    "DICT": lambda m, _: _push_dict(m),
    "SETITEM": lambda m, _: m.put_items(m.top(2)),
    "SETITEMS": lambda m, _: _put_at_mark(m, _Machine.put_items),
    "APPEND": lambda m, _: m.put_values(m.top(1)),
    "APPENDS": lambda m, _: _put_at_mark(m, _Machine.put_values),
    "ADDITEMS": lambda m, _: _put_at_mark(m, _Machine.put_values),
    "GLOBAL": lambda m, name: m.ask(name),
    "STACK_GLOBAL": lambda m, _: m.ask_from_stack(None),
    "REDUCE": lambda m, _: m.call(None),
    "NEWOBJ": lambda m, _: m.call(None),
    "BUILD": lambda m, _: m.build(None),
    "BINPERSID": lambda m, _: m.stack.append(Stored(m.stack.pop())),
    "PUT": lambda m, place: m.keep(int(place)),
    "BINPUT": lambda m, place: m.keep(place),
    "LONG_BINPUT": lambda m, place: m.keep(place),
    "MEMOIZE": lambda m, _: m.keep(len(m.memo)),
    "GET": lambda m, place: m.stack.append(m.memo[int(place)]),
    "BINGET": lambda m, place: m.stack.append(m.memo[place]),
    "LONG_BINGET": lambda m, place: m.stack.append(m.memo[place]),
}
