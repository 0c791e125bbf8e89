"""argparse with answers: one line, and the nearest word to the one that was given."""

from __future__ import annotations

import argparse
import difflib
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NoReturn, Protocol

from moco.errors import UsageError


class Parser(argparse.ArgumentParser):
    """argparse with one-line errors that name the nearest option or command."""

    def error(self, message: str) -> NoReturn:
        choices = self._choices()
        if choices and message.startswith("argument ") and "invalid choice: " in message:
            given = message.partition("invalid choice: ")[2].partition(" (choose from")[0]
            given = given.strip("'\"")
            near = difflib.get_close_matches(given, choices, n=1)
            message = f"unknown command '{given}'"
            message += f"; did you mean {near[0]}?" if near else f"; choose {', '.join(choices)}"
        raise UsageError(f"{message} (see `{self.prog} --help`)")

    def refuse_unknown(self, words: Sequence[str]) -> NoReturn:
        """Say that these words are none of this command's, and name the nearest option."""
        option = next((word for word in words if word.startswith("-")), None)
        if option is None:
            self.error(f"unrecognized arguments: {' '.join(words)}")
        given = option.partition("=")[0]
        known = [text for action in self._actions for text in action.option_strings]
        near = difflib.get_close_matches(given, known, n=1)
        self.error(f"unknown option {given}" + (f"; did you mean {near[0]}?" if near else ""))

    def _choices(self) -> list[str]:
        for action in self._actions:
            if isinstance(action, argparse._SubParsersAction):
                return list(action.choices)
        return []


def given_path(text: str) -> Path:
    """Return the path; an empty one is mostly a shell variable that was never set."""
    if not text:
        raise argparse.ArgumentTypeError("the path is empty; name a folder or file")
    return Path(text)


def given_model(text: str) -> str:
    """Return the word for a network as it is: a path would lose the dot of ./pixels."""
    if not text:
        raise argparse.ArgumentTypeError("the model is empty; name a run, or timm:NAME")
    return text


def given_seconds(text: str) -> float:
    """Return the seconds of a time such as 90m, 2h or 30s."""
    number, unit = text[:-1], text[-1:]
    try:
        seconds = float(number) * {"s": 1, "m": 60, "h": 3600}[unit]
    except (ValueError, KeyError):
        seconds = 0.0
    if not 0 < seconds < float("inf"):
        raise argparse.ArgumentTypeError(f"'{text}' is no time; write 90m, 2h or 30s")
    return seconds


class Subparsers(Protocol):
    """What argparse's `add_subparsers` returns."""

    def add_parser(self, name: str, **options: Any) -> Parser: ...
