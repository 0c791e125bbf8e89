"""What the `moco data` commands take; no torch in here."""

from __future__ import annotations

import argparse
from collections.abc import Callable
from typing import NamedTuple

from moco.cli.parser import Parser, given_path
from moco.cli.shared_options import add_bad_limit

SOURCES = "a folder, list, archive, table or array of images; see docs/sources.md"


class DataCommand(NamedTuple):
    """One of the commands: how it is described, and its options."""

    about: str
    more: str
    add_options: Callable[[Parser], None]


def add_check_options(command: Parser) -> None:
    """Add what `check` takes."""
    _add_source(command)
    command.add_argument(
        "--test", type=given_path, metavar="SRC2", help="test images, none of which may be in SRC"
    )
    _add_sample(command)
    _add_workers(command)
    add_bad_limit(command)


def add_stats_options(command: Parser) -> None:
    """Add what `stats` takes."""
    _add_source(command)
    _add_sample(command)
    _add_workers(command)


def add_pack_options(command: Parser) -> None:
    """Add what `pack` takes."""
    _add_source(command)
    command.add_argument("out", metavar="OUT", type=given_path, help="a new folder, or a begun one")
    command.add_argument(
        "--side",
        type=given_count,
        metavar="N",
        help="shrink images whose shorter side is larger (default: 256; with --lossless none is)",
    )
    command.add_argument(
        "--quality",
        type=given_quality,
        metavar="N",
        help="of JPEG, 1 to 100 (default: 90)",
    )
    command.add_argument(
        "--lossless", action="store_true", help="PNG in place of JPEG, and no image made smaller"
    )
    command.add_argument(
        "--shard-megabytes",
        type=given_megabytes,
        default=256.0,
        metavar="N",
        help="what a shard has at most (default: 256)",
    )
    _add_workers(command)
    add_bad_limit(command)


def add_preview_options(command: Parser) -> None:
    """Add what `preview` takes, beside recipe and device."""
    _add_source(command)
    command.add_argument(
        "--out", type=given_path, metavar="FILE.png", help="default: preview-SRC.png, here"
    )
    for option, default, what in (
        ("--images", 8, "rows, one for each image"),
        ("--epochs", 3, "how often each image is seen, two views each time"),
    ):
        command.add_argument(
            option, type=given_count, default=default, metavar="N", help=f"{what} ({default})"
        )
    command.add_argument("--seed", type=int, default=0, metavar="N", help="of the run (default: 0)")


DATA_COMMANDS = {
    "check": DataCommand(
        "read every image and say what would go wrong in training",
        """

  moco data check PHOTOS                    sizes, channels, unreadable files, duplicates
  moco data check TRAIN --test TEST         and test images that are among the training images
  moco data check PHOTOS --sample 1000      a thousand of them, spread over all

Ends with code 3 when more images cannot be used than --bad-limit, as training would.""",
        add_check_options,
    ),
    "stats": DataCommand(
        "count each channel's mean and deviation, as lines for a recipe file",
        """

  moco data stats SCANS                     every pixel of every image
  moco data stats SCANS --sample 1000       of a thousand images, spread over all""",
        add_stats_options,
    ),
    "pack": DataCommand(
        "put images into tar shards that are quick to read, made small",
        """

  moco data pack PHOTOS PACKED              short sides of at most 256, JPEG
  moco data pack SCANS PACKED --lossless    every pixel kept: PNG, or .npy for deep images
  moco pretrain PACKED                      the same images in the same order

The same command goes on where a stopped one was, and ends with the same bytes. Images that cannot
be read are left out and named in PACKED/index.json.""",
        add_pack_options,
    ),
    "preview": DataCommand(
        "draw what training will see: images, and their views in the first epochs",
        """

  moco data preview PHOTOS                            as `moco pretrain PHOTOS`
  moco data preview PHOTOS --recipe moco-v2 --set views.crop_scale='[0.5, 1]' --out views.png

Each row is an image, then both views of each epoch.""",
        add_preview_options,
    ),
}


def given_count(text: str) -> int:
    """Return a whole number from 1."""
    return _whole(text, 1, 1 << 31)


def given_quality(text: str) -> int:
    """Return a quality of JPEG."""
    return _whole(text, 1, 100)


def given_workers(text: str) -> int:
    """Return a number of processes."""
    return _whole(text, 0, 1024)


def given_megabytes(text: str) -> float:
    """Return a size of shards: at least one block of an archive, at most a terabyte."""
    try:
        size = float(text)
    except ValueError:
        size = 0.0
    if not 0.001 <= size <= 1e6:
        raise argparse.ArgumentTypeError(f"'{text}' is no size; write megabytes, such as 256")
    return size


def _whole(text: str, least: int, most: int) -> int:
    try:
        number = int(text)
    except ValueError:
        number = least - 1
    if not least <= number <= most:
        upper = f" to {most}" if most <= 1024 else ""
        raise argparse.ArgumentTypeError(
            f"must be a whole number from {least}{upper}, got '{text}'"
        )
    return number


def _add_source(command: Parser) -> None:
    command.add_argument("source", metavar="SRC", type=given_path, help=SOURCES)


def _add_sample(command: Parser) -> None:
    command.add_argument(
        "--sample", type=given_count, metavar="N", help="so many images, spread over all"
    )


def _add_workers(command: Parser) -> None:
    command.add_argument(
        "--workers",
        type=given_workers,
        metavar="N",
        help="processes that read images (default: one for each processor when there are many "
        "images)",
    )
