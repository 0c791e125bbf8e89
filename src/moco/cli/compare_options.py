"""What `moco compare` takes; no torch in here."""

from __future__ import annotations

from moco.cli.evaluate_options import (
    LAYER_HELP,
    MODEL_HELP,
    add_labels,
    add_measure,
    add_sources,
)
from moco.cli.parser import Parser, given_model, given_path
from moco.cli.shared_options import add_device, add_json

ABOUT_COMPARE = """

  moco compare RUN --train TRAIN --test TEST
  moco compare RUN OTHER_RUN timm:resnet50@imagenet.safetensors --train TRAIN --test TEST
      --plot figure.png --json figures.json

Each network is judged by a linear probe and by nearest neighbours, on the same images:
a table with 95 % intervals, a paired test of each difference from the first network, and
in words which is better and whether the data suffice to say so. The first run's network
with random weights and its raw pixels are compared, too. Nothing is downloaded."""


def add_compare_options(command: Parser) -> None:
    """Let it take networks and the labelled images that they are judged on."""
    command.add_argument("models", metavar="MODEL", nargs="+", type=given_model, help=MODEL_HELP)
    add_sources(command)
    command.add_argument(
        "--no-baselines",
        action="store_true",
        help="compare just the networks that are named",
    )
    command.add_argument("--layer", default="backbone", metavar="NAME", help=LAYER_HELP)
    add_labels(command)
    add_measure(command)
    command.add_argument(
        "--plot", type=given_path, metavar="FILE", help="draw it: .png, .svg or .pdf"
    )
    command.add_argument(
        "--seed",
        type=int,
        default=0,
        metavar="N",
        help="decides which train images choose the probe's penalty (default: 0)",
    )
    add_device(command)
    command.add_argument("--workers", type=int, default=0, metavar="N", help="default: 0")
    add_json(command)
