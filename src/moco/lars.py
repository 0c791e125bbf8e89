"""LARS: every weight matrix and filter moves by a share of its own length, whatever its gradient's.

That is what lets MoCo v3 train ResNets with batches of thousands (arXiv:1708.03888).
"""

from __future__ import annotations

from collections.abc import Callable
from math import inf
from typing import Any, overload

import torch
from torch import Tensor
from torch.optim import Optimizer
from torch.optim.optimizer import ParamsT


class LARS(Optimizer):
    """Layer-wise adaptive rate scaling with momentum, as MoCo v3 uses it, per tensor.

    Weights of two or more dimensions are decayed, then their gradient is scaled to `trust` times
    the weight's length (left as it is when either length is 0). Biases and batch norm, of one
    dimension or none, move by their plain gradient. Weights without a gradient stay. A step never
    waits for the device. Where an attribute `found_inf`, a scalar on the device, is not 0, a step
    changes nothing.

    Args:
        weights: float32 or float64, or groups of them as torch's optimizers take.
        lr: the learning rate; a schedule sets it in `param_groups`.
        weight_decay: added to the gradient before it is scaled.
        sgd_momentum: share of the old velocity kept.
        trust: length of the scaled gradient as a share of the weight's length.

    Raises:
        ValueError: A setting is out of its range, or a weight is of another type.
    """

    def __init__(
        self,
        weights: ParamsT,
        *,
        lr: float,
        weight_decay: float = 0.0,
        sgd_momentum: float = 0.9,
        trust: float = 0.001,
    ) -> None:
        # `lr` and not `learning_rate`: loops and torch's schedulers set group["lr"] of any
        # optimizer, and would set another name's rate in vain.
        settings = {
            "lr": lr,
            "weight_decay": weight_decay,
            "sgd_momentum": sgd_momentum,
            "trust": trust,
        }
        super().__init__(weights, settings)
        for group in self.param_groups:
            _check_group(group)

    @overload
    def step(self, closure: None = None) -> None: ...

    @overload
    def step(self, closure: Callable[[], float]) -> float: ...

    @torch.no_grad()
    def step(self, closure: Callable[[], float] | None = None) -> float | None:
        """Move every weight that has a gradient; return the closure's loss, None without one.

        Args:
            closure: computes the loss anew and its gradients, before the weights move.
        """
        loss = None
        if closure is not None:
            with torch.enable_grad():
                loss = closure()
        found_inf = getattr(self, "found_inf", None)  # as torch's fused optimizers take it
        for group in self.param_groups:
            for weight in group["params"]:
                if weight.grad is not None:
                    self._move(weight, weight.grad, group, found_inf)
        return loss

    def _move(
        self, weight: Tensor, gradient: Tensor, group: dict[str, Any], found_inf: Tensor | None
    ) -> None:
        if weight.ndim > 1:
            gradient = gradient.add(weight, alpha=group["weight_decay"])
            gradient = gradient * trust_ratio(weight, gradient, group["trust"])
        state = self.state[weight]
        if "velocity" not in state:
            state["velocity"] = torch.zeros_like(weight)
        velocity: Tensor = state["velocity"]
        moved = velocity * group["sgd_momentum"] + gradient
        change = moved
        if found_inf is not None:
            stays = found_inf > 0
            moved, change = torch.where(stays, velocity, moved), torch.where(stays, 0.0, moved)
        velocity.copy_(moved)
        # The rate is outside the velocity: a new rate holds for past gradients too.
        weight.sub_(change, alpha=group["lr"])


def trust_ratio(weight: Tensor, gradient: Tensor, trust: float) -> Tensor:
    """Return the scalar that makes the gradient `trust` times as long as the weight.

    It is 1 when either length is 0: a weight that starts at zero could never move otherwise.
    """
    weight_length = torch.linalg.vector_norm(weight)
    gradient_length = torch.linalg.vector_norm(gradient)
    both_long = (weight_length > 0) & (gradient_length > 0)
    return torch.where(both_long, trust * weight_length / gradient_length, 1.0)


def _check_group(group: dict[str, Any]) -> None:
    if not 0 <= group["lr"] < inf:
        raise ValueError(
            f"lr must be a finite number from 0, got {group['lr']}; 0.3 * batch / 256 is usual"
        )
    if not 0 <= group["weight_decay"] < inf:
        raise ValueError(
            f"weight_decay must be a finite number from 0, got {group['weight_decay']}; "
            "1e-6 is usual"
        )
    if not 0 <= group["sgd_momentum"] < 1:
        raise ValueError(
            f"sgd_momentum must be from 0 to below 1, got {group['sgd_momentum']}; 0.9 is usual"
        )
    if not 0 < group["trust"] < inf:
        raise ValueError(
            f"trust must be a finite number above 0, got {group['trust']}; 0.001 is usual"
        )
    for weight in group["params"]:
        # In half precision steps of a thousandth of a weight are lost to rounding.
        if weight.dtype not in (torch.float32, torch.float64):
            raise ValueError(
                f"LARS moves float32 or float64 weights, got {weight.dtype}; "
                "keep the weights in float32 and compute in lower precision with autocast"
            )
