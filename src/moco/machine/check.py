"""The check of the machine: everything that a run needs, before there is a run.

No torch in here until it is known to load: a torch that does not is what this must tell.
"""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

from moco.machine.packages import Check, Verdict, check_packages, import_failure

ORDER: tuple[Verdict, ...] = ("ok", "warn", "bad")


def check_machine(place: str | Path = "runs") -> list[Check]:
    """Look at versions, devices, memory, files and disk; nothing is written.

    Args:
        place: where runs are or will be written.
    """
    checks = check_packages()
    failure = import_failure("torch")
    if failure is not None:
        return [*checks, failure]
    from moco.machine.devices import check_devices
    from moco.machine.room import check_room

    return [*checks, *check_devices(), *check_room(Path(place))]


def worst(checks: Iterable[Check]) -> Verdict:
    """Return the worst verdict of them, ok for none."""
    return max((check.verdict for check in checks), key=ORDER.index, default="ok")
