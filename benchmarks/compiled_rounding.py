"""Are compiled networks' losses the plain ones? 20 steps of each, in float64 and in float32.

    python benchmarks/compiled_rounding.py [--cases NAME ...] [--steps 20] [--out FILE.json]

Trains small networks on random views from the same weights: as they are and compiled, in both
precisions. In float64 rounding is out of sight for so few steps, so what a compiled network does
otherwise would show. In float32 the compiled run's distance from float64 belongs beside the plain
run's, and beside those of plain runs whose weights begin a rounding away (8 draws): that is what
rounding alone makes of the losses. Prints the largest relative difference of a step's loss;
FILE.json has every step's. Compiling takes minutes on a busy processor.
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from typing import Any
from unittest.mock import patch

import torch

from moco.build import build_contrast, build_optimizer
from moco.contrast import Contrast
from moco.fast_encoders import FastEncoders
from moco.recipe import Recipe
from moco.recipe_files import set_fields
from moco.recipes import RECIPES
from moco.training_step import TrainingStep
from moco.vision_transformer import MOCO_V3_VITS, VisionTransformerShape

BATCH, SIDE = 16, 32
SIZES = (
    *(f"views.{name}={SIDE}" for name in ("image_size", "evaluation_resize", "evaluation_size")),
    *(f"batch_size={BATCH}", "encoder.dim=16"),
)
RESNET = ("encoder.backbone=resnet18", "encoder.width=0.125", "encoder.stage_blocks=[1, 1, 1, 1]")
CASES = {
    "queue, 1 group": ("moco-v2", *RESNET, "dictionary.size=64", "batch_norm_groups=1"),
    "queue, 2 groups": ("moco-v2", *RESNET, "dictionary.size=64", "batch_norm_groups=2"),
    "end-to-end, 2 groups": (
        *("moco-v2", "mechanism=end_to_end", *RESNET),
        "batch_norm_groups=2",
    ),
    "v3 ViT": ("moco-v3-vit-small", "encoder.head_width=32"),
}
TINY_VIT = VisionTransformerShape(width=48, depth=2, attention_heads=4, stem="patch")
EXACT = "plain, float64"
"""What the others are told from."""
DRAWS = 8


def recipe_of(case: str) -> Recipe:
    """Return the recipe of a small network."""
    name, *settings = CASES[case]
    return set_fields(RECIPES[name], [*SIZES, *settings])


@torch.no_grad()
def nudge(contrast: Contrast, seed: int) -> None:
    """Move each float32 weight by at most a rounding."""
    draw = torch.Generator().manual_seed(seed)
    for weight in contrast.parameters():
        share = 2 * torch.rand(weight.shape, generator=draw) - 1
        weight.mul_(1 + torch.finfo(weight.dtype).eps * share)


def losses_of(
    recipe: Recipe,
    precision: torch.dtype,
    steps: int,
    *,
    compiled: bool = False,
    nudged: int | None = None,
) -> list[float]:
    """Return the losses of so many steps; stop where a network could not be compiled."""
    torch._dynamo.reset()
    told: list[str] = []
    contrast = build_contrast(recipe, images=4 * BATCH, seed=0).train().to(precision)
    if nudged is not None:
        nudge(contrast, nudged)
    fast = FastEncoders(contrast, lambda text, _: told.append(text), compiled=compiled)
    optimizer = build_optimizer(recipe.optimizer, contrast)
    for group in optimizer.param_groups:
        group["lr"] = recipe.optimizer.learning_rate
    training = TrainingStep(contrast, optimizer, loss_scale=recipe.loss_scale, fast=fast)
    losses = []
    for step in range(steps):
        draw = torch.Generator().manual_seed(step)
        views = [torch.randn(BATCH, 3, SIDE, SIDE, generator=draw).to(precision) for _ in "ab"]
        ids = torch.arange(BATCH) + BATCH * (step % 4)
        losses.append(float(training.take(views[0], views[1], ids, step, 0.99)[0]))
    if any("not compiled" in line for line in told) or compiled != bool(told):
        raise SystemExit(f"not as asked: {told}")
    return losses


def compared(case: str, steps: int) -> dict[str, Any]:
    """Return the losses of a case in all four ways, and how far they lie apart."""
    recipe = recipe_of(case)
    losses = {
        f"{'compiled' if compiled else 'plain'}, {name}": losses_of(
            recipe, getattr(torch, name), steps, compiled=compiled
        )
        for name in ("float64", "float32")
        for compiled in (False, True)
    }
    for seed in range(DRAWS):
        losses[f"nudged {seed}, float32"] = losses_of(recipe, torch.float32, steps, nudged=seed)
    exact = losses[EXACT]
    apart = {
        name: [abs(one - other) / abs(other) for one, other in zip(found, exact, strict=True)]
        for name, found in losses.items()
        if name != EXACT
    }
    return {"losses": losses, f"relative to {EXACT}": apart}


def in_words(found: dict[str, Any]) -> str:
    """Return the largest differences of a case."""
    most = {name: max(steps) for name, steps in found[f"relative to {EXACT}"].items()}
    nudged = [most.pop(name) for name in list(most) if name.startswith("nudged")]
    figures = [f"{name} {value:.1e}" for name, value in most.items()]
    return ", ".join([*figures, f"nudged, float32 {min(nudged):.1e} to {max(nudged):.1e}"])


def main() -> None:
    """Compare what was asked for, and print the largest differences."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--cases", nargs="+", choices=list(CASES), default=list(CASES))
    parser.add_argument("--steps", type=int, default=20)
    parser.add_argument("--out", type=Path)
    options = parser.parse_args()
    torch.set_num_threads(1)
    found: dict[str, Any] = {}
    for case in options.cases:
        with patch.dict(MOCO_V3_VITS, moco_v3_vit_small=TINY_VIT):
            found[case] = compared(case, options.steps)
        print(f"{case}: {in_words(found[case])}", flush=True)
        if options.out is not None:
            options.out.write_text(json.dumps(found, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
