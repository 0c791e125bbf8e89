"""Every process-group call: who else trains, and how rows travel between processes.

With one process nothing is sent. Letters: N rows of this process, B = N * processes.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, cast

import numpy as np
import torch
import torch.distributed as dist
from torch import Tensor


def world_size() -> int:
    """Return how many processes train together, 1 without a process group."""
    return dist.get_world_size() if dist.is_available() and dist.is_initialized() else 1


def rank() -> int:
    """Return this process's number, 0 without a process group."""
    return dist.get_rank() if dist.is_available() and dist.is_initialized() else 0


def shuffled_order(rows: int, seed: Sequence[int]) -> Tensor:
    """Return a permutation [rows] that every process derives alike from `seed`, on the CPU."""
    return torch.from_numpy(np.random.default_rng(tuple(seed)).permutation(rows))


def gather_rows(rows: Tensor) -> Tensor:
    """Return the rows of all processes in rank order, [N, ...] -> [B, ...]; gradients come back."""
    return rows if world_size() == 1 else cast(Tensor, _GatherRows.apply(rows))


def deal_rows(rows: Tensor, order: Tensor) -> Tensor:
    """Return this process's share of the global batch put into `order`; gradients go back.

    Row i of the new global batch is row order[i] of the old one; process r holds rows
    r * N to (r + 1) * N of either. `order.argsort()` undoes it.

    Args:
        rows: [N, ...]
        order: [B] a permutation on the CPU, the same in all processes.
    """
    if world_size() == 1:
        return rows[order.to(rows.device, non_blocking=True)]
    return cast(Tensor, _DealRows.apply(rows, order))


def sum_over_processes(value: Tensor) -> Tensor:
    """Return the sum of every process's `value`; gradients come back from all of them."""
    return value if world_size() == 1 else cast(Tensor, _SumOverProcesses.apply(value))


def mean_over_processes(value: Tensor) -> Tensor:
    """Return the mean of every process's `value`, without gradient."""
    if world_size() == 1:
        return value.detach()
    mean = value.detach().clone()
    dist.all_reduce(mean)
    return mean / world_size()


def true_everywhere(flag: Tensor) -> Tensor:
    """Return whether the boolean scalar holds in every process; nobody waits for the device."""
    if world_size() == 1:
        return flag
    agreed = flag.to(torch.int32)
    dist.all_reduce(agreed, dist.ReduceOp.MIN)
    return agreed.bool()


class _SumOverProcesses(torch.autograd.Function):
    @staticmethod
    def forward(context: Any, value: Tensor) -> Tensor:
        summed = value.clone()
        dist.all_reduce(summed)
        return summed

    @staticmethod
    def backward(context: Any, gradient: Tensor) -> Tensor:
        summed = gradient.clone()
        dist.all_reduce(summed)
        return summed


class _GatherRows(torch.autograd.Function):
    """Every process's loss may depend on a row, so a row's gradient is the sum over processes."""

    @staticmethod
    def forward(context: Any, rows: Tensor) -> Tensor:
        gathered = [torch.empty_like(rows) for _ in range(world_size())]
        dist.all_gather(gathered, rows.contiguous())
        return torch.cat(gathered)

    @staticmethod
    def backward(context: Any, gradient: Tensor) -> Tensor:
        summed = gradient.clone(memory_format=torch.contiguous_format)
        dist.all_reduce(summed)
        return summed.chunk(world_size())[rank()]


class _DealRows(torch.autograd.Function):
    @staticmethod
    def forward(context: Any, rows: Tensor, order: Tensor) -> Tensor:
        context.order = order
        return _exchange_rows(rows, order)

    @staticmethod
    def backward(context: Any, gradient: Tensor) -> tuple[Tensor, None]:
        return _exchange_rows(gradient, context.order.argsort()), None


def _exchange_rows(rows: Tensor, order: Tensor) -> Tensor:
    """Send each row to the process that is to hold it."""
    per_process, me = len(rows), rank()
    shares = order.view(world_size(), per_process)  # what each process is to hold
    owners = shares // per_process
    outgoing = [shares[to][owners[to] == me] - me * per_process for to in range(world_size())]
    sent = rows[torch.cat(outgoing).to(rows.device)].contiguous()
    received = torch.empty_like(rows, memory_format=torch.contiguous_format)
    dist.all_to_all_single(
        received,
        sent,
        [int((owners[me] == source).sum()) for source in range(world_size())],
        [len(indices) for indices in outgoing],
    )
    by_owner = torch.argsort(owners[me], stable=True)  # where each received row belongs
    return received[by_owner.argsort().to(rows.device)]
