"""Thousands of saves leave no file open, no thread, no memory and no checkpoint too many (R27)."""

from __future__ import annotations

import importlib
import json
import os
import tempfile
import threading
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from killed_runs import Job, log_of, train_job
from killing import kill_group, start_process, tell

from moco.recipe import Recipe
from moco.recipe_files import set_fields
from moco.recipes import MOCO_V2

SAVES, LOOK_EVERY, SETTLED = 5000, 100, 500
"""Memory is looked at once the first saves have filled what they reuse."""
SOAK_SECONDS = 1500
MOST_GROWTH_MB = 1.0
"""For 1000 saves."""
KEPT = 2


def look_at_process(saves: int) -> dict[str, float]:
    """Return what this process holds: open files, threads, memory in MB."""
    pages = int(Path("/proc/self/statm").read_text().split()[1])
    return {
        "saves": saves,
        "files": len(os.listdir("/proc/self/fd")),
        "threads": threading.active_count(),
        "memory": pages * os.sysconf("SC_PAGESIZE") / 1e6,
    }


def train_and_look(job: Job, looks: Path) -> None:
    """Train, each step saved whole before the next; look at the process now and then."""
    pretraining, saves = importlib.import_module("moco.pretraining"), 0
    after_step = pretraining.after_step

    def look(session: Any, *arguments: Any) -> None:
        nonlocal saves
        after_step(session, *arguments)
        session.finish_saving()
        saves += 1
        assert (job.run / "latest").read_text() == f"step_{session.step:08d}"
        assert len(os.listdir(job.run / "checkpoints")) <= KEPT
        if saves % LOOK_EVERY == 0:
            with open(looks, "a") as file:
                file.write(json.dumps(look_at_process(saves)) + "\n")

    pretraining.after_step = look
    train_job(job)


def in_memory() -> str | None:
    """Return a folder in memory, None for the usual one where there is none."""
    return "/dev/shm" if os.access("/dev/shm", os.W_OK) else None


@pytest.mark.slow
@pytest.mark.timeout(SOAK_SECONDS + 60)
@pytest.mark.skipif(not Path("/proc/self/fd").exists(), reason="/proc shows what a process holds")
def test_thousands_of_saves_leave_nothing_behind(
    photos: Path, tiny_settings: list[str], tmp_path: Path
) -> None:
    tiniest = [*tiny_settings, "views.order=[crop]", "batch_size=4", "batch_norm_groups=1"]
    recipe: Recipe = set_fields(
        MOCO_V2, [*tiniest, f"epochs={SAVES // 16 + 1}", "dictionary.size=8"]
    )
    began = time.monotonic()
    with tempfile.TemporaryDirectory(dir=in_memory()) as folder:  # no disk to wait for
        job = Job(photos, recipe, Path(folder) / "run")
        process = start_process(train_and_look, job, tmp_path / "looks")
        try:
            process.join(SOAK_SECONDS)
        finally:
            kill_group(process)
        assert process.exitcode == 0, log_of(job).read_text()
    looks = [json.loads(line) for line in (tmp_path / "looks").read_text().splitlines()]
    settled = [look for look in looks if look["saves"] >= SETTLED]
    slope, _ = np.polyfit(*zip(*[(o["saves"], o["memory"]) for o in settled], strict=True), 1)
    files, threads = ({look[name] for look in looks} for name in ("files", "threads"))
    tell(
        f"R27: {looks[-1]['saves']:.0f} saves, memory {1000 * slope:+.2f} MB in 1000, "
        f"{files} open files, {threads} threads, {time.monotonic() - began:.0f} s"
    )
    assert looks[-1]["saves"] >= SAVES
    assert len(files) == len(threads) == 1
    assert 1000 * slope <= MOST_GROWTH_MB
