"""What a container lets this process have: the limits of its control groups; no torch here.

Docker, Kubernetes and SLURM set them. Neither the number of processors nor the free memory that
the system tells shows them. Both versions of control groups are read; a group's limits hold for
all groups inside it, so the smallest on the way up counts.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path, PurePosixPath

from moco.plain_files import read_small

UNLIMITED = 1 << 60
"""Bytes from which a limit is none: version 1 has no word for it."""
MOST_BYTES = 1 << 16


def processor_quota(root: Path = Path("/")) -> float | None:
    """Return how many processors' time this process may use, such as 1.5; None without a limit.

    Args:
        root: of the file system that is asked.
    """
    quotas = []
    for group in _groups("cpu", root):
        match _text(group / "cpu.max").split():
            case [quota, period] if quota.isdecimal() and period.isdecimal() and int(period):
                quotas.append(int(quota) / int(period))
        quota = _text(group / "cpu.cfs_quota_us").strip()
        period = _text(group / "cpu.cfs_period_us").strip()
        if quota.isdecimal() and period.isdecimal() and int(period):  # -1: no limit
            quotas.append(int(quota) / int(period))
    return min((quota for quota in quotas if quota > 0), default=None)


def memory_limit(root: Path = Path("/")) -> int | None:
    """Return how many bytes of memory this process's group may have, None without a limit."""
    limits = [
        int(text)
        for group in _groups("memory", root)
        for name in ("memory.max", "memory.limit_in_bytes")
        if (text := _text(group / name).strip()).isdecimal()
    ]
    return min((limit for limit in limits if 0 < limit < UNLIMITED), default=None)


def _groups(controller: str, root: Path) -> Iterator[Path]:
    """Yield the folders of this process's groups, from its own up to the outermost."""
    mounts = root / "sys/fs/cgroup"
    for line in _text(root / "proc/self/cgroup").splitlines():
        number, _, rest = line.partition(":")
        controllers, _, path = rest.partition(":")
        if number == "0" and not controllers:
            folders = [mounts, mounts / "unified"]
        elif controller in controllers.split(","):
            folders = [mounts / controllers, mounts / controller]
        else:
            continue
        inside = PurePosixPath(path.strip("/") or ".")
        if ".." in inside.parts:  # a group beside the one that is mounted here
            inside = PurePosixPath(".")
        for folder in folders:
            yield from (folder / part for part in (inside, *inside.parents))


def _text(path: Path) -> str:
    try:
        return read_small(path, MOST_BYTES).decode("utf-8", "replace")
    except (OSError, ValueError):  # the system has no such file
        return ""
