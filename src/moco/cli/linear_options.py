"""What `moco evaluate linear` takes beside the images; no torch in here."""

from __future__ import annotations

import argparse
from collections.abc import Mapping

from moco.cli.parser import Parser, given_path
from moco.errors import UsageError

ABOUT_LINEAR = """

Features are taken once; the classifier is the solution of logistic regression, whose
weight penalty train images choose that are held out, never test images. Prints the
score that suits the labels with its 95 % interval over test images, and published
protocols with their numbers. Labelled images are class folders, or any source with
labels (docs/sources.md)."""


OFFICIAL = {
    "epochs": None,
    "batch_size": None,
    "learning_rate": None,
    "precision": "float32",
    "out": None,
}
"""Options of the official protocols, and what they are where nobody gave them."""
FAST = {"measure": "auto", "no_standardize": False}
"""Options of the fast protocol, and what they are where nobody gave them."""


def add_linear(command: Parser) -> None:
    """Let it say how the classifier is fitted."""
    command.add_argument(
        "--no-standardize",
        action="store_true",
        help="keep features' sizes beside each other: all are divided by one number. By default "
        "each gets mean 0 and deviation 1",
    )
    command.add_argument(
        "--seed",
        type=int,
        default=0,
        metavar="N",
        help="decides which train images choose the penalty, or the layer's first weights, the "
        "order and the crops (default: 0)",
    )
    command.add_argument(
        "--protocol",
        choices=("fast", "official"),
        default="fast",
        help="fast (the default), or the paper's own that suits the run's recipe: SGD on random "
        "crops for 90 or 100 epochs",
    )
    official = command.add_argument_group("only with --protocol official")
    official.add_argument("--epochs", type=int, metavar="N", help="the protocol's by default")
    official.add_argument("--batch-size", type=int, metavar="B", help="the protocol's by default")
    official.add_argument(
        "--learning-rate",
        type=float,
        metavar="RATE",
        help="the protocol's by default; a base rate, times B / 256, in v3's",
    )
    official.add_argument(
        "--precision",
        default="float32",
        choices=("auto", "float32", "bfloat16"),
        help="float32 (the default) is the papers'; auto: bfloat16 where the device is fast in it",
    )
    official.add_argument(
        "--out",
        type=given_path,
        metavar="DIR",
        help="keep the layer there, after each epoch, and go on from there after a stop",
    )


def refuse_options(arguments: argparse.Namespace, options: Mapping[str, object], of: str) -> None:
    """Refuse options that have no meaning here.

    Raises:
        UsageError: One of them was given.
    """
    given = [name for name, unset in options.items() if getattr(arguments, name) != unset]
    if given:
        words = ", ".join("--" + name.replace("_", "-") for name in given)
        raise UsageError(f"{words} {'is' if len(given) == 1 else 'are'} of {of}; leave it out")
