"""Steps whose numbers went wrong: recognized in time, left out in all processes, counted.

One NaN that reaches the weights, the queue or a running average ends a run of days. A step with a
loss or a gradient that is not finite is therefore not taken at all. Whether it is decided on the
device, so that no step waits to be told.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any, TypeVar

import torch
from torch import Tensor, nn
from torch.optim import Optimizer

from moco.distributed import true_everywhere

Part = TypeVar("Part")
MOST_IN_A_ROW = 3
"""So many steps left out one after the other end the run: it will not recover."""
EVEN = 64
"""Entries between the addresses of joined tensors: kernels read faster from even ones."""


@dataclass
class LeftOut:
    """How many steps were left out."""

    total: int = 0
    in_a_row: int = 0

    def count(self, *, is_finite: bool) -> None:
        """Take note of a step."""
        self.total += not is_finite
        self.in_a_row = 0 if is_finite else self.in_a_row + 1

    def state(self) -> dict[str, int]:
        """Return what a checkpoint keeps."""
        return asdict(self)

    @staticmethod
    def from_state(state: Mapping[str, Any]) -> LeftOut:
        """Return what a checkpoint kept."""
        return LeftOut(int(state["total"]), int(state["in_a_row"]))


def is_finite_everywhere(loss: Tensor, weights: Iterable[Tensor]) -> Tensor:
    """Return whether the loss and all gradients are finite numbers in every process.

    A boolean scalar on the device, the same in all processes, so that all take the step or none
    does. Nobody waits for it: see `step_if`.
    """
    gradients = [weight.grad for weight in weights if weight.grad is not None]
    on_cpu = loss.device.type == "cpu"
    if on_cpu and _are_finite(loss, [gradient.sum() for gradient in gradients]):
        return true_everywhere(torch.tensor(True))  # sums are quicker there, but may overflow
    largest = torch._foreach_norm(gradients, math.inf)  # entry of each, NaN if one is
    return true_everywhere(_are_finite(loss, largest))


def _are_finite(loss: Tensor, figures: Sequence[Tensor]) -> Tensor:
    figures = [figure.float() for figure in (loss.detach(), *figures)]
    return torch.stack(figures).isfinite().all()


def step_if(taken: Tensor, optimizer: Optimizer) -> None:
    """Let the optimizer take its step where `taken` holds; else it leaves all as it is.

    Torch's fused optimizers and `LARS` look for the attribute on the device, as torch's own
    gradient scaler sets it.
    """
    optimizer.found_inf = (~taken).to(torch.float32)  # type: ignore[attr-defined]
    optimizer.step()


def finite_or_none(value: float) -> float | None:
    """Return what JSON can hold."""
    return value if math.isfinite(value) else None


class KeptBuffers:
    """What a forward pass moves by itself, running statistics, to put back if it was in vain.

    Makes the buffers of one type views of one piece of memory, so that keeping them is one copy.

    Args:
        module: its buffers, but for those of `beside`, are kept; they must stay the same tensors.
        beside: a part that a forward pass leaves alone, and that may be large: the dictionary.
    """

    def __init__(self, module: nn.Module, beside: object) -> None:
        others = {id(value) for value in beside.buffers()} if isinstance(beside, nn.Module) else ()
        alike: dict[torch.dtype, list[Tensor]] = {}
        for value in module.buffers():
            if id(value) not in others:
                alike.setdefault(value.dtype, []).append(value)
        self._own = [joined(values) for values in alike.values()]
        self._kept = [value.clone() for value in self._own]

    def keep(self) -> None:
        """Keep them as they are."""
        for kept, value in zip(self._kept, self._own, strict=True):
            kept.copy_(value)

    def at_mean_over(self, parts: Sequence[Part]) -> Iterator[Part]:
        """Yield parts of a batch; what each moves, it moves from where all began.

        In the end running statistics are their mean: one move for the batch, whatever its parts.
        """
        began = self.copies()
        totals = [torch.zeros_like(value) for value in self._own]
        for part in parts:
            self.put(began)
            yield part
            torch._foreach_add_(totals, self._own)
        self.put([total / len(parts) for total in totals])

    def copies(self) -> list[Tensor]:
        """Return them as they are."""
        return [value.clone() for value in self._own]

    def put(self, copies: Sequence[Tensor]) -> None:
        """Make them what they were when they were copied."""
        for value, copy in zip(self._own, copies, strict=True):
            value.copy_(copy)

    def put_back(self, *, unless: Tensor | None = None) -> None:
        """Make them as they were, unless the boolean scalar holds; waits for nothing."""
        for kept, value in zip(self._kept, self._own, strict=True):
            value.copy_(kept if unless is None else torch.where(unless, value, kept))


def joined(values: Sequence[Tensor]) -> Tensor:
    """Return one tensor whose parts the values become, each at an address as even as its own."""
    sizes = [-(-value.numel() // EVEN) * EVEN for value in values]
    whole = values[0].new_zeros(sum(sizes))
    for value, room in zip(values, torch.split(whole, sizes), strict=True):
        part = room[: value.numel()].view(value.shape)
        part.copy_(value)
        value.data = part
    return whole
