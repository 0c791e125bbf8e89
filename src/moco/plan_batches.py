"""The batches of a plan, this process's share of them, and the watch over who makes them."""

from __future__ import annotations

from collections.abc import Generator
from contextlib import AbstractContextManager
from pathlib import Path

from moco.data.batch_loading import load_batches
from moco.data.batches import Batch, Batches
from moco.data.resident import resident_batches
from moco.data.workers import ImageNotes
from moco.distributed import rank, world_size
from moco.plan import Plan
from moco.watchdog import Watch, watched


def watch_over(plan: Plan, run: Path | None = None) -> AbstractContextManager[Watch]:
    """Name what hangs or is lost while the plan's steps are taken; stacks go to `run`."""
    return watched(plan.images, workers=plan.workers, timeout=plan.timeout, run=run)


def load_plan(
    plan: Plan, *, start: int, stop: int, notes: ImageNotes | None = None
) -> Generator[Batch, None, None]:
    """Yield this process's share of the batches of steps `start` to `stop` - 1."""
    batches = Batches(
        plan.images,
        plan.recipe.views,
        batch_size=plan.recipe.batch_size,
        seed=plan.seed,
        process=rank(),
        processes=world_size(),
        window=plan.recipe.shard_window,
        finish=plan.device.type == "cpu",
        size_at=plan.recipe.image_size_at,
    )
    if plan.resident is not None:
        return resident_batches(batches, plan.resident, start=start, stop=stop)
    return load_batches(
        batches,
        start=start,
        stop=stop,
        workers=plan.workers,
        pin_memory=plan.device.type == "cuda",
        timeout=plan.timeout,
        notes=notes,
    )
