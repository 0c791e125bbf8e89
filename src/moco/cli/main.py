"""The `moco` command: run what was asked for, and one line when something is wrong.

No torch in here: a command's own module is imported when the command runs.
"""

from __future__ import annotations

import importlib
import os
import sys
import time
import traceback
from collections.abc import Sequence

from moco.cli.commands import build_parser
from moco.cli.output import printable
from moco.errors import (
    DivergedError,
    FailedElsewhereError,
    InterruptedRunError,
    LostProcessError,
    MocoError,
    UsageError,
)

HEARD_SECONDS = 1.0
SHARED = ("moco.cli.pretrain", "moco.cli.embed")
"""Commands that several processes can share."""


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command line and return its exit code."""
    given = list(sys.argv[1:] if arguments is None else arguments)
    debug, speaks = "--debug" in given, _place("LOCAL_RANK") == 0
    try:
        parsed, unknown = build_parser().parse_known_args(given)
        if unknown:
            parsed.parser.refuse_unknown(unknown)
        if parsed.module not in SHARED and "TORCHELASTIC_RUN_ID" in os.environ:
            raise UsageError(f"{parsed.command} runs in one process; start it without torchrun")
        command, speaks = importlib.import_module(parsed.module), True
        return int(command.run(parsed))
    except SystemExit as stop:  # --help and --version
        return int(stop.code or 0)
    except BrokenPipeError:  # `| head`: nobody reads on, which is no failure
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 0
    except (Exception, KeyboardInterrupt) as error:  # noqa: BLE001  a bug deserves one line too
        silent = not speaks or _is_told(error)
        if silent:  # torchrun ends all at the first exit: let the one that says why be heard
            time.sleep(HEARD_SECONDS)
        return _fail(*_line_and_code(error), debug=debug, silent=silent)


def _place(variable: str) -> int:
    """Return which of the processes that torchrun launched this is, 0 alone."""
    if os.environ.get("WORLD_SIZE", "1") == "1":
        return 0
    text = os.environ.get(variable, "0")
    return int(text) if text.isdecimal() else 0


def _is_told(error: BaseException) -> bool:
    """Say whether another of the processes that torchrun launched prints what is wrong."""
    match error:
        case FailedElsewhereError():
            return True
        case LostProcessError():  # one speaks for all; before they met, the first two may
            return not error.reports and _place("RANK") > 1
        case DivergedError() | InterruptedRunError() | KeyboardInterrupt():
            return _place("RANK") > 0
        case _:
            return False


def _line_and_code(error: BaseException) -> tuple[str, int]:
    match error:
        case KeyboardInterrupt():
            return "stopped from the keyboard", 130
        case MocoError():
            return f"error: {error}", error.exit_code
        case OSError():
            where = f"{error.filename}: " if error.filename else ""
            return f"error: {where}{error.strerror or error}; mend that and try again", 5
        case _:
            return f"bug: {type(error).__name__}: {error} (--debug shows where)", 1


def _fail(line: str, code: int, *, debug: bool, silent: bool) -> int:
    if debug:
        traceback.print_exc()
    if not silent:
        print(printable(f"moco: {' '.join(line.split())}"), file=sys.stderr)
    return code
