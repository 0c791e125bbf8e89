"""`moco doctor` without a run: the check of the machine, as a table and as figures."""

from __future__ import annotations

import shutil
import sys
from collections.abc import Sequence
from pathlib import Path

from rich.console import Console
from rich.table import Table
from rich.text import Text

from moco.cli.output import printable, say
from moco.machine.check import check_machine, worst
from moco.machine.packages import Check

WORDS = {"ok": "ok", "warn": "warning", "bad": "bad"}
COLOURS = {"ok": "green", "warn": "yellow", "bad": "bold red"}
ELSEWHERE = 110
"""Columns of the table where no terminal says how many it has."""


def show_machine(place: str | Path = "runs") -> dict[str, object]:
    """Print what was seen and what to do about it; return the figures, as `--json` has them.

    Args:
        place: where runs are or will be written.
    """
    checks = check_machine(place)
    if sys.stdout is not None:
        width = shutil.get_terminal_size().columns if sys.stdout.isatty() else ELSEWHERE
        Console(width=width).print(machine_table(checks))
    say("\n".join(advice(checks)))
    return machine_figures(checks)


def machine_table(checks: Sequence[Check]) -> Table:
    """Return a row for each check; names from outside are shown as they are, not as markup."""
    table = Table("check", "verdict", "seen")
    for check in checks:
        table.add_row(
            Text(printable(check.name)),
            Text(WORDS[check.verdict], style=COLOURS[check.verdict]),
            Text(printable(check.seen)),
        )
    return table


def advice(checks: Sequence[Check]) -> list[str]:
    """Return what to do in lines, the worst first; then how all is."""
    lines = [
        f"{WORDS[verdict]}: {check.name}: {check.remedy}"
        for verdict in ("bad", "warn")
        for check in checks
        if check.verdict == verdict
    ]
    lines += [
        f"if you want it: {check.name}: {check.remedy}"
        for check in checks
        if check.verdict == "ok" and check.remedy
    ]
    match worst(checks):
        case "bad":
            return [*lines, "this machine is not fit for runs as it is"]
        case "warn":
            return [*lines, "runs will work here; see the warnings"]
        case _:
            return [*lines, "this machine is fit for runs"]


def machine_figures(checks: Sequence[Check]) -> dict[str, object]:
    """Return the figures, as `--json` has them."""
    return {
        "verdict": worst(checks),
        **{
            verdict: sum(check.verdict == verdict for check in checks)
            for verdict in ("ok", "warn", "bad")
        },
        "checks": [
            {
                "name": check.name,
                "verdict": check.verdict,
                "seen": check.seen,
                "remedy": check.remedy,
            }
            for check in checks
        ],
    }
