"""Loss curves: a run's own, and those of a plain float64 loop over the same batches.

The loop has nothing of the fast paths: one array of logits, slices of the batch through plain batch
norm one after the other, a list for the queue, SGD in three lines. Only the batches, the start
and the permutation of the keys are the run's own, or there would be nothing to compare.
"""

from __future__ import annotations

import copy
import importlib
import json
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import torch
import torch.nn.functional as F
from sklearn.datasets import load_sample_images
from torch import Tensor, nn

from moco.build import build_contrast
from moco.data.sources.sequence import SequenceImages
from moco.dictionaries import Queue
from moco.distributed import shuffled_order
from moco.encoders import build_encoder
from moco.info_nce import info_nce
from moco.plan import Plan, make_plan
from moco.plan_batches import load_plan
from moco.recipe_files import set_fields
from moco.recipes import MOCO_V2
from moco.specs import ViewsSpec

train = importlib.import_module("moco.pretraining").train

STEPS = 200
SMOOTHED = 20
"""Steps that a smoothed loss is the mean of."""
TILE, TILES = 32, 128
RECIPE = set_fields(
    MOCO_V2,
    [
        "encoder.backbone=resnet18",
        "encoder.stem=small",
        "encoder.width=0.25",  # narrower ones would not run with channels last on a CPU
        "encoder.stage_blocks=[1, 1, 1, 1]",
        "encoder.dim=32",
        "views.image_size=8",
        "views.evaluation_resize=8",
        "views.evaluation_size=8",
        "views.order=[crop, jitter, gray, horizontal_flip]",
        "batch_size=32",
        "batch_norm_groups=2",
        "dictionary.size=300",  # no multiple of a batch, nor of a chunk
        "exclude_same_image=true",
        "filled_only=true",
        "key_momentum=0.99",
        "loss_scale=1.5",  # a gradient that forgets it is seen
        "learning_rate=0.001",
        "optimizer.schedule=step",
        "milestones=[30]",
        f"epochs={STEPS * 32 // TILES}",
    ],
)
"""All that a queue's step has: groups, shuffled keys, both masks, a rate that drops."""


def photographs() -> SequenceImages:
    """Return tiles of scikit-learn's two photographs."""
    rows = [torch.from_numpy(photo.copy()) for photo in load_sample_images().images]
    tiles = [
        photo[top : top + TILE, left : left + TILE].numpy()
        for photo in rows
        for top in range(0, photo.shape[0] - TILE + 1, TILE)
        for left in range(0, photo.shape[1] - TILE + 1, TILE)
    ]
    return SequenceImages(tiles[:: len(tiles) // TILES][:TILES])


def plan_of(
    run: Path, changes: Sequence[str] = (), *, seed: int = 0, precision: str = "float32"
) -> Plan:
    """Return the plan of a run of the recipe with "field=value" changes."""
    return make_plan(
        photographs(),
        recipe=RECIPE,
        settings=changes,
        run=run,
        device="cpu",
        seed=seed,
        workers=0,
        precision=precision,
    )


def run_losses(plan: Plan, steps: int = STEPS) -> Tensor:
    """Return the losses [steps] of a run, made by the command's own loop."""
    train(replace(plan, recipe=replace(plan.recipe, epochs=steps // plan.steps_per_epoch)))
    lines = (plan.run / "metrics.jsonl").read_text().splitlines()
    return torch.tensor([json.loads(line)["loss"] for line in lines], dtype=torch.float64)


def plain_losses(plan: Plan, steps: int = STEPS) -> Tensor:
    """Return the losses [steps] of the plain float64 loop."""
    recipe = plan.recipe
    encoder, queue = plain_start(plan)
    key_encoder = copy.deepcopy(encoder)
    velocity = [torch.zeros_like(weight) for weight in encoder.parameters()]
    losses = []
    for batch in load_plan(plan, start=0, stop=steps):
        views = [pixels(view, recipe.views) for view in (batch.view_a, batch.view_b)]
        order = shuffled_order(len(views[0]), (plan.seed, batch.step, 0))
        queries = embed(encoder, views[0], recipe.batch_norm_groups)
        with torch.no_grad():
            shuffled = embed(key_encoder, views[1][order], recipe.batch_norm_groups)
        keys = torch.empty_like(shuffled)
        keys[order] = shuffled
        loss = recipe.loss_scale * info_nce(
            queries,
            keys,
            torch.stack([key for key, _ in queue]),
            recipe.temperature,
            query_ids=batch.image_ids,
            negative_ids=torch.tensor([image_id for _, image_id in queue]),
        )
        gradients = torch.autograd.grad(loss, list(encoder.parameters()))
        rate = recipe.learning_rate(batch.step, plan.steps_per_epoch)
        with torch.no_grad():
            for weight, gradient, moving in zip(
                encoder.parameters(), gradients, velocity, strict=True
            ):
                moving.mul_(0.9).add_(gradient + 1e-4 * weight)
                weight -= rate * moving
            for old, new in zip(key_encoder.parameters(), encoder.parameters(), strict=True):
                old.copy_(recipe.key_momentum * old + (1 - recipe.key_momentum) * new)
        if recipe.dictionary.key_precision == "bfloat16":
            keys = keys.bfloat16().double()
        queue += zip(keys, batch.image_ids.tolist(), strict=True)
        queue = queue[-recipe.dictionary.size :]
        losses.append(loss.item())
    return torch.tensor(losses, dtype=torch.float64)


def plain_start(plan: Plan) -> tuple[nn.Module, list[tuple[Tensor, int]]]:
    """Return the run's untrained encoder, its batch norm plain, and its queue, in float64."""
    recipe = plan.recipe
    ours = build_contrast(recipe, images=TILES, seed=plan.seed)
    plain = build_encoder(recipe.encoder, recipe.views)
    plain.load_state_dict(ours.encoder.state_dict())
    held = ours.dictionary
    assert isinstance(held, Queue)
    return plain.double(), list(zip(held.keys.double(), held.image_ids.tolist(), strict=True))


def pixels(view: Tensor, spec: ViewsSpec) -> Tensor:
    """Return the network's input in float64, from uint8 [N, 3, H, W]."""
    mean, std = (
        torch.tensor(figures, dtype=torch.float64)[:, None, None]
        for figures in (spec.mean, spec.std)
    )
    return (view.double() / 255 - mean) / std


def embed(encoder: nn.Module, view: Tensor, slices: int) -> Tensor:
    """Return unit embeddings [N, C], each slice of the batch encoded alone."""
    return F.normalize(torch.cat([encoder(part) for part in view.chunk(slices)]), dim=1)


def smoothed(losses: Tensor) -> Tensor:
    """Return means over every `SMOOTHED` steps in a row."""
    return losses.unfold(0, SMOOTHED, 1).mean(dim=1)
