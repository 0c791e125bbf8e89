"""InfoNCE against a large dictionary on a GPU, with its scores, in one pass over the negatives.

Where positives and negatives carry no gradient, that of the queries is known in the forward pass:
with p_j the softmax over the positive k+ and all negatives, it is (sum_j p_j k_j - k+) / (T N). So
the forward keeps an [N, C] gradient and the backward scales it; no [N, M] matrix is in memory, only
some parts' sums: 9 MB or the queries' size, however large the dictionary. The queries are few and
the negatives many, so that negatives are split over programs, whose sums are put together here.

Bounds, against `info_nce` in float64, are the rounding of a cosine over the temperature. Float32
keys are multiplied in three products of TensorFloat-32 (in float32 beyond 256 columns), never in
one: about 6e-7, as a product in float32. Bfloat16 keys are multiplied as they are, by queries and
weights split into two bfloat16, which keep 16 bits: at most 2 ** -16. Sums are float32 and measured
from the largest cosine, and 1 - p of the positive is a sum, not a difference: neither a small
temperature nor a positive that stands out loses more. A row whose negatives are all left out has
loss and gradient 0.

Two calls give the same bits. A negative of the positive's type and bits gets the positive's cosine
bit by bit, for both go through the same product of tiles; so it is a tie, and ties are not found.
The plain definition leaves such ties to rounding.

Letters: N queries, M negatives, C embedding size, S parts of the negatives.
"""

from __future__ import annotations

import math
import warnings
from functools import lru_cache
from typing import Any, NamedTuple, cast

import torch
import triton
from torch import Tensor

from moco.info_nce import NO_KEY, PretextScores, check_inputs
from moco.info_nce_kernels import score_negatives, score_positives

PROGRAMS = 264
"""About so many share the negatives: two for each processor of a large device."""
WARPS, STAGES = 8, 2
SMALLEST_TILE = 16
"""What a product of tiles takes."""
LARGEST_TILE = {torch.float32: 32, torch.bfloat16: 64}
"""By the type of the negatives, up to 128 columns: what a program's registers hold."""
WIDEST = 512
WIDEST_ON_TENSOR_CORES = 256
"""Float32 columns beyond it overflow the registers when cut into TensorFloat-32."""
MOST_NEGATIVES = 2**30


class Shape(NamedTuple):
    """How a comparison is cut."""

    tile: int
    """Queries, and negatives, that a program looks at together."""
    columns: int
    """C, up to a power of two."""
    row_blocks: int
    parts: int
    part_keys: int
    """Negatives of a part; the last may have fewer."""


def fits(
    queries: Tensor, positives: Tensor, negatives: Tensor, negative_ids: Tensor | None
) -> bool:
    """Say whether the kernels take these inputs, shapes aside; if not, use the plain definition.

    They take a GPU's float32 or bfloat16, up to 512 columns, rows of negatives that lie one after
    the other, and neither positives nor negatives that want a gradient. The first call for a kind
    of input compiles; a GPU that cannot run the result is told once, as a warning.
    """
    if not all(t.is_cuda and t.dtype in LARGEST_TILE for t in (queries, positives, negatives)):
        return False
    if torch.is_grad_enabled() and (positives.requires_grad or negatives.requires_grad):
        return False
    if not negatives.is_contiguous() or len(negatives) > MOST_NEGATIVES:
        return False
    columns = negatives.shape[1]
    if not 1 <= columns <= WIDEST:
        return False
    kinds = queries.dtype, positives.dtype, negatives.dtype
    return are_usable(queries.device, _padded(columns), kinds, has_ids=negative_ids is not None)


@lru_cache(maxsize=64)
def are_usable(
    device: torch.device, columns: int, kinds: tuple[torch.dtype, ...], *, has_ids: bool
) -> bool:
    """Say whether kernels can be compiled and run here; warn with the reason if not."""
    queries, *keys = (torch.ones(2, columns, device=device, dtype=kind) for kind in kinds)
    ids = torch.zeros(2, device=device, dtype=torch.long)
    try:
        score_in_kernels(
            queries, keys[0], keys[1], 1.0, query_ids=ids, negative_ids=ids if has_ids else None
        )
    except Exception as error:  # noqa: BLE001  a compiler, a driver or Triton itself is wanting
        reason = " ".join(str(error).split())[:200] or type(error).__name__
        warnings.warn(f"the loss runs without its kernels: {reason}", stacklevel=2)
        return False
    return True


def score_in_kernels(
    queries: Tensor,
    positives: Tensor,
    negatives: Tensor,
    temperature: float,
    *,
    query_ids: Tensor,
    negative_ids: Tensor | None,
) -> tuple[Tensor, PretextScores]:
    """Return what `info_nce` and `pretext_scores` return, in one pass over the negatives.

    Inputs are as for `info_nce`, and what `fits` takes. All is computed and returned in float32;
    the gradient reaches the queries alone, in their own type.

    Args:
        queries: [N, C]; N may be 0.
        positives: [N, C]; no gradient reaches them.
        negatives: [M, C]; M may be 0; no gradient reaches them.
        temperature: tau, above 0.
        query_ids: [N] int64; not read where `negative_ids` is None.
        negative_ids: [M] int64; None where every negative counts for every query.

    Raises:
        ValueError: The shapes do not fit, ids are not int64, or the temperature is not above 0.
    """
    check_inputs(queries, positives, negatives, temperature, query_ids, negative_ids)
    if negative_ids is not None and not (query_ids.dtype == negative_ids.dtype == torch.int64):
        raise ValueError(f"ids must be int64, got {query_ids.dtype} and {negative_ids.dtype}")
    inputs = queries, positives, negatives, float(temperature), query_ids, negative_ids
    with torch.cuda.device_of(queries):
        loss, *scores = cast(tuple[Tensor, ...], _Score.apply(*inputs))
    return loss, PretextScores(*scores)


