"""What `moco bench time-to` alone takes; no torch in here."""

from __future__ import annotations

from moco.cli.parser import Parser, given_path

ABOUT_TIME_TO = """

  moco bench time-to --knn 0.7 IMAGES --monitor-train TRAIN --monitor-test TEST --recipe mine.yaml

Trains afresh for each seed until the kNN test after an epoch reaches the score, then stops.
Reports seconds of training (tests counted apart), epochs and images, their median and range.
A run that does not reach it within its epochs is a result too: its best score is told.
Compare two recipes by this command with each; see docs/schedules.md."""


def add_time_to_options(command: Parser) -> None:
    """Add the images, the score, and the seeds."""
    command.add_argument(
        "images", metavar="IMAGES", type=given_path, help="what to train on, as `moco pretrain`"
    )
    command.add_argument(
        "--knn",
        required=True,
        type=float,
        metavar="SCORE",
        help="the share of test images to be voted right, such as 0.826",
    )
    command.add_argument(
        "--head",
        action="store_true",
        help="of the head's output, as the official CIFAR-10 notebook tests, not the backbone's",
    )
    command.add_argument(
        "--every", type=int, default=1, metavar="N", help="epochs between tests (default: 1)"
    )
    command.add_argument(
        "--seeds", type=int, nargs="+", default=[0, 1, 2], metavar="N", help="default: 0 1 2"
    )
    command.add_argument("--epochs", type=int, metavar="N", help="passes over the images at most")
    command.add_argument(
        "--out",
        type=given_path,
        metavar="DIR",
        help="keep the runs here, as seed-N (default: they are deleted)",
    )
