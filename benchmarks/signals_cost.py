"""What a run's signals cost: a step's time, and a reading's, in turn.

    python benchmarks/signals_cost.py [--rounds 5] [--out FILE.json]

Each round takes two steps, then what the signals add in 50 steps: keys kept for a later age, the
weights' sample, and the reading. Views are random numbers: the cost does not depend on them.
"""

from __future__ import annotations

import argparse
import json
import statistics
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import torch

from moco.build import build_contrast, build_optimizer
from moco.data.sources.sequence import SequenceImages
from moco.device import pick_device
from moco.plan import Plan, make_plan
from moco.recipe import Recipe
from moco.recipe_files import set_fields
from moco.recipes import CIFAR10_RESNET18, MOCO_V2
from moco.signals import SignalReader
from moco.training_step import TrainingStep

IMAGES = 512
SMALL = ["stem=strided", "width=0.5", "stage_blocks=[1, 1, 1, 1]", "batch_size=64"]
CASES: dict[str, tuple[Recipe, list[str]]] = {
    "half-width ResNet-10, batch 64": (
        CIFAR10_RESNET18,
        [*SMALL, "batch_norm_groups=4", "dictionary.size=1024"],
    ),
    "ResNet-18, 32 pixels, batch 256": (CIFAR10_RESNET18, ["batch_size=256"]),
    "ResNet-50, 224 pixels, batch 32": (
        MOCO_V2,
        ["batch_size=32", "batch_norm_groups=2", "dictionary.size=4096"],
    ),
}


def timed(device: torch.device, work: Callable[[], object]) -> float:
    """Return the seconds that it takes."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    began = time.perf_counter()
    work()
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    return time.perf_counter() - began


def measure(plan: Plan, rounds: int) -> dict[str, float]:
    """Return median seconds of a step and of the signals of 50 steps, and their share."""
    recipe, device = plan.recipe, plan.device
    contrast = build_contrast(
        recipe, images=IMAGES, seed=0, device=device, precision=plan.precision
    ).train()
    optimizer = build_optimizer(recipe.optimizer, contrast)
    training = TrainingStep(contrast, optimizer, loss_scale=1.0)
    reader = SignalReader(plan, contrast, training.buffers)
    side, count = recipe.views.image_size, recipe.batch_size
    view_a, view_b = (torch.rand(count, 3, side, side, device=device) for _ in range(2))
    ids = torch.arange(count, device=device)

    def step() -> None:
        training.take(view_a, view_b, ids, 0, 0.99)

    def signals() -> None:
        for at in (64, 73, 74):  # keys for an age of 10, the weights' sample, the reading
            reader.after_step(at, view_a, view_b, ids)

    step()
    signals()
    steps, readings = [], []
    for _ in range(rounds):
        steps += [timed(device, step) for _ in range(2)]
        readings.append(timed(device, signals))
    a_step, a_reading = statistics.median(steps), statistics.median(readings)
    shares = [reading / (plan.signals_every * a_step) for reading in readings]
    return {
        "step_seconds": a_step,
        "signals_seconds_in_50_steps": a_reading,
        "share": statistics.median(shares),
        "least_share": min(shares),
        "most_share": max(shares),
    }


def main() -> None:
    """Measure, print, and write what was asked for."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--device", default="auto")
    parser.add_argument("--out", type=Path)
    arguments = parser.parse_args()
    device = pick_device(arguments.device)
    images = SequenceImages([np.zeros((32, 32, 3), np.uint8)] * IMAGES)
    found = {}
    for name, (recipe, settings) in CASES.items():
        plan = make_plan(
            images, recipe=set_fields(recipe, settings), run="runs/none", device=device.type
        )
        found[name] = measure(replace(plan, workers=0), arguments.rounds)
        row = found[name]
        print(
            f"{name}: step {1000 * row['step_seconds']:.0f} ms, signals of 50 steps "
            f"{1000 * row['signals_seconds_in_50_steps']:.0f} ms: {100 * row['share']:.2f} % "
            f"({100 * row['least_share']:.2f} to {100 * row['most_share']:.2f})",
            flush=True,
        )
    if arguments.out:
        arguments.out.write_text(json.dumps(found, indent=1) + "\n")


if __name__ == "__main__":
    main()
