"""Time and memory of the loss alone, ours beside the official one."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from statistics import median

import torch

from moco.benchmark.loss.memory import extra_bytes
from moco.benchmark.loss.rows import BUILDERS, LossRow, LossShape, loss_row, made_inputs
from moco.benchmark.machine import system_load
from moco.benchmark.timing import check_times, one_thread, passes_in, rates_in_turn
from moco.errors import UsageError

LOSS_CLOSE, GRADIENT_CLOSE = 1e-4, 1e-3
"""How far a loss, and a gradient by its length, may be from the official one, as shares."""
SHORTENED = 10
"""So many times further where products may be of fewer bits: on a GPU."""


@dataclass(frozen=True)
class LossResult:
    """A row's figures, and how they stand to the official one's."""

    row: LossRow
    loss: float
    gradient_error: float
    """Length of the difference to the official gradient, as a share of its length."""
    milliseconds: list[float]
    """Of a pass, in each round."""
    ratios: list[float]
    """How many times as fast as the official one in the same round."""
    extra_bytes: int

    @property
    def time(self) -> float:
        """Milliseconds, the median over rounds."""
        return median(self.milliseconds)

    @property
    def ratio(self) -> float:
        """The median over rounds."""
        return median(self.ratios)


@dataclass(frozen=True)
class LossComparison:
    """What a run of the benchmark found."""

    shape: LossShape
    device: torch.device
    results: list[LossResult]
    loads: tuple[float | None, float | None]
    """Programs that wanted a processor in the last minute, at the beginning and at the end."""


def compare_losses(
    shape: LossShape, *, rounds: int, seconds: float, device: torch.device
) -> LossComparison:
    """Time the losses in turn on the same inputs, and measure the memory of each.

    Raises:
        UsageError: A number makes no sense.
        ValueError: A row gives another loss or gradient than the official one.
    """
    check_times(rounds, seconds)
    check_shape(shape)
    began = system_load()
    with one_thread():
        inputs = made_inputs(shape, device)
        rows = [loss_row(name, inputs) for name in BUILDERS]
        checked = check_equal_losses(rows)
        passes = {} if device.type == "cpu" else passes_in(rows, seconds)
        rates = rates_in_turn(rows, rounds=rounds, seconds=seconds, passes=passes)
        extra = {row.name: extra_bytes(row, shape) for row in rows}
    official = rates["official"]
    results = [
        LossResult(
            row,
            *checked[row.name],
            [1000 * shape.batch / rate for rate in rates[row.name]],
            [mine / theirs for mine, theirs in zip(rates[row.name], official, strict=True)],
            extra[row.name],
        )
        for row in rows
    ]
    return LossComparison(shape, device, results, (began, system_load()))


def check_shape(shape: LossShape) -> None:
    """Refuse what no loss is computed of.

    Raises:
        UsageError: A number is out of its range.
    """
    for option, value in (("batch", shape.batch), ("queue", shape.queue), ("dim", shape.dim)):
        if value < 1:
            raise UsageError(f"--{option} must be from 1, got {value}")
    if not 1e-4 <= shape.temperature < float("inf"):
        raise UsageError(f"--temperature must be from 0.0001, got {shape.temperature:g}")


def check_equal_losses(rows: Sequence[LossRow]) -> dict[str, tuple[float, float]]:
    """Return each row's loss and the error of its gradient, after a pass that warms it up.

    Raises:
        ValueError: A row's loss or gradient is not the official one's.
    """
    official = next(row for row in rows if row.name == "official")
    wanted = float(official.run())
    direction = official.gradient()
    found = {}
    for row in rows:
        allowed = 1 if row.is_per_core else SHORTENED
        loss = float(row.run())
        error = float((row.gradient() - direction).norm() / direction.norm())
        if not abs(loss - wanted) <= allowed * LOSS_CLOSE * abs(wanted):
            raise ValueError(f"{row.title} gives another loss: {loss:g}, not {wanted:g}")
        if not error <= allowed * GRADIENT_CLOSE:
            raise ValueError(f"{row.title} gives another gradient, {error:.2g} of it off")
        found[row.name] = loss, error
    return found
