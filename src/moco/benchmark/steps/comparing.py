"""Images per second of one training step: ours, the official one, and other libraries'."""

from __future__ import annotations

from dataclasses import dataclass
from statistics import median

import torch

from moco.benchmark.machine import system_load
from moco.benchmark.steps.equal_work import Work, check_equal_work
from moco.benchmark.steps.learner import StepRow
from moco.benchmark.steps.peer_steps import peer_rows
from moco.benchmark.steps.residual import check_comparable
from moco.benchmark.steps.rows import Start, common_start, official_rows, our_rows
from moco.benchmark.timing import check_times, one_thread, passes_in, rates_in_turn
from moco.recipe import Recipe


@dataclass(frozen=True)
class StepResult:
    """A row's rates, and how many times the official one's of the same round they are."""

    row: StepRow
    work: Work
    rates: list[float]
    """Images per second in each round."""
    ratios: list[float]

    @property
    def rate(self) -> float:
        """The median over rounds."""
        return median(self.rates)

    @property
    def ratio(self) -> float:
        """The median over rounds."""
        return median(self.ratios)


@dataclass(frozen=True)
class StepComparison:
    """What a run of the benchmark found."""

    start: Start
    results: list[StepResult]
    left_out: dict[str, str]
    """Rows that are not there, and why."""
    loads: tuple[float | None, float | None]
    """Programs that wanted a processor in the last minute, at the beginning and at the end."""


def compare_steps(
    recipe: Recipe, *, rounds: int, seconds: float, device: torch.device
) -> StepComparison:
    """Time the steps in turn on the same views, from the same weights and queue.

    Args:
        seconds: how long a turn takes at least, in whole steps.

    Raises:
        UsageError: Rounds, seconds or the recipe make no sense here.
        ValueError: A row does other work than the official one.
    """
    check_times(rounds, seconds)
    check_comparable(recipe)
    began = system_load()
    with one_thread():
        start = common_start(recipe, device)
        ours, left_out = our_rows(start)
        peers, without = peer_rows(start)
        rows = [*ours, *official_rows(start), *peers]
        works = check_equal_work(rows, start)
        steps = {} if device.type == "cpu" else passes_in(rows, seconds)
        rates = rates_in_turn(rows, rounds=rounds, seconds=seconds, passes=steps)
    official = rates["official"]
    results = [
        StepResult(
            row,
            works[row.name],
            rates[row.name],
            [mine / theirs for mine, theirs in zip(rates[row.name], official, strict=True)],
        )
        for row in rows
    ]
    return StepComparison(start, results, {**left_out, **without}, (began, system_load()))
