"""The training loop itself against one written down here, from the images to the checkpoint.

It shares with the package the batches of views, the order of the keys, and where to start; the
network is timm's, the loss, the queue, the average, the optimizer and the schedule are written out.
"""

from __future__ import annotations

import copy
import json
import math
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor
from torchvision.transforms import Normalize

from moco.build import build_contrast
from moco.checkpoint import load_newest
from moco.data.batches import Batches
from moco.distributed import shuffled_order
from moco.plan import Plan, make_plan
from moco.pretraining import train
from moco.recipe import Recipe
from moco.recipe_files import set_fields
from moco.recipes import MOCO_V2

SEED, EPOCHS, STEPS_PER_EPOCH = 3, 2, 4
TEMPERATURE, KEY_MOMENTUM, SIZE = 0.2, 0.3, 40
LEARNING_RATE, SGD_MOMENTUM, WEIGHT_DECAY = 0.06, 0.9, 1e-2


@pytest.fixture(scope="module")
def plan(photos: Path, tiny_settings: list[str], tmp_path_factory: pytest.TempPathFactory) -> Plan:
    recipe: Recipe = set_fields(
        MOCO_V2,
        [
            *tiny_settings,
            f"dictionary.size={SIZE}",  # no multiple of the batch: it wraps
            f"key_momentum={KEY_MOMENTUM}",
            f"learning_rate={LEARNING_RATE}",
            f"weight_decay={WEIGHT_DECAY}",
            f"epochs={EPOCHS}",
        ],
    )
    run = tmp_path_factory.mktemp("loop") / "run"
    return make_plan(
        photos,
        recipe=recipe,
        run=run,
        device="cpu",
        workers=0,
        seed=SEED,
        precision="float32",
    )


def by_hand(plan: Plan) -> tuple[list[float], dict[str, Tensor]]:
    """Return the loss of each step and what the run should leave behind."""
    start = build_contrast(plan.recipe, images=len(plan.images), seed=SEED)
    f_q, f_k = start.encoder.train(), copy.deepcopy(start.encoder).train()
    queue, ids, slot = start.dictionary.keys.clone(), torch.full((SIZE,), -1), 0
    velocity = {name: torch.zeros_like(weight) for name, weight in f_q.named_parameters()}
    batches = Batches(plan.images, plan.recipe.views, batch_size=16, seed=SEED, finish=True)
    normalize = Normalize(plan.recipe.views.mean, plan.recipe.views.std)
    losses = []
    for step in range(EPOCHS * STEPS_PER_EPOCH):
        batch = batches[step]
        x_q, x_k = (normalize(view / 255) for view in (batch.view_a, batch.view_b))
        order = shuffled_order(16, (SEED, step, 0))
        with torch.no_grad():
            k = torch.zeros(16, 16)
            k[order] = F.normalize(f_k(x_k[order]), dim=1)
        q = F.normalize(f_q(x_q), dim=1)
        logits = torch.cat([(q * k).sum(dim=1, keepdim=True), q @ queue.T], dim=1) / TEMPERATURE
        loss = F.cross_entropy(logits, torch.zeros(16, dtype=torch.long))
        losses.append(loss.item())
        epoch = step // STEPS_PER_EPOCH
        rate = LEARNING_RATE * (1 + math.cos(math.pi * epoch / EPOCHS)) / 2
        gradients = torch.autograd.grad(loss, list(f_q.parameters()))
        with torch.no_grad():
            for (name, weight), gradient in zip(f_q.named_parameters(), gradients, strict=True):
                decayed = gradient + WEIGHT_DECAY * weight
                velocity[name] = SGD_MOMENTUM * velocity[name] + decayed
                weight -= rate * velocity[name]
            for weight_k, weight_q in zip(f_k.parameters(), f_q.parameters(), strict=True):
                weight_k.copy_(KEY_MOMENTUM * weight_k + (1 - KEY_MOMENTUM) * weight_q)
        for key, image_id in zip(k, batch.image_ids, strict=True):
            queue[slot], ids[slot] = key, image_id
            slot = (slot + 1) % SIZE
    left = {
        **{f"encoder.{name}": value for name, value in f_q.state_dict().items()},
        **{f"key_encoder.{name}": value for name, value in f_k.state_dict().items()},
        "dictionary.keys": queue,
        "dictionary.image_ids": ids,
        "dictionary.next_slot": torch.tensor(slot),
    }
    return losses, left


def test_a_run_is_algorithm_1_from_the_images_to_the_checkpoint(plan: Plan) -> None:
    losses, left = by_hand(plan)
    run = train(plan)
    rows = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    assert [row["loss"] for row in rows] == pytest.approx(losses, rel=1e-4)
    checkpoint = load_newest(run)
    assert checkpoint is not None
    assert checkpoint.step == EPOCHS * STEPS_PER_EPOCH
    torch.testing.assert_close(checkpoint.model, left, rtol=1e-3, atol=1e-4)
