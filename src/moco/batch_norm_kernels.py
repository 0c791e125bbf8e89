"""Triton kernels that normalize all groups of a batch; `batch_norm_gpu` launches them.

Each reads rows [G * R, C] in tiles of ROWS x COLUMNS, sums in float32 and has no atomic sums, so it
gives the same numbers each time. Letters: C columns, G groups, R rows of a group; a group's rows
are summed in `splits` parts side by side.
"""

import triton
import triton.language as tl


@triton.jit
def sum_rows(input, sums, rows, columns, splits, ROWS: tl.constexpr, COLUMNS: tl.constexpr):
    """Sum a split's rows, and their squares, as distances from the group's first row.

    Near values keep their digits that way, however far from 0 all of them are.
    """
    part = tl.program_id(0)
    group, split = part // splits, part % splits
    column = tl.program_id(1) * COLUMNS + tl.arange(0, COLUMNS)
    known = column < columns
    start = input + group.to(tl.int64) * rows * columns
    origin = tl.load(start + column, mask=known, other=0.0).to(tl.float32)
    length = tl.cdiv(rows, splits)
    last = tl.minimum(split * length + length, rows)
    total = tl.zeros([ROWS, COLUMNS], tl.float32)
    squares = tl.zeros([ROWS, COLUMNS], tl.float32)
    for first in range(split * length, last, ROWS):
        row = first + tl.arange(0, ROWS)
        there = (row < last)[:, None] & known[None, :]
        place = row.to(tl.int64)[:, None] * columns + column[None, :]
        value = tl.load(start + place, mask=there, other=0.0).to(tl.float32)
        value = tl.where(there, value - origin[None, :], 0.0)
        total += value
        squares += value * value
    place = part * columns + column
    tl.store(sums + place, tl.sum(total, axis=0), mask=known)
    half = tl.num_programs(0) * columns
    tl.store(sums + half + place, tl.sum(squares, axis=0), mask=known)


@triton.jit
def finish_moments(
    input,
    sums,
    moments,
    running_mean,
    running_variance,
    rows,
    columns,
    groups,
    splits,
    eps,
    share,
    IS_TRACKED: tl.constexpr,
    COLUMNS: tl.constexpr,
    SPLITS: tl.constexpr,
):
    """Put splits together: each group's mean and 1 / deviation; move the running statistics."""
    column = tl.program_id(0) * COLUMNS + tl.arange(0, COLUMNS)
    known = column < columns
    split = tl.arange(0, SPLITS)
    there = (split < splits)[:, None] & known[None, :]
    mean_over_groups = tl.zeros([COLUMNS], tl.float32)
    variance_over_groups = tl.zeros([COLUMNS], tl.float32)
    start = input
    for group in range(groups):
        place = (group * splits + split)[:, None] * columns + column[None, :]
        total = tl.sum(tl.load(sums + place, mask=there, other=0.0), axis=0)
        half = groups * splits * columns
        squares = tl.sum(tl.load(sums + half + place, mask=there, other=0.0), axis=0)
        origin = tl.load(start + column, mask=known, other=0.0).to(tl.float32)
        start += rows * columns
        offset = total / rows
        variance = tl.maximum(squares / rows - offset * offset, 0.0)
        mean_over_groups += (origin + offset) / groups
        variance_over_groups += variance / groups
        place = group * columns + column
        tl.store(moments + place, origin + offset, mask=known)
        tl.store(moments + groups * columns + place, 1.0 / tl.sqrt(variance + eps), mask=known)
    if IS_TRACKED:
        unbiased = variance_over_groups * (rows / (rows - 1.0))
        old = tl.load(running_mean + column, mask=known, other=0.0)
        tl.store(running_mean + column, old + share * (mean_over_groups - old), mask=known)
        old = tl.load(running_variance + column, mask=known, other=0.0)
        tl.store(running_variance + column, old + share * (unbiased - old), mask=known)


@triton.jit
def apply_moments(
    input,
    moments,
    weight,
    bias,
    output,
    rows,
    columns,
    row_blocks,
    HAS_WEIGHT: tl.constexpr,
    ROWS: tl.constexpr,
    COLUMNS: tl.constexpr,
):
    """Normalize a tile."""
    group, block = tl.program_id(0) // row_blocks, tl.program_id(0) % row_blocks
    groups = tl.num_programs(0) // row_blocks
    column = tl.program_id(1) * COLUMNS + tl.arange(0, COLUMNS)
    known = column < columns
    mean = tl.load(moments + group * columns + column, mask=known, other=0.0)
    scale = tl.load(moments + (groups + group) * columns + column, mask=known, other=0.0)
    if HAS_WEIGHT:
        scale *= tl.load(weight + column, mask=known, other=0.0)
        shift = tl.load(bias + column, mask=known, other=0.0)
    else:
        shift = tl.zeros([COLUMNS], tl.float32)
    row = block * ROWS + tl.arange(0, ROWS)
    there = (row < rows)[:, None] & known[None, :]
    place = (group.to(tl.int64) * rows + row)[:, None] * columns + column[None, :]
    value = tl.load(input + place, mask=there, other=0.0).to(tl.float32)
    value = (value - mean[None, :]) * scale[None, :] + shift[None, :]
    tl.store(output + place, value.to(output.dtype.element_ty), mask=there)


