"""What `moco bench input` alone takes; no torch in here."""

from __future__ import annotations

from moco.cli.parser import Parser, given_path

ABOUT_INPUT = """

Runs pipelines in turn on the same files in this one process, one thread: this library's (the
loading process's part, the same from packed shards, all on the CPU, the device's part), the
official one of Pillow and torchvision, and lightly and stable-pretraining where they are
installed. A rate counts source images per second of CPU time, each giving two views.

Without --images it makes 48 JPEGs of 500x375 pixels from photographs that scikit-image and
scikit-learn carry (pip install "moco-torch[bench]"). See docs/benchmarks.md."""


def add_input_options(command: Parser) -> None:
    """Add the images, the recipe, and how long to measure."""
    command.add_argument(
        "--images",
        type=given_path,
        metavar="DIR",
        help="a folder of your own image files; up to 48 of them are timed",
    )
    command.add_argument(
        "--recipe",
        default="moco-v2",
        metavar="NAME|FILE.yaml",
        help="whose views are made (default: moco-v2)",
    )
    command.add_argument(
        "--rounds", type=int, default=7, metavar="N", help="turns of each pipeline (default: 7)"
    )
    command.add_argument(
        "--seconds",
        type=float,
        default=1.0,
        metavar="S",
        help="what a turn takes at least (default: 1)",
    )
