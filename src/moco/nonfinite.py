"""Steps whose numbers went wrong: recognized in time, left out in all processes, counted.

One NaN that reaches the weights, the queue or a running average ends a run of days. A step with a
loss or a gradient that is not finite is therefore not taken at all.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass
from typing import Any

import torch
from torch import Tensor, nn

from moco.processes import largest

MOST_IN_A_ROW = 3
"""So many steps left out one after the other end the run: it will not recover."""


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


def is_finite_everywhere(loss: Tensor, weights: Iterable[Tensor]) -> bool:
    """Say whether the loss and all gradients are finite numbers in every process.

    The same answer in all of them, so that all take the step or none does. Waits for the device.
    """
    gradients = [weight.grad for weight in weights if weight.grad is not None]
    entries = torch._foreach_norm(gradients, math.inf)  # the largest entry of each, NaN if one is
    figures = torch.stack([loss.detach().float(), *(entry.float() for entry in entries)])
    return not any(largest([int(not figures.isfinite().all())]))


def finite_or_none(value: float) -> float | None:
    """Return what JSON can hold."""
    return value if math.isfinite(value) else None


class KeptBuffers:
    """What a forward pass moves by itself, running statistics, to put back if it was in vain.

    Args:
        module: its buffers, but for those of `beside`, are kept; they must stay the same tensors.
        beside: a part that a forward pass leaves alone, and that may be large: the dictionary.
    """

    def __init__(self, module: nn.Module, beside: object) -> None:
        others = {id(value) for value in beside.buffers()} if isinstance(beside, nn.Module) else ()
        self._own = [value for value in module.buffers() if id(value) not in others]
        self._kept = [value.clone() for value in self._own]

    def keep(self) -> None:
        """Keep them as they are."""
        for kept, value in zip(self._kept, self._own, strict=True):
            kept.copy_(value)

    def put_back(self) -> None:
        """Make them as they were."""
        for kept, value in zip(self._kept, self._own, strict=True):
            value.copy_(kept)
