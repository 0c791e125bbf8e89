"""What `moco evaluate linear` takes beside the images; no torch in here."""

from __future__ import annotations

from moco.cli.parser import Parser, given_path

ABOUT_LINEAR = """

Features are taken once; the classifier is the solution of logistic regression, whose
weight penalty train images choose that are held out, never test images. Prints the
score that suits the labels with its 95 % interval over test images, and published
protocols with their numbers. Labelled images are class folders, or any source with
labels (docs/sources.md)."""


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
