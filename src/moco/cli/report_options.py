"""What `moco report` takes; no torch in here."""

from __future__ import annotations

from moco.cli.parser import Parser, given_path
from moco.cli.shared_options import add_device, add_json

ABOUT_REPORT = """

  moco report RUN                            RUN/report.html
  moco report RUN OTHER --out compared.html  over the same axes, with what differs
  moco report RUN --images PHOTOS            with their views and a map
  moco report RUN --evaluation knn.json linear.json

One HTML file that holds all it shows: nothing is fetched when it is read, so it can be sent
on. A run that is still at work can be reported, too (docs/report.md)."""


def add_report_options(command: Parser) -> None:
    """Let it take runs, images, evaluations and where the page goes."""
    command.add_argument(
        "runs", metavar="RUN", nargs="+", type=given_path, help="a run's directory; up to eight"
    )
    command.add_argument(
        "--images",
        type=given_path,
        metavar="SOURCE",
        help="the images that were trained on, any source: shows their views, and the images as "
        "the (first) run's network sees them: a map, neighbours, near-duplicates, outliers",
    )
    _add_map(command)
    command.add_argument(
        "--evaluation",
        type=given_path,
        nargs="+",
        action="extend",
        default=[],
        metavar="FILE",
        help="files that `moco evaluate` or `moco compare` wrote with --json; those in the runs' "
        "directories are found",
    )
    command.add_argument(
        "--out",
        type=given_path,
        metavar="FILE",
        help="default: report.html in the first run's directory; an earlier report there is "
        "replaced, any other file is not",
    )
    add_json(command)


def _add_map(command: Parser) -> None:
    """Let it say what the map of --images is like."""
    command.add_argument(
        "--map",
        default="auto",
        choices=("auto", "pca", "tsne", "none"),
        help="how --images are laid out: pca; tsne besides, by openTSNE; auto (the default): tsne "
        "where it is installed and there are at most 5,000 images; none: no map",
    )
    command.add_argument(
        "--most-images",
        type=int,
        default=5000,
        metavar="N",
        help="images on the map, spread over the source; each goes through the network twice, with "
        "and without its training (default: 5000)",
    )
    command.add_argument(
        "--duplicates",
        type=float,
        metavar="COSINE",
        help="from which cosine on two images are near-duplicates (default: where their distance "
        "is a quarter of the usual one to the nearest other image)",
    )
    add_device(command)
    command.add_argument("--workers", type=int, default=0, metavar="N", help="default: 0")
