"""One process with G groups does what G processes do (section 3.3), in float64."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
import torch.distributed as dist
from torch import Tensor, nn

from moco.batch_norm import group_batch_norm
from moco.contrast import Contrast
from moco.dictionaries import Queue
from moco.distributed import gather_rows, rank, world_size

IMAGES, STEPS, DIM, SIZE = 16, 4, 5, 25
"""Images of all processes together; the queue is no multiple of them."""


def toy_contrast(groups: int, symmetric: bool) -> Contrast:
    torch.manual_seed(0)
    encoder = nn.Sequential(
        nn.Conv2d(3, 4, 3, bias=False),
        nn.BatchNorm2d(4),
        nn.ReLU(),
        nn.Conv2d(4, 6, 3, stride=2, bias=False),
        nn.BatchNorm2d(6),
        nn.ReLU(),
        nn.Flatten(),
        nn.Linear(24, DIM),
    )
    if groups > 1:
        group_batch_norm(encoder, groups)
    queue = Queue(SIZE, DIM, exclude_same_image=True)
    contrast = Contrast(encoder, queue, temperature=0.2, symmetric=symmetric, seed=7)
    return contrast.double().train()


def views(step: int) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(step)
    view_a = torch.randn(IMAGES, 3, 8, 8, generator=generator, dtype=torch.float64)
    return view_a, view_a + torch.randn(view_a.shape, generator=generator, dtype=torch.float64)


def share(rows: Tensor) -> Tensor:
    """Return this process's rows of the global batch."""
    return rows.chunk(world_size())[rank()]


def mean_over_processes(value: Tensor) -> Tensor:
    value = value.detach().clone()
    if world_size() > 1:
        dist.all_reduce(value)
    return value / world_size()


def train(groups: int, symmetric: bool) -> dict[str, Any]:
    """Return what the steps left behind: keys of all processes, queue, weights, losses."""
    contrast = toy_contrast(groups, symmetric)
    keys, losses = [], []
    for step in range(STEPS):
        view_a, view_b = (share(view) for view in views(step))
        image_ids = share(torch.arange(IMAGES) + IMAGES * (step % 2))
        contrasted = contrast(view_a, view_b, image_ids, step)
        weights = list(contrast.encoder.parameters())
        gradients = torch.autograd.grad(contrasted.loss, weights)
        with torch.no_grad():  # by hand: importing an optimizer takes each process 2 seconds
            for weight, gradient in zip(weights, gradients, strict=True):
                weight -= 0.1 * mean_over_processes(gradient)
        contrast.advance(contrasted.keys, image_ids, 0.9)
        keys += [gather_rows(part) for part in contrasted.keys.chunk(2 if symmetric else 1)]
        losses.append(mean_over_processes(contrasted.loss))
    return {
        "keys": keys,
        "losses": losses,
        "queue": dict(contrast.dictionary.state_dict()),
        "weights": {name: value.detach() for name, value in contrast.named_parameters()},
        "statistics": {
            name: mean_over_processes(value)
            for name, value in contrast.named_buffers()
            if "running" in name
        },
    }


@pytest.mark.parametrize(("processes", "symmetric"), [(2, True), (4, False)])
def test_one_process_with_groups_equals_processes(
    run_processes: Callable[..., list[Any]], processes: int, symmetric: bool
) -> None:
    single = train(processes, symmetric)
    several = run_processes(processes, train, 1, symmetric)
    for result in several:
        torch.testing.assert_close(result, single, rtol=0, atol=1e-10)
        torch.testing.assert_close(result["queue"], several[0]["queue"], rtol=0, atol=0)
    first_ids = single["queue"]["image_ids"][: int(single["queue"]["next_slot"])]
    assert len(first_ids.unique()) == len(first_ids)  # the keys of all processes, each once

    ungrouped = train(1, symmetric)
    assert (ungrouped["keys"][0] - single["keys"][0]).abs().max() > 1e-3


def test_processes_may_hold_groups_of_their_own(run_processes: Callable[..., list[Any]]) -> None:
    single = train(4, False)
    for result in run_processes(2, train, 2, False):
        torch.testing.assert_close(result, single, rtol=0, atol=1e-10)
