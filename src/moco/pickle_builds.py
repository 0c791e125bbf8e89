"""Which objects a pickle gives attributes to, found by going through it without making any.

A module's state dict is an OrderedDict with an attribute, so that pickle's BUILD cannot be refused
outright. On a tensor the same operation can ask for memory without limit; only those dicts may have
it.
"""

from __future__ import annotations

import pickletools
from typing import Any

MARK, ORDERED, PLAIN, OTHER = "mark", "collections OrderedDict", "dict", "other"
"""What stands on the pickle machine's stack: the last but one are the two kinds of dict."""
KEEP_TARGET = {"SETITEM", "SETITEMS", "APPEND", "APPENDS", "ADDITEMS", "BUILD"}
"""They pop what they put into the object below, which stays."""
STORE, FETCH = {"PUT", "BINPUT", "LONG_BINPUT"}, {"GET", "BINGET", "LONG_BINGET"}


def check_builds(content: bytes) -> None:
    """Refuse a pickle that gives attributes to anything but an OrderedDict.

    Raises:
        ValueError: It does, or takes from its stack what is not there.
    """
    stack: list[str] = []
    memo: dict[int, str] = {}
    for operation, argument, _ in pickletools.genops(content):
        if operation.name in STORE:
            memo[_number(argument)] = _top(stack)
        elif operation.name == "MEMOIZE":
            memo[len(memo)] = _top(stack)
        elif operation.name in FETCH:
            stack.append(memo.get(_number(argument), OTHER))
        elif operation.name == "DUP":
            stack.append(_top(stack))
        else:
            popped = _pop(stack, operation)
            if operation.name == "BUILD" and popped != [ORDERED + "()", PLAIN]:
                raise ValueError("it asks for BUILD, and only state dicts have attributes")
            stack += _pushed(operation, argument, popped)


def _number(argument: Any) -> int:
    return int(argument)


def _top(stack: list[str]) -> str:
    if not stack:
        raise ValueError("it takes more from its stack than there is")
    return stack[-1]


def _pop(stack: list[str], operation: Any) -> list[str]:
    """Take from the stack what the operation does, the lowest first."""
    names = [kind.name for kind in operation.stack_before]
    first = len(stack) - len(names)
    if "mark" in names:
        mark = len(stack) - 1
        while mark >= 0 and stack[mark] != MARK:
            mark -= 1
        first = mark - names.index("mark")
    if first < 0:
        raise ValueError("it takes more from its stack than there is")
    popped = stack[first:]
    del stack[first:]
    return popped


def _pushed(operation: Any, argument: Any, popped: list[str]) -> list[str]:
    match operation.name:
        case "GLOBAL":
            return [str(argument)]
        case "MARK":
            return [MARK]
        case "EMPTY_DICT":
            return [PLAIN]
        case "REDUCE":
            return [popped[0] + "()"]
        case name if name in KEEP_TARGET:
            return popped[:1]
    return [OTHER] * len(operation.stack_after)