@triton.jit
def sum_gradients(
    input,
    gradient,
    moments,
    sums,
    rows,
    columns,
    splits,
    ROWS: tl.constexpr,
    COLUMNS: tl.constexpr,
):
    """Sum a split's gradients, and their products with what was normalized."""
    part = tl.program_id(0)
    group, split = part // splits, part % splits
    groups = tl.num_programs(0) // splits
    column = tl.program_id(1) * COLUMNS + tl.arange(0, COLUMNS)
    known = column < columns
    mean = tl.load(moments + group * columns + column, mask=known, other=0.0)
    scale = tl.load(moments + (groups + group) * columns + column, mask=known, other=0.0)
    start = group.to(tl.int64) * rows * columns
    length = tl.cdiv(rows, splits)
    last = tl.minimum(split * length + length, rows)
    total = tl.zeros([ROWS, COLUMNS], tl.float32)
    products = tl.zeros([ROWS, COLUMNS], tl.float32)
    for first in range(split * length, last, ROWS):
        row = first + tl.arange(0, ROWS)
        there = (row < last)[:, None] & known[None, :]
        place = start + row.to(tl.int64)[:, None] * columns + column[None, :]
        value = tl.load(input + place, mask=there, other=0.0).to(tl.float32)
        slope = tl.load(gradient + place, mask=there, other=0.0).to(tl.float32)
        total += slope
        products += slope * (value - mean[None, :]) * scale[None, :]
    place = part * columns + column
    tl.store(sums + place, tl.sum(total, axis=0), mask=known)
    half = tl.num_programs(0) * columns
    tl.store(sums + half + place, tl.sum(products, axis=0), mask=known)


@triton.jit
def finish_gradients(
    sums,
    means,
    to_weight,
    to_bias,
    rows,
    columns,
    groups,
    splits,
    COLUMNS: tl.constexpr,
    SPLITS: tl.constexpr,
):
    """Put splits together: each group's means, and the gradients of weight and bias."""
    column = tl.program_id(0) * COLUMNS + tl.arange(0, COLUMNS)
    known = column < columns
    split = tl.arange(0, SPLITS)
    there = (split < splits)[:, None] & known[None, :]
    slopes = tl.zeros([COLUMNS], tl.float32)
    all_products = tl.zeros([COLUMNS], tl.float32)
    for group in range(groups):
        place = (group * splits + split)[:, None] * columns + column[None, :]
        total = tl.sum(tl.load(sums + place, mask=there, other=0.0), axis=0)
        half = groups * splits * columns
        products = tl.sum(tl.load(sums + half + place, mask=there, other=0.0), axis=0)
        slopes += total
        all_products += products
        place = group * columns + column
        tl.store(means + place, total / rows, mask=known)
        tl.store(means + groups * columns + place, products / rows, mask=known)
    tl.store(to_weight + column, all_products, mask=known)
    tl.store(to_bias + column, slopes, mask=known)


@triton.jit
def apply_gradients(
    input,
    gradient,
    moments,
    means,
    weight,
    output,
    rows,
    columns,
    row_blocks,
    HAS_WEIGHT: tl.constexpr,
    ROWS: tl.constexpr,
    COLUMNS: tl.constexpr,
):
    """Return a tile's gradient: without its mean over the group, and its part along the output."""
    group, block = tl.program_id(0) // row_blocks, tl.program_id(0) % row_blocks
    groups = tl.num_programs(0) // row_blocks
    column = tl.program_id(1) * COLUMNS + tl.arange(0, COLUMNS)
    known = column < columns
    own, other = group * columns + column, (groups + group) * columns + column
    mean = tl.load(moments + own, mask=known, other=0.0)
    scale = tl.load(moments + other, mask=known, other=0.0)
    slope_mean = tl.load(means + own, mask=known, other=0.0)
    product_mean = tl.load(means + other, mask=known, other=0.0)
    factor = scale
    if HAS_WEIGHT:
        factor *= tl.load(weight + column, mask=known, other=0.0)
    row = block * ROWS + tl.arange(0, ROWS)
    there = (row < rows)[:, None] & known[None, :]
    place = (group.to(tl.int64) * rows + row)[:, None] * columns + column[None, :]
    value = tl.load(input + place, mask=there, other=0.0).to(tl.float32)
    slope = tl.load(gradient + place, mask=there, other=0.0).to(tl.float32)
    normal = (value - mean[None, :]) * scale[None, :]
    slope = (slope - slope_mean[None, :] - normal * product_mean[None, :]) * factor[None, :]
    tl.store(output + place, slope.to(output.dtype.element_ty), mask=there)
