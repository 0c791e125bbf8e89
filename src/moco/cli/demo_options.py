"""What `moco demo` takes; no torch in here."""

from __future__ import annotations

from moco.cli.parser import Parser, given_path
from moco.cli.shared_options import add_bad_limit, add_device, add_json, add_resume

ABOUT_DEMO = """

Without --images it uses photographs of solar cells from the elpv-dataset package
(pip install "moco-torch[demo]"). With your own folder of class folders it compares in the
same way; a folder without classes gives the report without the comparison."""


def add_demo_options(command: Parser) -> None:
    """Let it take images, and how long and where it trains."""
    command.add_argument(
        "--images", type=given_path, metavar="DIR", help="your own folder of images"
    )
    command.add_argument(
        "--run",
        type=given_path,
        metavar="DIR",
        help="default: runs/demo, with the folder's name and a seed other than 0 behind",
    )
    command.add_argument("--epochs", type=int, metavar="N", help="passes over the images")
    add_device(command)
    command.add_argument("--seed", type=int, default=0, metavar="N", help="default: 0")
    add_bad_limit(command)
    add_resume(command)
    add_json(command)
