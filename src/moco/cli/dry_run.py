"""`moco pretrain --dry-run`: what a run would do and take, in words and figures."""

from __future__ import annotations

import shutil
from pathlib import Path

from moco.cli.output import say
from moco.cli.terminal import describe_contrast, describe_plan, duration
from moco.distributed import rank
from moco.machine.room import nearest_folder
from moco.memory import size_in_words
from moco.plan import Plan
from moco.prediction import NEARLY_FULL, expected_rate, remedy
from moco.recipe_files import recipe_yaml
from moco.rehearsal import Rehearsal, rehearse

MUCH_SLOWER = 0.8
"""Of what the parts allow; below, something that was not measured takes part."""
WHAT_BINDS = {
    "decode": "loading the images",
    "copy": "copying them to the device",
    "compute": "training on them",
}


def show_plan(plan: Plan, *, monitored: bool = False) -> dict[str, object]:
    """Print the plan, the recipe and a forecast from a few steps; write nothing.

    Args:
        monitored: a monitor will take time of its own.
    """
    if rank() > 0:
        rehearse(plan)
        return {}
    say("\n".join(describe_plan(plan)))
    seen = rehearse(plan)
    lines = describe_contrast(plan, seen.contrast) + seen.notes + describe_speed(plan, seen)
    if monitored:
        lines.append("the monitor's time after each epoch comes on top")
    say("\n".join([*lines, *describe_room(plan, seen)]))
    say(f"\n{recipe_yaml(plan.recipe)}")
    return forecast_figures(plan, seen)


def predicted_seconds(plan: Plan, seen: Rehearsal) -> float:
    """Return how long all steps take at the rate measured, from the beginning on."""
    return seen.setup_seconds + plan.steps * plan.recipe.batch_size / seen.rates.together


def describe_speed(plan: Plan, seen: Rehearsal) -> list[str]:
    """Return lines on how fast the run is, which resource binds, and what helps."""
    rates, machine = seen.rates, seen.machine
    expected = expected_rate(rates, machine)
    copying = "" if rates.copy is None else f"copying {rates.copy:,.0f}, "
    lines = [
        f"alone, in images/s: loading {rates.decode:,.0f}, {copying}training {rates.compute:,.0f}; "
        f"{rates.slowest()} binds: {WHAT_BINDS[rates.slowest()]} is slowest",
        f"{rates.together:,.0f} images/s here, about {duration(predicted_seconds(plan, seen))} in "
        f"all; the parts alone promise {expected:,.0f} images/s",
    ]
    if plan.recipe.views.first_size:
        lines.append(
            f"measured at {plan.recipe.views.image_size} pixels; epochs with smaller views take "
            "less, so the run ends earlier"
        )
    if machine.resident:
        lines.append("loading is cutting images that are on the device, in turn with training")
    elif machine.workers == 0:
        lines.append("no loading processes: images are loaded between the steps")
    elif machine.shares_cores():
        loaders = counted(machine.workers, "loading process", "loading processes")
        threads = counted(machine.threads, "thread", "threads")
        cores = counted(machine.cores, "processor", "processors")
        lines.append(f"{loaders} and {threads} of training share {cores}: each slows the other")
    if rates.together < MUCH_SLOWER * expected:
        lines.append(
            "slower than the parts promise: they disturb each other, or something else is at work "
            "on this machine"
        )
    return [*lines, f"faster by: {remedy(rates, machine)}"]


def describe_room(plan: Plan, seen: Rehearsal) -> list[str]:
    """Return lines on memory and disk."""
    memory = [f"{size_in_words(seen.process_bytes)} of memory"] if seen.process_bytes else []
    if seen.loader_bytes:
        which = "in the loading process" if plan.workers == 1 else "in each loading process"
        memory.append(f"up to {size_in_words(seen.loader_bytes)} {which}, part of it shared")
    if seen.device_bytes and seen.device_total:
        memory.append(
            f"{size_in_words(seen.device_bytes)} of the GPU's {size_in_words(seen.device_total)}"
        )
    lines = [", ".join(memory)] if memory else []
    if seen.device_bytes and seen.device_bytes > NEARLY_FULL * (seen.device_total or 0):
        lines.append("warning: the GPU is nearly full; lower batch_size or dictionary.size")
    free = free_bytes(plan.run)
    lines.append(
        f"{size_in_words(seen.checkpoint_bytes)} a checkpoint, {size_in_words(seen.disk_bytes)} of "
        f"disk at most, {size_in_words(free)} free"
    )
    if free < seen.disk_bytes:
        lines.append("warning: the disk is too full for this run; free some, or choose a --run")
    return lines


def forecast_figures(plan: Plan, seen: Rehearsal) -> dict[str, object]:
    """Return the figures, as `--json` has them."""
    rates, machine = seen.rates, seen.machine
    return {
        **({"start": plan.start.in_short()} if plan.start else {}),
        "steps": plan.steps,
        "images_per_second": round(rates.together, 1),
        "predicted_seconds": round(predicted_seconds(plan, seen), 1),
        "setup_seconds": round(seen.setup_seconds, 2),
        "binds": rates.slowest(),
        "decode_images_per_second": round(rates.decode, 1),
        "copy_images_per_second": None if rates.copy is None else round(rates.copy, 1),
        "compute_images_per_second": round(rates.compute, 1),
        "expected_images_per_second": round(expected_rate(rates, machine), 1),
        "faster_by": remedy(rates, machine),
        "cores": machine.cores,
        "workers": machine.workers,
        "threads": machine.threads,
        "shares_cores": machine.shares_cores(),
        "process_bytes": seen.process_bytes,
        "loader_bytes": seen.loader_bytes,
        "device_bytes": seen.device_bytes,
        "device_total_bytes": seen.device_total,
        "checkpoint_bytes": seen.checkpoint_bytes,
        "disk_bytes": seen.disk_bytes,
        "disk_free_bytes": free_bytes(plan.run),
    }


def free_bytes(run: Path) -> int:
    """Return what is free where the run directory is or will be."""
    return shutil.disk_usage(nearest_folder(run)).free


def counted(number: int, one: str, several: str) -> str:
    """Return a number with its word: 1 thread, 2 threads."""
    return f"{number} {one if number == 1 else several}"