class _Score(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any,
        queries: Tensor,
        positives: Tensor,
        negatives: Tensor,
        temperature: float,
        query_ids: Tensor,
        negative_ids: Tensor | None,
    ) -> tuple[Tensor, ...]:
        sums = _sum_parts(queries, positives, negatives, temperature, query_ids, negative_ids)
        loss, gradient, scores = _put_together(*sums, positives.float(), temperature)
        ctx.save_for_backward(gradient)
        ctx.dtype = queries.dtype
        ctx.mark_non_differentiable(*scores)
        return loss, *scores

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx: Any, gradient: Tensor, *of_scores: Tensor) -> tuple[Tensor | None, ...]:
        (of_queries,) = ctx.saved_tensors
        return (of_queries * gradient).to(ctx.dtype), None, None, None, None, None


def _sum_parts(
    queries: Tensor,
    positives: Tensor,
    negatives: Tensor,
    temperature: float,
    query_ids: Tensor,
    negative_ids: Tensor | None,
) -> tuple[Tensor, Tensor, Tensor]:
    """Return cosines to positives [N], each part's pulls [S, N, C] and figures [S, 4, N]."""
    queries, positives = queries.contiguous(), positives.contiguous()
    rows, columns = queries.shape
    shape = _cut(rows, negatives)
    to_positive = torch.empty(rows, dtype=torch.float32, device=queries.device)
    pulls = to_positive.new_empty((shape.parts, rows, columns))
    figures = to_positive.new_empty((shape.parts, 4, rows))
    options = {
        "PRECISION": _precision(shape.columns),
        "WIDEN": not queries.is_cuda,  # only Triton's interpreter takes what lies elsewhere
        "COLUMNS": shape.columns,
        "num_warps": WARPS,
        "num_stages": STAGES,
    }
    if not rows:
        return to_positive, pulls, figures
    tile = _tile(positives.dtype, shape.columns)
    score_positives[(triton.cdiv(rows, tile),)](
        queries, positives, to_positive, rows, columns, TILE=tile, **options
    )
    score_negatives[(shape.row_blocks * shape.parts,)](
        queries,
        negatives,
        to_positive,
        query_ids,
        query_ids if negative_ids is None else negative_ids,
        pulls,
        figures,
        rows,
        len(negatives),
        columns,
        shape.part_keys,
        1.0 / (temperature * math.log(2.0)),
        NO_KEY=NO_KEY,
        HAS_IDS=negative_ids is not None,
        TILE=shape.tile,
        **options,
    )
    return to_positive, pulls, figures


def _put_together(
    to_positive: Tensor, pulls: Tensor, figures: Tensor, positives: Tensor, temperature: float
) -> tuple[Tensor, Tensor, tuple[Tensor, ...]]:
    """Return the mean loss, its gradient [N, C] and the scores; overwrites `pulls`."""
    largest, weights, cosines, counts = figures.unbind(dim=1)
    nearest = torch.maximum(largest, to_positive)  # [S, N], from where each part measured
    of_all = nearest.amax(dim=0)
    shares = ((nearest - of_all) / temperature).exp()
    weight = (shares * weights).sum(dim=0)  # [N], of all negatives; the positive's is e ** own
    pull = pulls.mul_(shares[:, :, None]).sum(dim=0)
    own = (to_positive - of_all) / temperature
    losses = (weight + own.expm1()).log1p() - own
    # p+ is 1 minus the negatives' share, so that k+ is pulled by their weight alone
    gradient = (pull - weight[:, None] * positives) / (weight + own.exp())[:, None]
    gradient /= temperature * max(len(positives), 1)
    to_negatives = cosines.sum(dim=0) / counts.sum(dim=0).clamp(min=1)
    found = (to_positive > largest.amax(dim=0)).to(torch.float32)
    return losses.mean(), gradient, (to_positive.mean(), to_negatives.mean(), found.mean())


def _cut(rows: int, negatives: Tensor) -> Shape:
    columns = _padded(negatives.shape[1])
    tile = _tile(negatives.dtype, columns)
    row_blocks = triton.cdiv(rows, tile)
    wanted = max(1, PROGRAMS // max(row_blocks, 1))
    tiles = triton.cdiv(len(negatives), tile)
    part_keys = max(1, triton.cdiv(tiles, wanted)) * tile
    return Shape(
        tile, columns, row_blocks, max(1, triton.cdiv(len(negatives), part_keys)), part_keys
    )


def _precision(columns: int) -> str:
    """Say how float32 is multiplied; AMD's compiler knows no split into three."""
    on_tensor_cores = columns <= WIDEST_ON_TENSOR_CORES and torch.version.hip is None
    return "tf32x3" if on_tensor_cores else "ieee"


def _tile(dtype: torch.dtype, columns: int) -> int:
    largest = LARGEST_TILE[dtype]
    return max(SMALLEST_TILE, min(largest, largest * 128 // columns))


def _padded(columns: int) -> int:
    return max(SMALLEST_TILE, cast(int, triton.next_power_of_2(columns)))
