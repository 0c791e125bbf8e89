from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor

from moco.distributed import (
    deal_rows,
    gather_rows,
    rank,
    shuffled_order,
    sum_over_processes,
    world_size,
)

ROWS = 5
"""Rows of each process."""


def global_batches(processes: int) -> dict[str, Tensor]:
    """Return batches of all processes' rows, of the types and layouts that are dealt."""
    rows = processes * ROWS
    generator = torch.Generator().manual_seed(0)
    images = torch.randn(rows, 3, 2, 4, generator=generator)
    return {
        "scalars": torch.arange(rows),
        "keys": torch.randn(rows, 7, generator=generator, dtype=torch.float64),
        "images": images,
        "channels last": images.contiguous(memory_format=torch.channels_last),
        "bytes": torch.randint(256, (rows, 2, 2, 3), generator=generator, dtype=torch.uint8),
        "columns": torch.randn(3, rows, generator=generator).T,  # not contiguous
    }


def share_of(rows: Tensor, process: int) -> Tensor:
    return rows[process * ROWS : (process + 1) * ROWS]


def deal_and_gather(steps: int) -> dict[str, Any]:
    """Return what one process gets of every batch, and back."""
    results: dict[str, Any] = {"world_size": world_size(), "rank": rank()}
    for step in range(steps):
        order = shuffled_order(world_size() * ROWS, (0, step, 0))
        results[f"order {step}"] = order
        for name, rows in global_batches(world_size()).items():
            mine = share_of(rows, rank())
            dealt = deal_rows(mine, order)
            results[f"dealt {name} {step}"] = dealt
            results[f"undone {name} {step}"] = deal_rows(dealt, order.argsort())
            results[f"gathered {name} {step}"] = gather_rows(mine)
    return results


def assert_like_plain_indexing(results: list[dict[str, Any]], steps: int) -> None:
    processes = len(results)
    for process, result in enumerate(results):
        assert (result["world_size"], result["rank"]) == (processes, process)
        for step in range(steps):
            order = result[f"order {step}"]
            for name, rows in global_batches(processes).items():
                mine = share_of(rows, process)
                assert torch.equal(result[f"dealt {name} {step}"], share_of(rows[order], process))
                assert torch.equal(result[f"undone {name} {step}"], mine), name
                assert torch.equal(result[f"gathered {name} {step}"], rows), name


@pytest.mark.parametrize("processes", [2, 3])
def test_rows_travel_between_processes_as_plain_indexing_says(
    run_processes: Callable[..., list[Any]], processes: int
) -> None:
    results = run_processes(processes, deal_and_gather, 3)
    assert_like_plain_indexing(results, 3)
    for step in range(3):
        orders = [result[f"order {step}"].tolist() for result in results]
        assert orders == [orders[0]] * processes  # alike in all processes


def test_one_process_sends_nothing_and_does_the_same() -> None:
    assert_like_plain_indexing([deal_and_gather(3)], 3)


def test_order_is_a_permutation_that_its_seed_alone_decides() -> None:
    seeds = [(seed, step, term) for seed in (0, 1) for step in range(5) for term in (0, 1)]
    orders = [shuffled_order(32, seed) for seed in seeds]
    for seed, order in zip(seeds, orders, strict=True):
        assert order.device.type == "cpu"
        assert sorted(order.tolist()) == list(range(32))
        torch.rand(1)  # the global random state has no part in it
        assert torch.equal(shuffled_order(32, list(seed)), order)
    assert len({tuple(order.tolist()) for order in orders}) == len(seeds)


def test_order_leaves_the_global_random_state_alone() -> None:
    before = torch.get_rng_state()
    shuffled_order(32, (0, 0, 0))
    assert torch.equal(torch.get_rng_state(), before)


def through_the_exchange(rows: Tensor, weights: Tensor, order: Tensor) -> Tensor:
    """Return this process's loss of its rows: uneven in all rows, so that each gradient differs."""
    factors = weights[rank() * len(rows) : (rank() + 1) * len(rows)]
    dealt = deal_rows(rows, order)
    gathered = gather_rows(dealt.square())
    total = sum_over_processes((dealt * factors).sum())
    return (factors * dealt).sum() * total + (rank() + 1) * (gathered * weights).sum().sin()


def gradient_of_all_losses() -> dict[str, Tensor]:
    """Return this process's part of the gradient of the sum of all processes' losses."""
    rows = share_of(global_batches(world_size())["keys"], rank()).requires_grad_()
    order = shuffled_order(world_size() * ROWS, (3, 1, 4))
    weights = torch.linspace(-1, 2, world_size() * ROWS, dtype=torch.float64)[:, None]
    through_the_exchange(rows, weights, order).backward()
    return {"gradient": rows.grad}


def test_gradients_come_back_from_all_processes(run_processes: Callable[..., list[Any]]) -> None:
    processes = 3
    rows = global_batches(processes)["keys"].requires_grad_()
    weights = torch.linspace(-1, 2, processes * ROWS, dtype=torch.float64)[:, None]
    dealt = rows[shuffled_order(processes * ROWS, (3, 1, 4))]
    products = dealt * weights
    losses = [
        share_of(products, process).sum() * products.sum()
        + (process + 1) * (dealt.square() * weights).sum().sin()
        for process in range(processes)
    ]
    torch.stack(losses).sum().backward()
    for process, result in enumerate(run_processes(processes, gradient_of_all_losses)):
        expected = share_of(rows.grad, process)
        torch.testing.assert_close(result["gradient"], expected, rtol=0, atol=1e-10)


def test_one_process_passes_gradients_through() -> None:
    rows = global_batches(1)["keys"].requires_grad_()
    order = shuffled_order(ROWS, (0, 0, 0))
    weights = torch.arange(float(rows.numel()), dtype=torch.float64).view_as(rows)
    (gather_rows(deal_rows(rows, order)) * weights).sum().backward()
    assert torch.equal(rows.grad[order], weights)
    assert sum_over_processes(rows) is rows
