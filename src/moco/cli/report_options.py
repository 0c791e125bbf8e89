"""What `moco report` takes; no torch in here."""

from __future__ import annotations

from moco.cli.parser import Parser, given_path
from moco.cli.shared_options import add_json

ABOUT_REPORT = """

  moco report RUN                            RUN/report.html
  moco report RUN OTHER --out compared.html  over the same axes, with what differs
  moco report RUN --images PHOTOS            with the views that it trained on
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
        help="the images that were trained on, any source: shows their views",
    )
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
