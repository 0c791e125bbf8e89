"""A dry run: each part of a plan timed alone, then all of them together; nothing is written.

The order matters. What sets up is done first, on a batch made here. Then loading processes start
and are pulled at as fast as they go, which leaves nothing in store, so that the steps after it do
not live off batches that were made beforehand.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import closing
from dataclasses import dataclass, replace

import torch

from moco.checkpoint import KEPT
from moco.contrast import Contrast
from moco.data.batches import Batch
from moco.device import cpu_count, shared_cpu
from moco.memory import (
    device_memory,
    device_peak,
    forget_device_peak,
    largest_peak,
    process_peak,
    tensor_bytes,
)
from moco.plan import Plan
from moco.plan_batches import load_plan, watch_over
from moco.prediction import Machine, Rates
from moco.processes import largest, local_processes
from moco.time_trial import Stepper, is_over, wait_for

COPY_SECONDS, LOADING_SECONDS, COMPUTE_SECONDS, TOGETHER_SECONDS = 0.5, 2.5, 2.5, 6.0
MOST_STEPS = 24
"""Each part is measured until its time is over or for so many steps, at least once."""
END = 1 << 40
"""Steps beyond the plan's are fine: a batch is a function of its step."""
METRICS_BYTES = 300
"""Of a step, in metrics.jsonl."""


@dataclass(frozen=True)
class Rehearsal:
    """What was measured; memory in bytes, None where the system or device does not tell."""

    contrast: Contrast
    rates: Rates
    machine: Machine
    setup_seconds: float
    """To the end of the first step, resident images read, without the starting of processes."""
    process_bytes: int | None
    """The most that a process of the run held of the machine's memory."""
    loader_bytes: int | None
    """The most that a loading process held, with what it shares; None without such processes."""
    device_bytes: int | None
    """The most that tensors took of a GPU's own memory."""
    device_total: int | None
    checkpoint_bytes: int
    disk_bytes: int
    """The most that the run directory takes: kept checkpoints, one being written, metrics."""
    notes: list[str]
    """What a run tells of how its steps are made fast."""


def rehearse(plan: Plan) -> Rehearsal:
    """Measure a plan's parts and the whole, in all processes of the run alike.

    Views that grow are measured at their full size, which decides how much memory a run takes.

    Raises:
        MocoError: As a run would in its first steps.
    """
    began = time.monotonic()
    plan = replace(plan, recipe=plan.recipe.at_full_size())
    forget_device_peak(plan.device)
    stepper = Stepper(plan)
    with shared_cpu(plan.device, plan.workers), watch_over(plan) as watch:
        threads = torch.get_num_threads()
        (kept,) = load_plan(replace(plan, workers=0), start=0, stop=1)
        copy = _copy_rate(plan, kept)
        first = time.monotonic()
        stepper.step(kept).item()
        first_seconds, setup_seconds = time.monotonic() - first, time.monotonic() - began
        setup_seconds += plan.resident.seconds if plan.resident is not None else 0.0
        compute = _compute_rate(plan, stepper, kept, first_seconds)
        with closing(load_plan(plan, start=1, stop=END, notes=watch.notes)) as made:
            decode = _loading_rate(plan, made)
            whole = _whole_rate(plan, stepper, made, watch.note)
            loader_bytes = largest_peak(watch.notes.at())
    checkpoint_bytes = tensor_bytes([stepper.contrast.state_dict(), stepper.train_state()])
    return Rehearsal(
        contrast=stepper.contrast,
        rates=Rates(decode, copy, compute, whole),
        machine=machine_of(plan, threads),
        setup_seconds=setup_seconds,
        process_bytes=_largest_known(process_peak()),
        loader_bytes=_largest_known(loader_bytes),
        device_bytes=_largest_known(device_peak(plan.device)),
        device_total=device_memory(plan.device),
        checkpoint_bytes=checkpoint_bytes,
        disk_bytes=(KEPT + 1) * checkpoint_bytes + METRICS_BYTES * plan.steps,
        notes=stepper.notes,
    )


def machine_of(plan: Plan, threads: int) -> Machine:
    """Return what a process of the run has of this machine."""
    precision = str(plan.precision or torch.float32).removeprefix("torch.")
    cores = max(1, cpu_count() // local_processes())
    return Machine(
        is_cpu=plan.device.type == "cpu",
        cores=cores,
        workers=plan.workers,
        threads=threads,
        precision=precision,
        resident=plan.resident is not None,
    )


def _copy_rate(plan: Plan, kept: Batch) -> float | None:
    """Return how fast crops reach the device, None where they are there."""
    if plan.device.type == "cpu" or plan.resident is not None:
        return None
    batch = kept.pin_memory() if plan.device.type == "cuda" else kept

    def copy() -> None:
        for rows in (batch.view_a, batch.view_b, batch.image_ids):
            rows.to(plan.device, non_blocking=True)
        wait_for(plan.device)

    copy()
    return _rate(plan, copy, COPY_SECONDS, MOST_STEPS)


def _compute_rate(plan: Plan, stepper: Stepper, kept: Batch, first_seconds: float) -> float:
    """Return how fast steps are on a batch that is there, the making of views included.

    Args:
        kept: as the first step left it.
        first_seconds: of that step, which is all that is taken where steps are that slow.
    """
    slowest = largest([int(first_seconds * 1e6)])[0] / 1e6
    if slowest > 2 * COMPUTE_SECONDS:
        return plan.recipe.batch_size / slowest

    def step() -> None:
        stepper.step(kept).item()

    return _rate(plan, step, COMPUTE_SECONDS, MOST_STEPS)


def _loading_rate(plan: Plan, made: Iterator[Batch]) -> float:
    """Return how fast batches come when nothing else is done, from the second of each process on.

    Whole rounds are counted, since processes that began together bring their batches together.
    """
    a_round = max(1, plan.workers)

    def pull() -> None:
        for _ in range(a_round):
            next(made)
        wait_for(plan.device)  # that cuts resident images

    pull()
    rounds = max(1, MOST_STEPS // a_round)
    return _rate(plan, pull, LOADING_SECONDS, rounds) * a_round


def _whole_rate(
    plan: Plan, stepper: Stepper, made: Iterator[Batch], note: Callable[[int], None]
) -> float:
    """Return how fast the run goes, of whole rounds of loading processes where they are short.

    A step is waited for once the next is under way, as a run has it.
    """
    began, before = time.monotonic(), None
    for steps in range(1, max(MOST_STEPS, plan.workers) + 1):
        batch = next(made)
        note(batch.step)
        loss = stepper.step(batch)
        if before is not None:
            before.item()
        before = loss
        is_whole = steps % max(1, plan.workers) == 0
        if is_over(began, TOGETHER_SECONDS if is_whole else 2 * TOGETHER_SECONDS):
            break
    wait_for(plan.device)
    return steps * plan.recipe.batch_size / _slowest_since(began)


def _rate(plan: Plan, work: Callable[[], None], seconds: float, most: int) -> float:
    """Return the images per second of all processes, where `work` handles a batch of the run."""
    began = time.monotonic()
    done = 0
    while done < most:
        work()
        done += 1
        if is_over(began, seconds):
            break
    return done * plan.recipe.batch_size / _slowest_since(began)


def _slowest_since(began: float) -> float:
    """Return the seconds since `began` in the process that took longest."""
    return max(1, largest([int((time.monotonic() - began) * 1e6)])[0]) / 1e6


def _largest_known(value: int | None) -> int | None:
    found = largest([-1 if value is None else value])[0]
    return None if found < 0 else found
