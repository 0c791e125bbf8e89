"""The rows of the step's comparison, all from the same weights, queue and views."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import cast

import torch
from torch import Tensor

from moco.benchmark.steps.learner import Learner, StepRow
from moco.benchmark.steps.official_step import OfficialStep
from moco.benchmark.steps.our_step import OurStep
from moco.benchmark.steps.residual import plain_encoder
from moco.build import build_contrast
from moco.contrast import Contrast
from moco.device import fast_precision
from moco.dictionaries import Queue
from moco.distributed import shuffled_order
from moco.encoders import Encoder
from moco.recipe import Recipe

SEED = 0
BATCHES = 2
"""So many batches of views a row goes through, over and over."""
Views = list[tuple[Tensor, Tensor]]


@dataclass(frozen=True)
class Start:
    """What all rows begin with."""

    recipe: Recipe
    device: torch.device
    contrast: Contrast
    """Ours in float32 on the CPU: its weights and its queue."""
    views: Views

    @property
    def queue(self) -> Tensor:
        """The first keys, [K, C]."""
        return cast(Queue, self.contrast.dictionary).keys.clone()


def common_start(recipe: Recipe, device: torch.device) -> Start:
    """Return weights, a queue, and batches of normalized noise [N, channels, S, S]."""
    contrast = build_contrast(recipe, images=recipe.batch_size, seed=SEED)
    draw = torch.Generator().manual_seed(SEED)
    side = recipe.views.image_size
    shape = (recipe.batch_size, recipe.views.channels, side, side)
    views = [
        tuple(torch.randn(shape, generator=draw).to(device) for _ in "ab") for _ in range(BATCHES)
    ]
    return Start(recipe, device, contrast, [(a, b) for a, b in views])


def our_step(start: Start, precision: torch.dtype | None) -> OurStep:
    """Return ours, built as a run builds it."""
    recipe = start.recipe
    contrast = build_contrast(
        recipe, images=recipe.batch_size, seed=SEED, device=start.device, precision=precision
    )
    return OurStep(recipe, contrast)


def official_step(
    start: Start,
    *,
    precision: torch.dtype | None = None,
    layout: torch.memory_format = torch.contiguous_format,
    groups: int = 1,
    orders: Callable[[int], Tensor] = torch.randperm,
) -> OfficialStep:
    """Return the official one with our weights and queue."""
    encoder = plain_encoder(start.recipe, cast(Encoder, start.contrast.encoder), groups)
    return OfficialStep(
        start.recipe,
        encoder,
        start.queue,
        start.device,
        precision=precision,
        layout=layout,
        orders=orders,
    )


def official_in_our_groups(start: Start) -> OfficialStep:
    """Return the official step as so many processes as we have groups would take it together.

    It permutes as ours does, and each slice of the batch has a batch norm of its own.
    """
    taken = iter(range(1 << 30))
    terms = 2 if start.recipe.symmetric else 1

    def order(rows: int) -> Tensor:
        step, term = divmod(next(taken), terms)
        return shuffled_order(rows, (SEED, step, term))

    return official_step(start, groups=start.recipe.batch_norm_groups, orders=order)


def our_rows(start: Start) -> tuple[list[StepRow], dict[str, str]]:
    """Return our rows, and why one is left out."""
    fast = fast_precision(start.device)
    groups = start.recipe.batch_norm_groups
    does = (
        "forward, backward, fused SGD, key weights averaged, keys stored, figures kept; batch norm "
        f"in {groups} groups, keys shuffled; views laid out anew; the gradient looked at for NaN"
    )
    first = _row(
        start,
        "ours",
        f"moco, as it pre-trains here ({'float32' if fast is None else 'bfloat16'})",
        f"{does}; precision auto",
        our_step(start, fast),
        exact=fast is None,
    )
    if fast is None:
        return [first], {"ours_float32": "it is the row above: auto takes float32 on this device"}
    exact = _row(start, "ours_float32", "moco, --precision float32", does, our_step(start, None))
    return [first, exact], {}


def official_rows(start: Start) -> list[StepRow]:
    """Return the official rows: as it is, and given what makes it fast."""
    fast = fast_precision(start.device)
    does = (
        "key weights by a Python loop, queries and keys encoded, logits by einsum and cat over a "
        "clone of the queue, keys written, cross entropy, top-1 and top-5, loss read, backward, SGD"
    )
    given = "channels_last" if fast is None else "bfloat16 and channels_last"
    tuned = official_step(start, precision=fast, layout=torch.channels_last)
    return [
        _row(
            start,
            "official",
            "official",
            f"{does}; float32, NCHW, one batch norm over the batch; cudnn.benchmark on a GPU",
            official_step(start),
        ),
        _row(
            start,
            "official_tuned",
            f"official, given {given}",
            f"the same, given {given}",
            tuned,
            exact=fast is None,
        ),
    ]


def _row(
    start: Start, name: str, title: str, includes: str, learner: Learner, *, exact: bool = True
) -> StepRow:
    images = start.recipe.batch_size
    return StepRow(name, title, includes, images, learner, start.views, start.device, exact)


def with_sizes(recipe: Recipe, batch: int | None, queue: int | None) -> Recipe:
    """Return the recipe with another batch and queue, where they are given.

    Raises:
        UsageError: They do not go with the rest of it.
    """
    sized = replace(
        recipe,
        batch_size=recipe.batch_size if batch is None else batch,
        dictionary=replace(
            recipe.dictionary, size=recipe.dictionary.size if queue is None else queue
        ),
    )
    return sized
