"""The least time that a step can take: its operations and bytes over what the device can do."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from moco.benchmark.steps.learner import StepRow

TRIES = 5


@dataclass(frozen=True)
class Ceilings:
    """What the device reached in a short measurement, in one thread on a CPU."""

    operations_per_second: float
    """Of a large matrix product, a multiply-add counted as two."""
    bytes_per_second: float
    """Of a large copy, read and written."""


def measure_ceilings(
    device: torch.device, precision: torch.dtype, *, side: int | None = None
) -> Ceilings:
    """Return the best of some products of `side` x `side` matrices and of some copies."""
    on_cpu = device.type == "cpu"
    side = side or (1024 if on_cpu else 8192)
    first, second = (torch.randn(side, side, device=device).to(precision) for _ in "ab")
    allowed = torch.backends.cuda.matmul.allow_tf32
    torch.backends.cuda.matmul.allow_tf32 = True  # as convolutions may, unless told otherwise
    try:
        product = _best_seconds(lambda: first @ second, device)
    finally:
        torch.backends.cuda.matmul.allow_tf32 = allowed
    numbers = 16 * side * side if on_cpu else 4 * side * side
    source = torch.ones(numbers, device=device)
    target = torch.empty_like(source)
    copy = _best_seconds(lambda: target.copy_(source), device)
    return Ceilings(2 * side**3 / product, 2 * source.nbytes / copy)


def _best_seconds(work: Callable[[], object], device: torch.device) -> float:
    work()
    best = float("inf")
    for _ in range(TRIES):
        began = _now(device)
        work()
        best = min(best, _now(device) - began)
    return best


def _now(device: torch.device) -> float:
    if device.type == "cpu":
        return time.process_time()
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    return time.perf_counter()


class Traffic(TorchDispatchMode):  # type: ignore[no-untyped-call]
    """Adds up the bytes that operations read and write, each by itself: nothing stays in a cache.

    What computes several operations at once, as compiled code does, needs fewer.
    """

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.bytes: int = 0

    def __torch_dispatch__(
        self, function: Any, types: Any, args: tuple[Any, ...] = (), kwargs: Any = None
    ) -> Any:
        given = kwargs or {}
        result = function(*args, **given)
        if not _only_looks(function):
            tensors = [leaf for leaf in tree_leaves((args, given)) if isinstance(leaf, Tensor)]
            written = [leaf for leaf in tree_leaves(result) if isinstance(leaf, Tensor)]
            self.bytes += sum(tensor.nbytes for tensor in (*tensors, *written))
        return result


def _only_looks(function: Any) -> bool:
    """Say whether an operation moves no numbers: a view of a tensor, or room for a new one."""
    returns = function._schema.returns
    views = any(each.alias_info is not None and not each.alias_info.is_write for each in returns)
    return views or "empty" in function.__name__


def bytes_of_step(row: StepRow) -> int:
    """Take a step and return how many bytes its operations read and write."""
    traffic = Traffic()
    with traffic:
        row.run(0)
    return traffic.bytes
