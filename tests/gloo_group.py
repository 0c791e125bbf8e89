"""What one process of a test's gloo group does; a module of its own, so that others can find it."""

from __future__ import annotations

import traceback
from collections.abc import Callable
from datetime import timedelta
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist

PROCESS_SECONDS = 100


def work_in_group(
    rank: int, count: int, folder: Path, work: Callable[..., Any], args: tuple[Any, ...]
) -> None:
    torch.set_num_threads(1)
    try:
        dist.init_process_group(
            "gloo",
            init_method=(folder / "meeting-place").as_uri(),
            rank=rank,
            world_size=count,
            timeout=timedelta(seconds=PROCESS_SECONDS // 2),
        )
        torch.save(work(*args), folder / f"result-{rank}")
        dist.destroy_process_group()
    except BaseException:
        (folder / f"failure-{rank}").write_text(traceback.format_exc())
        raise
