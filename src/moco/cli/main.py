"""The `moco` command: what it takes, and one line when something is wrong.

No torch in here: a command's own module is imported when the command runs.
"""

from __future__ import annotations

import argparse
import difflib
import importlib
import sys
import traceback
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NoReturn, Protocol

from moco.errors import MocoError, UsageError
from moco.recipes import RECIPES

EXIT_CODES = """exit codes:
  0 done   1 bug   2 usage   3 images unusable   4 loss not finite   5 storage
  6 checkpoint unusable   75 stopped and saved   130 stopped from the keyboard"""


class Parser(argparse.ArgumentParser):
    """argparse with one-line errors that name the nearest option."""

    def error(self, message: str) -> NoReturn:
        options = sorted(self.all_options())
        if message.startswith("unrecognized arguments: -"):
            given = message.split()[2].partition("=")[0]
            near = difflib.get_close_matches(given, options, n=1)
            message = f"unknown option {given}" + (f"; did you mean {near[0]}?" if near else "")
        elif message.startswith("argument ") and "invalid choice:" in message and self._choices():
            given = message.partition("invalid choice: ")[2].split("'")[1]
            choices = [str(item) for item in self._choices()]
            near = difflib.get_close_matches(given, choices, n=1)
            message = f"unknown command '{given}'" if near or given else message
            message += f"; did you mean {near[0]}?" if near else f"; choose {', '.join(choices)}"
        raise UsageError(f"{message} (see `{self.prog} --help`)")

    def all_options(self) -> set[str]:
        """Return the options of this command and of those below it."""
        own = {text for action in self._actions for text in action.option_strings}
        below = [
            command.all_options()
            for action in self._actions
            if isinstance(action, argparse._SubParsersAction)
            for command in action.choices.values()
        ]
        return own.union(*below)

    def _choices(self) -> Sequence[str]:
        for action in self._actions:
            if isinstance(action, argparse._SubParsersAction):
                return list(action.choices)
        return []


class Subparsers(Protocol):
    """What argparse's `add_subparsers` returns."""

    def add_parser(self, name: str, **options: Any) -> Parser: ...


def build_parser() -> Parser:
    """Return the whole command line's parser."""
    parser = Parser(
        prog="moco",
        description="Momentum Contrast: pre-train an image backbone without labels.",
        epilog=EXIT_CODES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )
    from moco import __version__

    parser.add_argument("--version", action="version", version=f"moco {__version__}")
    commands = parser.add_subparsers(dest="command", metavar="COMMAND", required=True)
    _add_pretrain(commands)
    _add_evaluate(commands)
    _add_demo(commands)
    return parser


def _command(
    commands: Subparsers, name: str, module: str, help_text: str, more: str = ""
) -> Parser:
    command: Parser = commands.add_parser(
        name,
        help=help_text,
        description=f"{help_text[0].upper()}{help_text[1:]}.{more}",
        formatter_class=argparse.RawDescriptionHelpFormatter,
        epilog=EXIT_CODES,
        allow_abbrev=False,
    )
    command.set_defaults(module=module)
    command.add_argument("--debug", action="store_true", help="show the traceback of an error")
    return command


def _add_pretrain(commands: Subparsers) -> None:
    command = _command(
        commands,
        "pretrain",
        "moco.cli.pretrain",
        "train a backbone on unlabelled images",
        """

  moco pretrain PHOTOS                           any folder, searched recursively
  moco pretrain IMAGENET/train --recipe moco-v2  the paper's run
  moco pretrain PHOTOS --set temperature=0.1 --set batch_size=128

The run directory holds recipe.yaml, metrics.jsonl, status.json and checkpoints/.
The same command goes on where a stopped run was.""",
    )
    command.add_argument("images", metavar="IMAGES", type=Path, help="a folder of images")
    command.add_argument(
        "--recipe",
        default="small",
        metavar="NAME",
        help=f"small (settings made for your images; the default), {', '.join(RECIPES)}",
    )
    command.add_argument(
        "--run", type=Path, metavar="DIR", help="the run directory (default: runs/RECIPE-FOLDER)"
    )
    command.add_argument(
        "--set",
        dest="settings",
        action="append",
        default=[],
        metavar="FIELD=VALUE",
        help="change a field of the recipe; may be given often; --dry-run lists the fields",
    )
    command.add_argument("--epochs", type=int, metavar="N", help="passes over the images")
    _add_device(command)
    command.add_argument("--seed", type=int, default=0, metavar="N", help="default: 0")
    command.add_argument(
        "--workers", type=int, metavar="N", help="image loading processes (default: by device)"
    )
    command.add_argument(
        "--resume",
        nargs="?",
        const="auto",
        default="auto",
        choices=("auto", "never"),
        help="auto: go on from the newest checkpoint, if any (the default); never: put an earlier "
        "run in this directory aside and start again",
    )
    command.add_argument(
        "--monitor-train", type=Path, metavar="DIR", help="class folders that vote in a kNN test"
    )
    command.add_argument(
        "--monitor-test", type=Path, metavar="DIR", help="class folders tested after each epoch"
    )
    command.add_argument(
        "--dry-run",
        action="store_true",
        help="show the plan and the resolved recipe, time a few steps, write nothing",
    )
    _add_json(command)


