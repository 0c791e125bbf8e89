"""Batch norm over slices of the global batch: in groups on one device, or across processes.

In groups, each of G contiguous slices of the batch is normalized with its own mean and variance, as
if it lay on its own device (MoCo v1, section 3.3). With the key batch permuted, a query and its key
then share no statistics, and nothing in a batch tells which key is whose. One process with G groups
equals G processes. Across processes, all of them share one mean and variance (MoCo v3).

Deviation: running statistics are the mean over groups and processes; the official multi-process
code keeps those of process 0 (docs/deviations.md).
"""

from __future__ import annotations

import importlib
import importlib.util
from collections.abc import Callable
from functools import lru_cache
from typing import Any, cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from moco.distributed import mean_over_processes, sum_over_processes, world_size

OWN = 1.0
"""The momentum with which batch norm leaves a slice's own statistics in the rows given."""


class SharedBatchNorm(_BatchNorm):
    """Batch norm whose training form is its subclass's; same state as the plain one it replaces.

    In eval mode it is plain batch norm. `drop` and `act` are the extra layers that timm's fused
    norm-and-activation layers carry, nothing otherwise.
    """

    def __init__(self, plain: _BatchNorm) -> None:
        super().__init__(
            plain.num_features,
            plain.eps,
            plain.momentum,
            plain.affine,
            plain.track_running_stats,
        )
        self.weight, self.bias = plain.weight, plain.bias
        self.running_mean, self.running_var = plain.running_mean, plain.running_var
        self.num_batches_tracked = plain.num_batches_tracked
        self.drop: nn.Module = getattr(plain, "drop", nn.Identity())
        self.act: nn.Module = getattr(plain, "act", nn.Identity())
        self.train(plain.training)

    def _check_input_dim(self, input: Tensor) -> None:
        pass  # 2-D and 4-D batches are normalized alike

    def forward(self, input: Tensor) -> Tensor:
        normalized = self.normalize(input) if self.training else super().forward(input)
        return self.act(self.drop(normalized))  # type: ignore[no-any-return]

    def normalize(self, input: Tensor) -> Tensor:
        """Normalize a training batch [N, C, ...] and move the running statistics."""
        raise NotImplementedError

    @torch.no_grad()
    def track(self, mean: Tensor, variance: Tensor) -> None:
        """Move the running statistics once per batch, however many groups it has."""
        if self.running_mean is None or self.running_var is None:
            return
        share = self.momentum
        if self.num_batches_tracked is not None:
            self.num_batches_tracked.add_(1)
            if share is None:  # plain batch norm's cumulative average
                share = 1.0 / float(self.num_batches_tracked)
        self.running_mean.lerp_(mean.to(self.running_mean.dtype), share or 0.0)
        self.running_var.lerp_(variance.to(self.running_var.dtype), share or 0.0)


class GroupedBatchNorm(SharedBatchNorm):
    """Batch norm over each of `groups` contiguous slices of the batch alone.

    Raises:
        ValueError: In training, when the batch is no multiple of `groups`.
    """

    def __init__(self, plain: _BatchNorm, groups: int) -> None:
        super().__init__(plain)
        self.groups = groups

    def normalize(self, input: Tensor) -> Tensor:
        """Normalize each slice; move the running statistics by their mean."""
        if len(input) % self.groups:
            raise ValueError(
                f"a batch of {len(input)} does not split into {self.groups} batch-norm groups"
            )
        if torch.compiler.is_compiling():
            return self._normalize_in_plain_words(input)
        if input.is_cuda and self._fits_kernels(input):
            return self._normalize_at_once(input)
        precision = torch.promote_types(input.dtype, torch.float32)
        means = input.new_zeros(self.groups, self.num_features, dtype=precision)
        variances = torch.zeros_like(means)
        rows = list(zip(means, variances, strict=True))
        if input.device.type == "cpu":
            normalized = _NormalizeSlices.apply(input, self.weight, self.bias, rows, self.eps)
        else:
            parts = input.chunk(self.groups)
            normalized = torch.cat(
                [
                    F.batch_norm(part, *row, self.weight, self.bias, True, OWN, self.eps)
                    for part, row in zip(parts, rows, strict=True)
                ]
            )
        self.track(means.mean(dim=0), variances.mean(dim=0))
        return cast(Tensor, normalized)

    def _normalize_in_plain_words(self, input: Tensor) -> Tensor:
        """Do it in operations that a compiler puts together with those before and after."""
        precision = torch.promote_types(input.dtype, torch.float32)
        parts = input.view(self.groups, -1, *input.shape[1:]).to(precision)
        over = [axis for axis in range(parts.ndim) if axis not in (0, 2)]
        variance, mean = torch.var_mean(parts, over, correction=0, keepdim=True)
        count = input.numel() // self.num_features // self.groups
        of_sample = variance.detach().view(self.groups, -1).mean(dim=0) * (count / (count - 1))
        self.track(mean.detach().view(self.groups, -1).mean(dim=0), of_sample)
        normal = ((parts - mean) * (variance + self.eps).rsqrt()).flatten(0, 1)
        if self.affine:
            shape = [1, -1] + [1] * (input.ndim - 2)
            normal = normal * self.weight.view(shape) + self.bias.view(shape)
        return normal.to(input.dtype)

    def _fits_kernels(self, input: Tensor) -> bool:
        """Say whether the GPU's kernels can do it: statistics of float32 that move by a share."""
        is_float32 = self.weight is None or self.weight.dtype == torch.float32
        several = input.numel() // self.num_features > self.groups  # rows of each group
        gpu = on_gpu()
        fits = gpu is not None and is_float32 and several and self.momentum is not None
        return fits and bool(gpu.can_normalize(input))

    def _normalize_at_once(self, input: Tensor) -> Tensor:
        running = None
        if self.running_mean is not None and self.running_var is not None:
            running = self.running_mean, self.running_var
            if self.num_batches_tracked is not None:
                self.num_batches_tracked.add_(1)
        normalized: Tensor = on_gpu().normalize_groups(
            input,
            self.weight,
            self.bias,
            running,
            groups=self.groups,
            eps=self.eps,
            share=self.momentum,
        )
        return normalized


