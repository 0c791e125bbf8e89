"""Options on where a run begins; no torch in here."""

from __future__ import annotations

import argparse

from moco.cli.parser import Parser, given_model


def add_start(command: Parser) -> None:
    """Let it begin with weights that are there."""
    command.add_argument(
        "--from",
        dest="start_from",
        type=given_model,
        metavar="FILE|RUN",
        help="begin with weights of a file (official MoCo, torchvision, timm and others; see "
        "docs/start_from.md), of a run, or of timm:NAME@FILE",
    )
    command.add_argument(
        "--from-as",
        dest="start_as",
        default="auto",
        choices=("auto", "continue", "backbone"),
        help="continue: a full official checkpoint with key encoder and queue goes on here; "
        "backbone: its backbone alone, with a new head; auto: the first where the file has all "
        "for it (the default)",
    )
    command.add_argument(
        "--from-channels",
        dest="start_channels",
        metavar="3,2,1|mean",
        help="which channel of the file's first layer each channel of the images takes, counted "
        "from 1; or mean: each takes the mean of them all",
    )


def start_words(arguments: argparse.Namespace) -> tuple[str | None, str, str | None]:
    """Return what was given, as `start_asked` takes it."""
    return arguments.start_from, arguments.start_as, arguments.start_channels
