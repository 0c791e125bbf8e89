"""Batch norm of all groups of a batch at once on a GPU.

Torch's own batch norm takes one group at a time: as many calls as groups, each too small to fill
the device, and a copy to put them together. Here the batch is read in place: three launches
forward, three backward, however many groups. No atomic sums, so the same numbers each time.

A batch is seen as rows: [N, C, H, W] with channels last in memory is [N * H * W, C]. Letters: N
images, C columns (channels), G groups, R rows of a group, S splits of a group's rows that are
summed side by side.
"""

from __future__ import annotations

import warnings
from functools import lru_cache
from typing import Any, NamedTuple, cast

import torch
import triton
from torch import Tensor

from moco.batch_norm_kernels import (
    apply_gradients,
    apply_moments,
    finish_gradients,
    finish_moments,
    sum_gradients,
    sum_rows,
)

PROGRAMS = 1024
"""Sums run in about so many programs: some for each processor of a large device."""
TILE = 4096
"""Values that a program looks at together."""
WIDEST = 128
MOST_VALUES = 2**31
"""Of a batch: places in a group are counted in 32 bits."""
FEWEST_ROWS = 4
"""Tiles of rows that a split has at least, where its group has them."""


class Shape(NamedTuple):
    """How a batch is cut."""

    groups: int
    rows: int
    """Of a group."""
    columns: int
    splits: int
    """Of a group's rows."""
    tile_rows: int
    tile_columns: int


def can_normalize(input: Tensor) -> bool:
    """Say whether these kernels read the batch as it lies in memory."""
    if not input.is_cuda or input.dtype not in (torch.float32, torch.bfloat16, torch.float16):
        return False
    in_place = input.is_contiguous(memory_format=layout_of(input)) and input.ndim in (2, 4)
    return in_place and input.numel() < MOST_VALUES and are_usable(input.device)


def layout_of(input: Tensor) -> torch.memory_format:
    """Return how rows lie one after the other."""
    return torch.channels_last if input.ndim == 4 else torch.contiguous_format


@lru_cache(maxsize=16)
def are_usable(device: torch.device) -> bool:
    """Say whether kernels can be compiled and run here; warn with the reason if not."""
    try:
        normalize_groups(torch.ones(4, 2, device=device), None, None, None, groups=2)
    except Exception as error:  # noqa: BLE001  a compiler, a driver or Triton itself is wanting
        reason = " ".join(str(error).split())[:200] or type(error).__name__
        warnings.warn(f"batch norm in groups runs without its kernels: {reason}", stacklevel=2)
        return False
    return True


def normalize_groups(
    input: Tensor,
    weight: Tensor | None,
    bias: Tensor | None,
    running: tuple[Tensor, Tensor] | None,
    *,
    groups: int,
    eps: float = 1e-5,
    share: float = 0.1,
) -> Tensor:
    """Return the batch, each of `groups` contiguous slices with its own mean and variance.

    Args:
        input: [N, C] or [N, C, H, W] with channels last; N a multiple of `groups`.
        weight: [C] float32, with `bias` or neither.
        running: mean and variance [C] float32, moved by `share` towards the mean over groups.
    """
    return cast(Tensor, _Normalize.apply(input, weight, bias, running, groups, eps, share))


class _Normalize(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any,
        input: Tensor,
        weight: Tensor | None,
        bias: Tensor | None,
        running: tuple[Tensor, Tensor] | None,
        groups: int,
        eps: float,
        share: float,
    ) -> Tensor:
        shape = _cut(input, groups)
        sums, moments, output = _sums(input, shape), _moments(input, shape), torch.empty_like(input)
        blocks = triton.cdiv(shape.columns, shape.tile_columns)
        size = dict(zip(("ROWS", "COLUMNS"), shape[4:], strict=True))
        sum_rows[(groups * shape.splits, blocks)](
            input, sums, shape.rows, shape.columns, shape.splits, **size
        )
        mean, variance = running or (moments, moments)
        finish_moments[(blocks,)](
            input,
            sums,
            moments,
            mean,
            variance,
            shape.rows,
            shape.columns,
            groups,
            shape.splits,
            eps,
            share,
            IS_TRACKED=running is not None,
            COLUMNS=shape.tile_columns,
            SPLITS=triton.next_power_of_2(shape.splits),
        )
        row_blocks = triton.cdiv(shape.rows, shape.tile_rows)
        has_weight = weight is not None
        apply_moments[(groups * row_blocks, blocks)](
            input,
            moments,
            weight if has_weight else moments,
            bias if has_weight else moments,
            output,
            shape.rows,
            shape.columns,
            row_blocks,
            HAS_WEIGHT=has_weight,
            **size,
        )
        ctx.save_for_backward(input, moments, weight)
        ctx.shape = shape
        return output

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, ...]:
        input, moments, weight = ctx.saved_tensors
        shape: Shape = ctx.shape
        gradient = gradient.contiguous(memory_format=layout_of(input))
        sums, output = _sums(input, shape), torch.empty_like(input)
        means = _moments(input, shape)
        to_weight, to_bias = torch.empty((2, shape.columns), device=input.device).unbind()
        blocks = triton.cdiv(shape.columns, shape.tile_columns)
        size = dict(zip(("ROWS", "COLUMNS"), shape[4:], strict=True))
        sum_gradients[(shape.groups * shape.splits, blocks)](
            input, gradient, moments, sums, shape.rows, shape.columns, shape.splits, **size
        )
        finish_gradients[(blocks,)](
            sums,
            means,
            to_weight,
            to_bias,
            shape.rows,
            shape.columns,
            shape.groups,
            shape.splits,
            COLUMNS=shape.tile_columns,
            SPLITS=triton.next_power_of_2(shape.splits),
        )
        row_blocks = triton.cdiv(shape.rows, shape.tile_rows)
        apply_gradients[(shape.groups * row_blocks, blocks)](
            input,
            gradient,
            moments,
            means,
            weight if weight is not None else moments,
            output,
            shape.rows,
            shape.columns,
            row_blocks,
            HAS_WEIGHT=weight is not None,
            **size,
        )
        if weight is None:
            return output, None, None, None, None, None, None
        return output, to_weight, to_bias, None, None, None, None


def _cut(input: Tensor, groups: int) -> Shape:
    columns = input.shape[1]
    rows = input.numel() // columns // groups
    tile_columns = min(WIDEST, triton.next_power_of_2(columns))
    tile_rows = TILE // tile_columns
    wanted = PROGRAMS // (groups * triton.cdiv(columns, tile_columns))
    most = triton.cdiv(rows, FEWEST_ROWS * tile_rows)
    return Shape(groups, rows, columns, max(1, min(wanted, most)), tile_rows, tile_columns)


def _sums(input: Tensor, shape: Shape) -> Tensor:
    """Return room for two sums of each split and column."""
    parts = 2 * shape.groups * shape.splits
    return torch.empty((parts, shape.columns), dtype=torch.float32, device=input.device)


def _moments(input: Tensor, shape: Shape) -> Tensor:
    """Return room for two figures of each group and column."""
    size = (2 * shape.groups, shape.columns)
    return torch.empty(size, dtype=torch.float32, device=input.device)
