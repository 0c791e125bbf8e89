"""Triton kernels that compare queries with a large dictionary; `info_nce_gpu` launches them.

A program takes TILE queries and one part of the negatives, TILE at a time, and keeps what flash
attention keeps, with the keys as its values: sums of weights and of weighted keys, made smaller
whenever a nearer key is found. No matrix of N x M figures is written, and no sum is atomic, so the
numbers are the same each time. Letters: N queries, M negatives, C embedding size, S parts.
"""

import triton
import triton.language as tl


@triton.jit
def multiply(left, right, PRECISION: tl.constexpr, WIDEN: tl.constexpr):
    """Multiply float32 tiles; bfloat16 on the right takes `left` as a sum of two bfloat16.

    WIDEN is for Triton's interpreter, which would multiply the bits of bfloat16: same values.
    """
    if right.dtype == tl.bfloat16:
        large = left.to(tl.bfloat16)
        small = (left - large.to(tl.float32)).to(tl.bfloat16)
        if WIDEN:
            right_wide = right.to(tl.float32)
            rest = tl.dot(small.to(tl.float32), right_wide)
            return tl.dot(large.to(tl.float32), right_wide, rest)
        else:
            return tl.dot(large, right, tl.dot(small, right))
    else:
        return tl.dot(left, right, input_precision=PRECISION)


@triton.jit
def load_rows(rows_at, row, there, columns, COLUMNS: tl.constexpr):
    """Return a tile of rows as they are stored, 0 where there is none."""
    column = tl.arange(0, COLUMNS)
    known = there[:, None] & (column < columns)[None, :]
    place = row.to(tl.int64)[:, None] * columns + column[None, :]
    return tl.load(rows_at + place, mask=known, other=0.0)


@triton.jit
def store_rows(rows_at, row, there, columns, values, COLUMNS: tl.constexpr):
    """Store a tile of rows."""
    column = tl.arange(0, COLUMNS)
    known = there[:, None] & (column < columns)[None, :]
    tl.store(rows_at + row.to(tl.int64)[:, None] * columns + column[None, :], values, mask=known)


@triton.jit
def score_positives(
    queries,
    positives,
    to_positive,
    rows,
    columns,
    PRECISION: tl.constexpr,
    WIDEN: tl.constexpr,
    TILE: tl.constexpr,
    COLUMNS: tl.constexpr,
):
    """Store each query's cosine to its positive [N], by the product that negatives get.

    Most of that product is thrown away; so a negative that is the positive scores the same.
    """
    own = tl.arange(0, TILE)
    row = tl.program_id(0) * TILE + own
    query = load_rows(queries, row, row < rows, columns, COLUMNS).to(tl.float32)
    key = load_rows(positives, row, row < rows, columns, COLUMNS)
    cosine = multiply(query, tl.trans(key), PRECISION, WIDEN)
    cosine = tl.where(own[:, None] == own[None, :], cosine, 0.0)
    tl.store(to_positive + row, tl.sum(cosine, axis=1), mask=row < rows)


@triton.jit
def find_counted(
    query_ids,
    negative_ids,
    row,
    is_row,
    place,
    there,
    NO_KEY: tl.constexpr,
    HAS_IDS: tl.constexpr,
):
    """Return which of a tile's pairs count: those of a key and a query of another image."""
    counted = is_row[:, None] & there[None, :]
    if HAS_IDS:
        query_id = tl.load(query_ids + row, mask=is_row, other=0)
        key_id = tl.load(negative_ids + place, mask=there, other=NO_KEY)
        counted &= (query_id[:, None] != key_id[None, :]) & (key_id != NO_KEY)[None, :]
    return counted


@triton.jit
def score_negatives(
    queries,
    negatives,
    to_positive,
    query_ids,
    negative_ids,
    pulls,
    figures,
    rows,
    keys,
    columns,
    part_keys,
    sharpness,
    NO_KEY: tl.constexpr,
    HAS_IDS: tl.constexpr,
    PRECISION: tl.constexpr,
    WIDEN: tl.constexpr,
    TILE: tl.constexpr,
    COLUMNS: tl.constexpr,
):
    """Store what a part of the negatives adds: `pulls` [S, N, C] and `figures` [S, 4, N].

    With c the cosines of the negatives that count and w = 2 ** (sharpness * (c - nearest)), nearest
    being the larger of the largest c and the positive's cosine, the pull is the sum of w * key and
    the figures are the largest c, the sum of w, the sum of c and the count.
    """
    row_blocks = tl.cdiv(rows, TILE)
    part = tl.program_id(0) // row_blocks  # neighbours read the same keys: they share the cache
    row = (tl.program_id(0) % row_blocks) * TILE + tl.arange(0, TILE)
    is_row = row < rows
    query = load_rows(queries, row, is_row, columns, COLUMNS).to(tl.float32)
    positive = tl.load(to_positive + row, mask=is_row, other=0.0)
    largest = tl.full([TILE], float("-inf"), tl.float32)
    weights = tl.zeros([TILE], tl.float32)
    cosines = tl.zeros([TILE], tl.float32)
    counts = tl.zeros([TILE], tl.float32)
    pull = tl.zeros([TILE, COLUMNS], tl.float32)
    end = tl.minimum((part + 1) * part_keys, keys)
    for first in range(part * part_keys, end, TILE):
        place = first + tl.arange(0, TILE)
        there = place < end
        key = load_rows(negatives, place, there, columns, COLUMNS)
        counted = find_counted(query_ids, negative_ids, row, is_row, place, there, NO_KEY, HAS_IDS)
        cosine = multiply(query, tl.trans(key), PRECISION, WIDEN)
        cosines += tl.sum(tl.where(counted, cosine, 0.0), axis=1)
        counts += tl.sum(counted.to(tl.float32), axis=1)
        cosine = tl.where(counted, cosine, float("-inf"))
        nearest = tl.maximum(largest, positive)
        largest = tl.maximum(largest, tl.max(cosine, axis=1))
        nearer = tl.maximum(largest, positive)
        smaller = tl.exp2((nearest - nearer) * sharpness)
        weight = tl.exp2((cosine - nearer[:, None]) * sharpness)
        weights = weights * smaller + tl.sum(weight, axis=1)
        pull = pull * smaller[:, None] + multiply(weight, key, PRECISION, WIDEN)
    store_rows(pulls, part.to(tl.int64) * rows + row, is_row, columns, pull, COLUMNS)
    place = part.to(tl.int64) * 4 * rows + row
    tl.store(figures + place, largest, mask=is_row)
    tl.store(figures + place + rows, weights, mask=is_row)
    tl.store(figures + place + 2 * rows, cosines, mask=is_row)
    tl.store(figures + place + 3 * rows, counts, mask=is_row)
