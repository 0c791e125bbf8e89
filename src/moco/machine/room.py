"""Is there room: memory, memory that processes share, open files, disk?"""

from __future__ import annotations

import os
import shutil
import sys
from pathlib import Path

import torch

from moco.device import default_workers, pick_device
from moco.machine.container import memory_limit
from moco.machine.packages import Check
from moco.memory import free_memory, size_in_words

if sys.platform != "win32":
    import resource

GB = 1_000_000_000
BAD_MEMORY, GOOD_MEMORY = 2 * GB, 4 * GB
"""Bytes below which even the recipe small fails, or larger ones do."""
BATCH_BYTES = 2 * 256 * 3 * 224 * 224
"""Of the papers' batch as loading processes hand it over: two crops of each of 256 images."""
BATCHES_AHEAD = 4
"""That each loading process has in store."""
BAD_FILES, GOOD_FILES = 256, 1024
BAD_DISK, GOOD_DISK = 1 * GB, 5 * GB
"""A run's checkpoints, two kept and one being written, take 0.4 GB by cifar10-resnet18, 1.1 GB by
moco-v2 and 5.1 GB by moco-v3-vit-base."""
SHARED_MEMORY = Path("/dev/shm")


def check_room(place: Path) -> list[Check]:
    """Return checks of memory, shared memory, open files and disk.

    Args:
        place: where runs are or will be written.
    """
    workers = default_workers(pick_device("auto"), importable=True)
    checks = [judge_memory(free_memory(torch.device("cpu")), memory_limit())]
    if os.path.isdir(SHARED_MEMORY):
        checks.append(judge_shared_memory(shutil.disk_usage(SHARED_MEMORY).free, workers))
    if sys.platform != "win32":
        checks.append(judge_open_files(resource.getrlimit(resource.RLIMIT_NOFILE)[0]))
    return [*checks, check_disk(place)]


def judge_memory(free: int | None, limit: int | None) -> Check:
    """Say how much memory a run can have.

    Args:
        free: bytes on the machine, None where none tells.
        limit: bytes that the container gives, None without one.
    """
    known = [value for value in (free, limit) if value is not None]
    if not known:
        return Check("memory", "the system does not tell")
    seen = f"{size_in_words(free)} free" if free is not None else "unknown free"
    if limit is not None:
        seen += f", the container's limit is {size_in_words(limit)}"
    remedy = "close other programs, or raise the container's memory; lower batch_size and --workers"
    if min(known) < BAD_MEMORY:
        return Check("memory", seen, "bad", remedy)
    if min(known) < GOOD_MEMORY:
        return Check("memory", seen, "warn", remedy)
    return Check("memory", seen)


def judge_shared_memory(free: int, workers: int) -> Check:
    """Say whether loading processes can hand over their batches.

    Args:
        free: bytes in /dev/shm.
        workers: loading processes that a run here has by itself.
    """
    wanted = max(1, workers) * BATCHES_AHEAD * BATCH_BYTES
    seen = f"{size_in_words(free)} free in {SHARED_MEMORY}"
    if free >= wanted:
        return Check("shared memory", seen)
    return Check(
        "shared memory",
        f"{seen}; {size_in_words(wanted)} hold what {max(1, workers)} loading processes have in "
        "store of batches of 256 images of 224 pixels",
        "bad" if free < BATCH_BYTES else "warn",
        f"docker run --shm-size={-(-wanted // GB)}g or --ipc=host; or --workers 0",
    )


def judge_open_files(limit: int) -> Check:
    """Say whether enough files can be open: each batch that is handed over takes some."""
    if limit < 0:  # as getrlimit has no limit
        return Check("open files", "no limit")
    verdict = "bad" if limit < BAD_FILES else "warn" if limit < GOOD_FILES else "ok"
    return Check(
        "open files",
        f"at most {limit:,}",
        verdict,  # type: ignore[arg-type]
        "" if verdict == "ok" else "ulimit -n 4096, or --workers 0",
    )


def check_disk(place: Path) -> Check:
    """Say how much disk there is for runs, and whether they can be written."""
    folder = nearest_folder(place)
    if not os.access(folder, os.W_OK | os.X_OK):
        return Check("disk", f"{folder} cannot be written", "bad", "choose another --run")
    try:
        free = shutil.disk_usage(folder).free
    except OSError as error:
        return Check("disk", f"{folder}: {error.strerror or error}", "bad", "see to that disk")
    seen = f"{size_in_words(free)} free in {folder}"
    remedy = "free some, or choose a --run on another disk"
    if free < BAD_DISK:
        return Check("disk", seen, "bad", remedy)
    return Check("disk", seen, "warn", remedy) if free < GOOD_DISK else Check("disk", seen)


def nearest_folder(place: Path) -> Path:
    """Return the place, or what it will be made in: the nearest folder above it that is there."""
    folder = place.absolute()
    while not os.path.isdir(folder) and folder != folder.parent:
        folder = folder.parent
    return folder
