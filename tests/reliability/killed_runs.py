"""What a process that will be killed does: it trains, sound or with one fault.

A module of its own with few imports, so that each of many processes starts at once.
"""

from __future__ import annotations

import importlib
import multiprocessing
import os
import sys
from collections.abc import Callable, Iterator, Mapping
from contextlib import redirect_stdout
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch

from moco.checkpoint import Checkpoint, load_newest, save_checkpoint
from moco.cli.main import main
from moco.data.batches import Batch
from moco.plan import make_plan
from moco.recipe import Recipe

pretraining = importlib.import_module("moco.pretraining")


def sound() -> None:
    """Change nothing."""


@dataclass(frozen=True)
class Job:
    """A run, and what is wrong with the code that does it."""

    images: Path
    recipe: Recipe
    run: Path
    workers: int = 0
    fault: Callable[[], None] = sound
    device: str = "cpu"


def log_of(job: Job) -> Path:
    return job.run.with_name(f"{job.run.name}.log")


def drawing_monitor(_: object) -> Mapping[str, float]:
    """Stand in for kNN; it draws from the random state that the run must carry on."""
    return {"knn_top1": float(torch.rand(()))}


def train_job(job: Job) -> None:
    """Train to the end in a process group of its own, saving as often as can be."""
    os.setsid()
    with open(log_of(job), "ab", buffering=0) as log:
        os.dup2(log.fileno(), sys.stderr.fileno())
    multiprocessing.set_start_method("fork", force=True)  # of its loading processes
    os.environ["OMP_NUM_THREADS"] = "1"
    torch.set_num_threads(1)
    importlib.import_module("moco.session").SAVE_EVERY_SECONDS = 0.0
    job.fault()
    if job.device == "cuda":
        choose_reproducible_kernels()
    plan = make_plan(
        job.images, recipe=job.recipe, run=job.run, device=job.device, workers=job.workers
    )
    pretraining.train(plan, monitor=drawing_monitor)


def choose_reproducible_kernels() -> None:
    """Have a GPU do the same sums in the same order each time."""
    os.environ["CUBLAS_WORKSPACE_CONFIG"] = ":4096:8"
    torch.use_deterministic_algorithms(True)


def run_command(command: list[str], run: Path) -> None:
    """Do what `moco` does, in a process group of its own."""
    os.setsid()
    multiprocessing.set_start_method("fork", force=True)
    os.environ["OMP_NUM_THREADS"] = "1"
    torch.set_num_threads(1)
    with open(os.devnull, "w") as nowhere, redirect_stdout(nowhere):
        sys.exit(main([*command, "--run", str(run)]))


def replace_everywhere(old: object, new: object) -> None:
    """Put `new` wherever the package holds `old` by a name."""
    for name, module in list(sys.modules.items()):
        if name.partition(".")[0] == "moco":
            for attribute, value in list(vars(module).items()):
                if value is old:
                    setattr(module, attribute, new)


def read_one_file(run: Path, **_: object) -> Checkpoint | None:
    """Return what `saved_in_place` left."""
    path = run / "last.pth"
    return torch.load(path, weights_only=False) if path.exists() else None


def saved_in_place() -> None:
    """Save as most scripts do: one file, written over the one before."""

    def save(run: Path, checkpoint: Checkpoint) -> None:
        train_state = {**checkpoint.train_state, "step": checkpoint.step}
        torch.save(replace(checkpoint, train_state=train_state), run / "last.pth")

    replace_everywhere(save_checkpoint, save)
    replace_everywhere(load_newest, read_one_file)


def without_queue() -> None:
    leave_out_of_dictionary("keys")


def without_queue_pointer() -> None:
    leave_out_of_dictionary("next_slot")


def leave_out_of_dictionary(name: str) -> None:
    build = pretraining.build_contrast

    def build_without(*arguments: Any, **options: Any) -> Any:
        contrast = build(*arguments, **options)
        assert name in dict(contrast.dictionary.named_buffers())
        contrast.dictionary._non_persistent_buffers_set.add(name)
        return contrast

    replace_everywhere(build, build_without)


def without_random_state() -> None:
    leave_out_of_train_state("cpu_random_state", None)


def without_optimizer_state() -> None:
    leave_out_of_train_state("optimizer", "state")


def leave_out_of_train_state(name: str, part: str | None) -> None:
    def save(run: Path, checkpoint: Checkpoint) -> Path:
        kept = dict(checkpoint.train_state)
        left_out = kept.pop(name)
        if part is not None:
            kept[name] = {**left_out, part: {}}
        return save_checkpoint(run, replace(checkpoint, train_state=kept))

    replace_everywhere(save_checkpoint, save)


def without_data_position() -> None:
    """Begin again with the first batch, whatever step it is."""
    load = pretraining.load_plan

    def load_from_start(plan: Any, *, start: int, stop: int, notes: Any) -> Iterator[Batch]:
        for batch in load(plan, start=0, stop=stop - start, notes=notes):
            batch.step += start
            yield batch

    replace_everywhere(load, load_from_start)
