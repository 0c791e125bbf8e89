"""Whether all rows do the same work: seen from their first steps, before any is timed."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from contextlib import nullcontext
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.utils.flop_counter import FlopCounterMode

from moco.benchmark.steps.learner import StepRow
from moco.benchmark.steps.rows import Start, official_in_our_groups

STEPS = 2
"""The second loss tells whether weights, key weights and queue moved as they should."""
EXACT, SHORTENED, ROUNDED = 2e-3, 3e-2, 0.2
"""How far figures may be apart, as shares: in float32 on a CPU, elsewhere (where float32 products
may be of fewer bits), and in lower precision."""
OPERATIONS = 0.03


@dataclass(frozen=True)
class Work:
    """What the first steps of a row did."""

    losses: list[float]
    parameters: int
    """Numbers in the query encoder's weights."""
    operations: int
    """Floating-point operations of a step, a multiply-add counted as two."""
    moved: float
    """How far the query encoder's weights went in the first step, as a length."""
    keys_moved: float
    """So the key encoder's, the first time that they moved."""
    stored: float
    """So the queue, in the first step."""


def first_work(row: StepRow) -> Work:
    """Take the first steps, which also warm the row up, and return what they did."""
    learner = row.learner
    weights, keys, queue = (
        _copies(learner.encoder.parameters()),
        _copies(learner.key_encoder.parameters()),
        _copies([learner.queue]),
    )
    losses, moved, keys_moved, stored = [], [], [0.0], []
    counter = FlopCounterMode(display=False)
    for number in range(STEPS):
        with counter if number == 0 else nullcontext():
            losses.append(float(row.run(number).detach()))
        moved.append(_distance(learner.encoder.parameters(), weights))
        keys_moved.append(_distance(learner.key_encoder.parameters(), keys))
        stored.append(_distance([learner.queue], queue))
    return Work(
        losses,
        sum(weight.numel() for weight in weights),
        counter.get_total_flops(),
        moved[0],
        keys_moved[STEPS if learner.moves_keys_first else STEPS - 1],
        stored[0],
    )


def _copies(tensors: Iterable[Tensor]) -> list[Tensor]:
    return [tensor.detach().clone() for tensor in tensors]


@torch.no_grad()
def _distance(now: Iterable[Tensor], then: Iterable[Tensor]) -> float:
    squares = [(a.double() - b.double()).square().sum() for a, b in zip(now, then, strict=True)]
    return float(torch.stack(squares).sum().sqrt())


def check_equal_work(rows: Sequence[StepRow], start: Start) -> dict[str, Work]:
    """Take the first steps of each row, and refuse one that did other work than the official.

    Ours has batch norm in groups, which moves losses a little: it is held to the official step as
    so many processes take it.

    Raises:
        ValueError: A row has other weights, other losses, or moves something otherwise.
    """
    works = {row.name: first_work(row) for row in rows}
    references = {"official": works["official"], "ours": works["official"]}
    if start.recipe.batch_norm_groups > 1:
        shared = official_in_our_groups(start)
        row = StepRow("", "", "", start.recipe.batch_size, shared, start.views, start.device)
        references["ours"] = first_work(row)
    for row in rows:
        wanted = references["ours" if row.name.startswith("ours") else "official"]
        compare_work(row, works[row.name], wanted)
    return works


def compare_work(row: StepRow, work: Work, wanted: Work) -> None:
    """Refuse a row that did not do what it should.

    Raises:
        ValueError: It did other work.
    """
    if work.parameters != wanted.parameters:
        raise ValueError(f"{row.title} has {work.parameters} weights, not {wanted.parameters}")
    allowed = (EXACT if row.is_per_core else SHORTENED) if row.exact else ROUNDED
    figures = [
        ("loss of the first step", work.losses[0], wanted.losses[0]),
        ("way of the weights", work.moved, wanted.moved),
        ("way of the key weights", work.keys_moved, wanted.keys_moved),
    ]
    if row.has_our_queue:
        figures += [
            ("change of the queue", work.stored, wanted.stored),
            ("loss of the last step", work.losses[-1], wanted.losses[-1]),
        ]
    for what, found, expected in figures:
        if not abs(found - expected) <= allowed * abs(expected):
            raise ValueError(f"{row.title} does other work: {what} is {found:g}, not {expected:g}")
    off = abs(work.operations - wanted.operations)
    if not off <= OPERATIONS * wanted.operations:
        raise ValueError(
            f"{row.title} does {work.operations:.4g} operations a step, not {wanted.operations:.4g}"
        )
