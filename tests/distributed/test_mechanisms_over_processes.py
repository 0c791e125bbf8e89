"""Every mechanism learns the same from a global batch, in however many processes, in float64."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
import torch.distributed as dist
from torch import Tensor, nn

from moco.batch_norm import group_batch_norm, sync_batch_norm
from moco.contrast import Contrast
from moco.dictionaries import Dictionary, InBatch, MemoryBank, Queue
from moco.distributed import rank, world_size
from moco.encoders import batch_norm_mlp

BATCH, STEPS, DIM = 16, 4, 5
IMAGES = 24
MECHANISMS = ("queue", "in_batch", "end_to_end", "memory_bank")


def toy_dictionary(mechanism: str) -> Dictionary:
    match mechanism:
        case "queue":
            return Queue(25, DIM, exclude_same_image=True, filled_only=True)
        case "memory_bank":
            return MemoryBank(IMAGES, DIM, negatives=30, bank_momentum=0.3)
    return InBatch()


def toy_contrast(mechanism: str, groups: int) -> Contrast:
    """Return it with batch norm in `groups`; that of in_batch is shared by all, as v3 has it."""
    torch.manual_seed(0)
    v3 = mechanism == "in_batch"
    encoder = nn.Sequential(
        nn.Conv2d(3, 4, 3, stride=2, bias=False),
        nn.BatchNorm2d(4),
        nn.ReLU(),
        nn.Flatten(),
        batch_norm_mlp([36, 12, DIM], last_batch_norm=True) if v3 else nn.Linear(36, DIM),
    )
    predictor = batch_norm_mlp([DIM, 12, DIM], last_batch_norm=True) if v3 else None
    if v3 and world_size() > 1:
        sync_batch_norm(encoder)
        sync_batch_norm(predictor)
    elif not v3 and groups > 1:
        group_batch_norm(encoder, groups)
    sources = {"end_to_end": "query_encoder", "memory_bank": "query_itself"}
    contrast = Contrast(
        encoder,
        toy_dictionary(mechanism),
        keys_from=sources.get(mechanism, "momentum_encoder"),
        temperature=0.2,
        predictor=predictor,
        symmetric=v3,
        shuffle_keys=not v3,
        seed=7,
    )
    return contrast.double().train()


def batch(step: int) -> tuple[Tensor, Tensor, Tensor]:
    """Return this process's share of the step's global batch."""
    generator = torch.Generator().manual_seed(step)
    view_a = torch.randn(BATCH, 3, 8, 8, generator=generator, dtype=torch.float64)
    view_b = view_a + torch.randn(view_a.shape, generator=generator, dtype=torch.float64)
    image_ids = torch.randperm(IMAGES, generator=generator)[:BATCH]
    return tuple(rows.chunk(world_size())[rank()] for rows in (view_a, view_b, image_ids))


def mean_over_processes(value: Tensor) -> Tensor:
    value = value.detach().clone()
    if world_size() > 1:
        dist.all_reduce(value)
    return value / world_size()


def train(mechanism: str, groups: int) -> dict[str, Any]:
    """Return losses, averaged gradients, and what the steps left behind."""
    contrast = toy_contrast(mechanism, groups)
    names = [name for name, weight in contrast.named_parameters() if weight.requires_grad]
    weights = [contrast.get_parameter(name) for name in names]
    losses, all_gradients = [], []
    for step in range(STEPS):
        view_a, view_b, image_ids = batch(step)
        contrasted = contrast(view_a, view_b, image_ids, step)
        gradients = torch.autograd.grad(contrasted.loss, weights)
        gradients = [mean_over_processes(gradient) for gradient in gradients]
        with torch.no_grad():  # by hand: importing an optimizer takes each process 2 seconds
            for weight, gradient in zip(weights, gradients, strict=True):
                weight -= 0.1 * gradient
        contrast.advance(contrasted.keys, image_ids, 0.9)
        losses.append(mean_over_processes(contrasted.loss))
        all_gradients.append(dict(zip(names, gradients, strict=True)))
    return {
        "losses": losses,
        "gradients": all_gradients,
        "weights": {name: value.detach() for name, value in contrast.named_parameters()},
        "dictionary": {
            name.removeprefix("dictionary."): value
            for name, value in contrast.state_dict().items()
            if name.startswith("dictionary.")
        },
        "statistics": {
            name: mean_over_processes(value)
            for name, value in contrast.named_buffers()
            if "running" in name
        },
    }


def train_all(groups: int) -> dict[str, Any]:
    return {mechanism: train(mechanism, groups) for mechanism in MECHANISMS}


@pytest.mark.parametrize("processes", [2, 4])
def test_processes_learn_what_one_learns(
    run_processes: Callable[..., list[Any]], processes: int
) -> None:
    single = train_all(processes)
    several = run_processes(processes, train_all, 1)
    for mechanism in MECHANISMS:
        for result in several:
            torch.testing.assert_close(
                result[mechanism],
                single[mechanism],
                rtol=0,
                atol=1e-10,
                msg=lambda text, mechanism=mechanism: f"{mechanism}: {text}",
            )
            for kind in ("dictionary", "weights"):  # to the bit: processes never drift apart
                torch.testing.assert_close(
                    result[mechanism][kind], several[0][mechanism][kind], rtol=0, atol=0
                )
    assert set(single["memory_bank"]["dictionary"]) == {"vectors"}
    assert not single["in_batch"]["dictionary"]
