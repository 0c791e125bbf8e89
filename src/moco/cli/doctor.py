"""`moco doctor`."""

from __future__ import annotations

import argparse

from moco.cli.doctor_machine import show_machine
from moco.cli.json_file import check_json_path, write_json


def run(arguments: argparse.Namespace) -> int:
    """Check the machine."""
    check_json_path(arguments.json)
    write_json(arguments.json, show_machine())
    return 0