class _NormalizeSlices(torch.autograd.Function):
    """Plain batch norm of each slice, written where it belongs: putting slices together is a copy.

    `rows` are a mean and a variance [channels] for each slice, and receive its own.
    """

    @staticmethod
    def forward(
        ctx: Any,
        input: Tensor,
        weight: Tensor | None,
        bias: Tensor | None,
        rows: list[tuple[Tensor, Tensor]],
        eps: float,
    ) -> Tensor:
        output = torch.empty_like(input)
        saved: list[Tensor] = []
        parts = zip(input.chunk(len(rows)), output.chunk(len(rows)), rows, strict=True)
        for part, into, (mean, variance) in parts:
            own = mean.new_empty(mean.shape), mean.new_empty(mean.shape)
            torch.native_batch_norm(
                part, weight, bias, mean, variance, True, OWN, eps, out=(into, *own)
            )
            saved += own
        ctx.save_for_backward(input, weight, *saved)
        ctx.eps = eps
        return output

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, ...]:
        input, weight, *saved = ctx.saved_tensors
        groups = len(saved) // 2
        parts = zip(gradient.chunk(groups), input.chunk(groups), strict=True)
        wanted = [True, weight is not None, weight is not None]
        found = [
            torch.ops.aten.native_batch_norm_backward(
                of_output, part, weight, None, None, mean, deviation, True, ctx.eps, wanted
            )
            for (of_output, part), mean, deviation in zip(
                parts, saved[::2], saved[1::2], strict=True
            )
        ]
        to_inputs, to_weights, to_biases = zip(*found, strict=True)
        if weight is None:
            return torch.cat(to_inputs), None, None, None, None
        to_weight, to_bias = (torch.stack(each).sum(dim=0) for each in (to_weights, to_biases))
        return torch.cat(to_inputs), to_weight, to_bias, None, None


@lru_cache(maxsize=1)
def on_gpu() -> Any:
    """Return `moco.batch_norm_gpu`, None where torch came without Triton."""
    if importlib.util.find_spec("triton") is None:
        return None
    return importlib.import_module("moco.batch_norm_gpu")


class SyncedBatchNorm(SharedBatchNorm):
    """Batch norm over the batch of all processes together, on any device (torch's needs a GPU)."""

    def normalize(self, input: Tensor) -> Tensor:
        """Normalize with the mean and variance of all processes' rows, as many in each."""
        rows = input.to(torch.promote_types(input.dtype, torch.float32))
        over = [axis for axis in range(input.ndim) if axis != 1]
        shape = [1, -1] + [1] * (input.ndim - 2)
        count = input.numel() // self.num_features * world_size()
        mean = sum_over_processes(rows.sum(over)) / count
        centred = rows - mean.view(shape)
        variance = sum_over_processes(centred.square().sum(over)) / count
        self.track(mean.detach(), variance.detach() * count / (count - 1))
        normal = centred * (variance + self.eps).rsqrt().view(shape)
        if self.affine:
            normal = normal * self.weight.view(shape) + self.bias.view(shape)
        return normal.to(input.dtype)


@torch.no_grad()
def average_statistics(module: nn.Module) -> None:
    """Give running statistics their mean over processes: what as many groups have in one.

    Training never reads them, so it is for whoever saves or evaluates. Statistics that all
    processes share already are not sent.
    """
    if world_size() == 1:
        return
    statistics = [
        value
        for layer in module.modules()
        if isinstance(layer, _BatchNorm) and not isinstance(layer, SyncedBatchNorm)
        for value in (layer.running_mean, layer.running_var)
        if value is not None
    ]
    if statistics:
        mean = mean_over_processes(torch.cat([value.flatten() for value in statistics]))
        parts = torch.split(mean, [value.numel() for value in statistics])
        torch._foreach_copy_(statistics, list(parts))


def has_batch_norm(module: nn.Module) -> bool:
    """Say whether any layer normalizes over the batch, so that a batch can leak."""
    return any(isinstance(layer, _BatchNorm) for layer in module.modules())


def group_batch_norm(module: nn.Module, groups: int) -> None:
    """Put every batch norm inside `module` into `groups` groups, weights and statistics kept."""
    _replace(module, lambda plain: GroupedBatchNorm(plain, groups))


def sync_batch_norm(module: nn.Module) -> None:
    """Share every batch norm inside `module` among all processes, weights and statistics kept."""
    _replace(module, SyncedBatchNorm)


def _replace(module: nn.Module, replacement: Callable[[_BatchNorm], _BatchNorm]) -> None:
    for name, child in module.named_children():
        if isinstance(child, _BatchNorm):
            setattr(module, name, replacement(child))
        else:
            _replace(child, replacement)
