"""What batch norm in groups costs a training step on a GPU, by its kernels and by torch's calls.

    python benchmarks/batch_norm_step.py [RECIPE:BATCH ...]

Takes whole steps (both encoders, loss, backward, check for finite numbers, optimizer, queue) on
random images that are on the device already, in bfloat16 and float32: groups by the kernels, groups
by torch's batch norm a slice at a time, and one group by torch's, which lets a queue recipe cheat.
Three rounds in turn of 15 steps each. Prints images per second.
"""

from __future__ import annotations

import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from statistics import median

import numpy as np
import torch
from PIL import Image

from moco.batch_norm import GroupedBatchNorm
from moco.build import build_optimizer
from moco.nonfinite import KeptBuffers, is_finite_everywhere
from moco.plan import make_plan
from moco.pretraining import build_plan

ROUNDS, STEPS, WARM_UP = 3, 15, 4
IMAGES = 512


def step_of(folder: Path, recipe: str, batch: int, precision: str, *changes: str) -> Callable:
    """Return a function that takes the next step."""
    plan = make_plan(
        folder,
        recipe=recipe,
        settings=[f"batch_size={batch}", *changes],
        run=folder / "run",
        device="cuda",
        workers=0,
        precision=precision,
    )
    contrast = build_plan(plan).train()
    optimizer = build_optimizer(plan.recipe.optimizer, contrast)
    before = KeptBuffers(contrast, beside=contrast.dictionary)
    side = plan.recipe.views.image_size
    view_a, view_b = torch.randn(2, batch, 3, side, side, device="cuda").unbind()
    image_ids = torch.arange(batch, device="cuda") % IMAGES

    def step(number: int) -> None:
        before.keep()
        loss, keys, _ = contrast(view_a, view_b, image_ids, number)
        optimizer.zero_grad()
        loss.backward()
        if is_finite_everywhere(loss, contrast.parameters()):
            optimizer.step()
            contrast.advance(keys, image_ids, plan.recipe.key_momentum)

    return step


def seconds_a_step(step: Callable[[int], None], steps: int) -> float:
    """Return the seconds on the wall, the device's work done."""
    torch.cuda.synchronize()
    began = time.perf_counter()
    for number in range(steps):
        step(number)
    torch.cuda.synchronize()
    return (time.perf_counter() - began) / steps


def compare(folder: Path, recipe: str, batch: int, precision: str) -> None:
    """Print images per second of the three ways."""
    groups = step_of(folder, recipe, batch, precision)
    one = step_of(folder, recipe, batch, precision, "batch_norm_groups=1")
    fits = GroupedBatchNorm._fits_kernels
    rates: dict[str, list[float]] = {"kernels": [], "torch, in groups": [], "torch, one group": []}
    for turn in range(ROUNDS + 1):
        for way, found in rates.items():
            GroupedBatchNorm._fits_kernels = fits if way == "kernels" else lambda *_: False
            step = one if way == "torch, one group" else groups
            seconds = seconds_a_step(step, STEPS if turn else WARM_UP)
            if turn:
                found.append(batch / seconds)
    GroupedBatchNorm._fits_kernels = fits
    for way, found in rates.items():
        line = f"{recipe} {batch} {precision:8} {way:17}"
        print(f"{line} {median(found):8,.0f} images/s ({min(found):,.0f} to {max(found):,.0f})")


def main(cases: list[str]) -> None:
    """Compare each case in both precisions."""
    print(torch.cuda.get_device_name(), torch.__version__)
    with tempfile.TemporaryDirectory() as place:
        for number in range(IMAGES):
            pixels = np.full((8, 8, 3), number % 256, np.uint8)
            Image.fromarray(pixels).save(Path(place) / f"{number}.png")
        for case in cases:
            recipe, _, batch = case.partition(":")
            for precision in ("auto", "float32"):
                compare(Path(place), recipe, int(batch), precision)


if __name__ == "__main__":
    main(sys.argv[1:] or ["moco-v2:256", "cifar10-resnet18:512"])
