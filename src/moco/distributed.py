"""Every process-group call: who else trains, and how rows travel between processes.

With one process nothing is sent. Letters: N rows of this process, B = N * processes.
"""

from __future__ import annotations

from collections.abc import Sequence

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
    """Return the rows of all processes in rank order, [N, ...] -> [B, ...], without gradient."""
    if world_size() == 1:
        return rows
    gathered = [torch.empty_like(rows) for _ in range(world_size())]
    dist.all_gather(gathered, rows.contiguous())
    return torch.cat(gathered)


def deal_rows(rows: Tensor, order: Tensor) -> Tensor:
    """Return this process's share of the global batch put into `order`, without gradient.

    Row i of the new global batch is row order[i] of the old one; process r holds rows
    r * N to (r + 1) * N of either. `order.argsort()` undoes it.

    Args:
        rows: [N, ...]
        order: [B] a permutation on the CPU, the same in all processes.
    """
    if world_size() == 1:
        return rows[order.to(rows.device, non_blocking=True)]
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
