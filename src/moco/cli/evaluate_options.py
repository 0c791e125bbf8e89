"""What each kind of `moco evaluate` takes; no torch in here."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from moco.cli.parser import Parser, given_path
from moco.cli.shared_options import add_device, add_json

ABOUT_KNN = """

Prints top1 with its 95 % interval, balanced accuracy and, with two classes, the
ROC AUC of the second class by name. Labelled images are class folders, or any source
with labels (docs/sources.md)."""


def add_labelled_pair(command: Parser) -> None:
    """Let it take a model and the labelled images that it is judged on."""
    command.add_argument(
        "run", metavar="RUN", type=given_path, help="a run or checkpoint directory"
    )
    command.add_argument(
        "--train", required=True, type=given_path, metavar="SRC", help="labelled images to learn of"
    )
    command.add_argument(
        "--test", required=True, type=given_path, metavar="SRC2", help="those that are asked about"
    )
    command.add_argument(
        "--layer",
        choices=("backbone", "head"),
        default="backbone",
        help="features of the backbone (the default) or of the projection head",
    )
    add_device(command)
    command.add_argument("--workers", type=int, default=0, metavar="N", help="default: 0")
    add_json(command)


def add_knn_options(command: Parser) -> None:
    """Let it say who votes and how much."""
    add_labelled_pair(command)
    command.add_argument("--neighbours", type=int, default=200, metavar="K", help="default: 200")
    command.add_argument(
        "--temperature", type=float, default=0.07, metavar="T", help="default: 0.07"
    )


@dataclass(frozen=True)
class Evaluation:
    """A kind of evaluation: its module, a line and more about it, and its options."""

    module: str
    about: str
    more: str
    add_options: Callable[[Parser], None]


EVALUATIONS = {
    "knn": Evaluation(
        "moco.cli.evaluate_knn",
        "weighted nearest-neighbour classification on labelled images",
        ABOUT_KNN,
        add_knn_options,
    ),
}