def _add_evaluate(commands: Subparsers) -> None:
    evaluate = _command(commands, "evaluate", "", "say what a run's features are worth")
    kinds = evaluate.add_subparsers(dest="evaluation", metavar="KIND", required=True)
    knn = _command(
        kinds,
        "knn",
        "moco.cli.evaluate_knn",
        "weighted nearest-neighbour classification on class folders",
        """

Prints top1 with its 95 % interval, balanced accuracy and, with two classes, the
ROC AUC of the second class folder by name.""",
    )
    knn.add_argument("run", metavar="RUN", type=Path, help="a run or checkpoint directory")
    knn.add_argument(
        "--train", required=True, type=Path, metavar="DIR", help="class folders that vote"
    )
    knn.add_argument(
        "--test", required=True, type=Path, metavar="DIR", help="class folders voted on"
    )
    knn.add_argument("--neighbours", type=int, default=200, metavar="K", help="default: 200")
    knn.add_argument("--temperature", type=float, default=0.07, metavar="T", help="default: 0.07")
    knn.add_argument(
        "--layer",
        choices=("backbone", "head"),
        default="backbone",
        help="features of the backbone (the default) or of the projection head",
    )
    _add_device(knn)
    knn.add_argument("--workers", type=int, default=0, metavar="N", help="default: 0")
    _add_json(knn)


def _add_demo(commands: Subparsers) -> None:
    command = _command(
        commands,
        "demo",
        "moco.cli.demo",
        "pre-train for some minutes, compare with raw pixels and no training, write a report",
        """

Without --images it uses photographs of solar cells from the elpv-dataset package
(pip install "moco-torch[demo]"). With your own folder of class folders it compares in the
same way; a folder without classes gives the report without the comparison.""",
    )
    command.add_argument("--images", type=Path, metavar="DIR", help="your own folder of images")
    command.add_argument(
        "--run", type=Path, default=Path("runs/demo"), metavar="DIR", help="default: runs/demo"
    )
    command.add_argument("--epochs", type=int, metavar="N", help="passes over the images")
    _add_device(command)
    command.add_argument("--seed", type=int, default=0, metavar="N", help="default: 0")
    _add_json(command)


def _add_device(command: Parser) -> None:
    command.add_argument(
        "--device", default="auto", choices=("auto", "cpu", "cuda", "mps"), help="default: auto"
    )


def _add_json(command: Parser) -> None:
    command.add_argument(
        "--json", type=Path, metavar="FILE", help="also write the figures there; see docs/json.md"
    )


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command line and return its exit code."""
    given = list(sys.argv[1:] if arguments is None else arguments)
    debug = "--debug" in given
    try:
        parsed = build_parser().parse_args(given)
        command = importlib.import_module(parsed.module)
        return int(command.run(parsed))
    except SystemExit as stop:  # --help and --version
        return int(stop.code or 0)
    except KeyboardInterrupt:
        return _fail("stopped from the keyboard", 130, debug=debug)
    except MocoError as error:
        return _fail(f"error: {error}", error.exit_code, debug=debug)
    except Exception as error:  # noqa: BLE001  a bug still deserves one line
        name = type(error).__name__
        return _fail(f"bug: {name}: {error} (--debug shows where)", 1, debug=debug)


def _fail(line: str, code: int, *, debug: bool) -> int:
    if debug:
        traceback.print_exc()
    print(f"moco: {' '.join(line.split())}", file=sys.stderr)
    return code
