"""What `moco study` alone takes; no torch in here."""

from __future__ import annotations

from moco.cli.parser import Parser, given_path, given_seconds
from moco.studies.catalogue import STUDIES

LISTED_STUDIES = "\n\n" + "\n".join(
    f"  {name:13} {study.title}: {study.source}" for name, study in STUDIES.items()
)


def add_study_options(command: Parser) -> None:
    """Add the study, its folders, and its size."""
    command.add_argument("study", metavar="STUDY", choices=tuple(STUDIES), help=", ".join(STUDIES))
    for option, what in (
        ("--images", "class folders: trained on without labels, with labels they vote in tests"),
        ("--test", "class folders of the same classes to test on"),
        ("--run", "where runs and results are kept; studies in the same one share equal runs"),
    ):
        command.add_argument(option, required=True, type=given_path, metavar="DIR", help=what)
    command.add_argument(
        "--seeds", type=int, default=3, metavar="N", help="runs of each setting (default: 3)"
    )
    length = command.add_mutually_exclusive_group()
    length.add_argument("--epochs", type=int, metavar="N", help="passes over the images")
    length.add_argument(
        "--budget",
        type=given_seconds,
        metavar="TIME",
        help="time for the whole study, such as 90m or 2h; decides the epochs",
    )
    command.add_argument(
        "--dry-run",
        action="store_true",
        help="show the runs and how long they take, write nothing",
    )
