"""What `moco doctor` takes; no torch in here."""

from __future__ import annotations

from moco.cli.parser import Parser, given_path
from moco.cli.shared_options import add_json

ABOUT_DOCTOR = """

  moco doctor                              is this machine fit for runs
  moco doctor runs/small-photos            is this run healthy, and what to change if not
  moco doctor runs/small-photos --strict   the same; exit code 8 if it is sick

One verdict with its evidence and the setting to change, what else was found, and the signals'
latest values beside those of our recorded healthy runs. It reads recipe.yaml, metrics.jsonl,
signals.jsonl and status.json, also of a run that is at work. docs/doctor.md has all rules.

Without RUN it looks at versions, devices, limits and room, and writes nothing: start it where runs
will be started (docs/machine_check.md)."""


def add_doctor_options(command: Parser) -> None:
    """Let it take a run."""
    command.add_argument(
        "run",
        metavar="RUN",
        nargs="?",
        type=given_path,
        help="a run directory; without one this machine is checked",
    )
    command.add_argument(
        "--strict",
        action="store_true",
        help="return 8 where the run is sick, or the machine unfit, not 0",
    )
    add_json(command)
