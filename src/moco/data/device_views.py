"""Views of a batch from its crops, on the device that trains: all that comes after cutting.

The host knows what is done to which view (`changes.py`), so it plans: each operation runs on just
the views that need it, all at once, and nothing waits for a device. Letters: N images, n some of
them, C channels, S side of a view.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from moco.data import colour
from moco.data.blur import blur, blur_matrices, box_radius
from moco.data.changes import Changes, are_measurements
from moco.specs import ViewsSpec

CACHED_VALUES = 2**18
"""How many values a CPU works on at a time, for each thread: what its nearer caches hold."""
DEVICE_VALUES = 2**26
"""How many another device works on at a time, so as not to fill its memory."""
JITTERS: tuple[tuple[Callable[[Tensor, Tensor], None], slice], ...] = (
    (colour.scale_brightness, slice(0, 1)),
    (colour.scale_contrast, slice(1, 5)),
    (colour.scale_saturation, slice(5, 14)),
    (colour.turn_hue, slice(14, 24)),
)
"""What jitter is made of, and the columns of the table of figures that each needs."""

Operation = Callable[[Tensor, Tensor], Tensor | None]
"""From values [n, C, S, S] and their rows of the table to new values; None if it works in place."""


@dataclass(frozen=True)
class Step:
    """An operation and the views that it is for, numbered among those worked on together."""

    operation: Operation
    rows: list[int]


def apply_changes(crops: Tensor, changes: Changes, spec: ViewsSpec) -> Tensor:
    """Return the views [N, C, S, S] of crops, on their device, changed in the order of `spec`.

    Images of 8 bits stay uint8, and are rounded once, at the end. Deep ones, float32, come out
    normalized, as an encoder takes floating-point views. On a CPU a view is the same to the bit
    whatever batch it is in.

    Raises:
        ValueError: Crops are not what `spec` and `changes` say.
    """
    wanted = torch.float32 if spec.deep else torch.uint8
    if (crops.dtype, crops.shape[:2]) != (wanted, (len(changes), spec.channels)):
        raise ValueError(
            f"crops must be {wanted} [{len(changes)}, {spec.channels}, S, S], got {crops.dtype} "
            f"{list(crops.shape)}"
        )
    order = alike_together(changes)
    plan = _Plan(changes.rows(order), spec, crops)
    indices = torch.from_numpy(order).to(crops.device, non_blocking=True)
    by_pixel = not crops.is_contiguous()
    stored = crops.permute(0, 2, 3, 1).contiguous() if by_pixel else crops
    views = torch.empty(crops.shape, dtype=wanted, device=crops.device)
    for rows in _chunks(crops):
        part = stored.index_select(0, indices[rows])
        part = part.permute(0, 3, 1, 2) if by_pixel else part
        figures, steps = plan.table[rows], plan.value_steps(rows)
        if steps or spec.deep:
            values = torch.empty(part.shape, dtype=torch.float32, device=part.device).copy_(part)
            part = _finished(_run(values, figures, steps), spec)
        _put(views, indices[rows], _run(part, figures, plan.turn_steps(rows)))
    return views


def alike_together(changes: Changes) -> NDArray[np.int64]:
    """Return the images' numbers, those with the same order of jitters beside each other."""
    codes = changes.jitter_order @ np.array([64, 16, 4, 1]) + 1
    return np.argsort(codes * changes.jittered, kind="stable")


def _chunks(crops: Tensor) -> Iterator[slice]:
    """Yield which rows are worked on together."""
    on_cpu = crops.device.type == "cpu"
    values = CACHED_VALUES * torch.get_num_threads() if on_cpu else DEVICE_VALUES
    size = max(1, values // crops.shape[1:].numel())
    for first in range(0, len(crops), size):
        yield slice(first, min(first + size, len(crops)))


class _Plan:
    """Which steps some rows of a batch need; holds what the operations need for all of it."""

    def __init__(self, changes: Changes, spec: ViewsSpec, crops: Tensor) -> None:
        self.spec, self.photographs = spec, not are_measurements(spec)
        self.jittered: list[bool] = changes.jittered.tolist()
        self.jitter_order: list[list[int]] = changes.jitter_order.tolist()
        self.quarter_turns: list[int] = changes.quarter_turns.tolist()
        blurred = changes.blur_radius > 0
        self.flags: dict[str, list[bool]] = {
            "gray": changes.gray.tolist(),
            "blur": blurred.tolist(),
            "solarize": changes.solarized.tolist(),
            "horizontal_flip": changes.horizontal_flip.tolist(),
            "vertical_flip": changes.vertical_flip.tolist(),
        }
        photographs = self.photographs
        figures = colour_figures(changes) if photographs else channel_figures(changes, spec)
        self.table = _upload(figures, crops.device)
        radii, (widest,) = (
            box_radius(deviations)
            for deviations in (changes.blur_radius[blurred], np.array(spec.blur_radius[1:]))
        )
        self.blurs = blur_matrices(_upload(radii, crops.device), crops.shape[-1], float(widest))
        self.blur_of_row = np.cumsum(blurred) - 1

    def value_steps(self, rows: slice) -> list[Step]:
        """Return the steps that change values of these rows, in order."""
        steps: list[Step] = []
        for operation in self.spec.order:
            if operation == "jitter":
                steps += self._jitter_steps(rows)
            elif operation == "blur":
                steps += self._blur_steps(rows)
            elif operation == "gray" and self.photographs:
                steps += self._flagged("gray", rows, lambda values, _: colour.turn_gray(values))
            elif operation == "solarize" and self.photographs:
                steps += self._flagged("solarize", rows, lambda values, _: colour.solarize(values))
        return steps

    def turn_steps(self, rows: slice) -> list[Step]:
        """Return the steps that move pixels about; they can come last, as values do not care."""
        steps: list[Step] = []
        for operation in self.spec.order:
            if operation == "horizontal_flip":
                steps += self._flagged(operation, rows, lambda values, _: values.flip(3))
            elif operation == "vertical_flip":
                steps += self._flagged(operation, rows, lambda values, _: values.flip(2))
            elif operation == "quarter_turns":
                steps += self._quarter_turns(rows)
        return steps

    def _flagged(self, name: str, rows: slice, operation: Operation) -> list[Step]:
        some = [row for row, flag in enumerate(self.flags[name][rows]) if flag]
        return [Step(operation, some)] if some else []

    def _quarter_turns(self, rows: slice) -> list[Step]:
        groups: list[list[int]] = [[] for _ in range(4)]
        for row, turns in enumerate(self.quarter_turns[rows]):
            groups[turns].append(row)
        return [
            Step(partial(_turned, turns=turns), groups[turns])
            for turns in (1, 2, 3)
            if groups[turns]
        ]

    def _blur_steps(self, rows: slice) -> list[Step]:
        some = [row for row, flag in enumerate(self.flags["blur"][rows]) if flag]
        if not some:
            return []
        first, last = (self.blur_of_row[rows.start + some[place]] for place in (0, -1))
        matrices = self.blurs[first : last + 1]
        return [Step(lambda values, _: blur(values, matrices), some)]

    def _jitter_steps(self, rows: slice) -> list[Step]:
        some = [row for row, flag in enumerate(self.jittered[rows]) if flag]
        if not self.photographs:
            return [Step(jitter_channels, some)] if some else []
        steps = []
        for place in range(len(JITTERS)):
            groups: list[list[int]] = [[] for _ in JITTERS]
            for row in some:
                groups[self.jitter_order[rows.start + row][place]].append(row)
            for strength, group, (jitter, columns) in zip(
                self.spec.jitter, groups, JITTERS, strict=True
            ):
                if group and strength:
                    steps.append(Step(partial(_jittered, jitter=jitter, columns=columns), group))
        return steps


def colour_figures(changes: Changes) -> NDArray[np.float64]:
    """Return [N, 24]: what `JITTERS` need."""
    brightness, contrast, saturation, hue = changes.jitter_factors.T
    figures = (
        brightness[:, None],
        colour.contrast_figures(contrast),
        colour.saturation_figures(saturation),
        colour.hue_figures(hue),
    )
    return np.concatenate(figures, axis=1)


def channel_figures(changes: Changes, spec: ViewsSpec) -> NDArray[np.float64]:
    """Return [N, 2 C]: each channel's factor of contrast, then how much brighter it gets."""
    unit = 1.0 if spec.deep else colour.TOP
    brighter = (changes.channel_brightness - 1) * np.array(spec.std) * unit
    return np.concatenate([changes.channel_contrast, brighter], axis=1)


def jitter_channels(values: Tensor, figures: Tensor) -> None:
    """Move each channel away from its mean, or towards it, and make it brighter, or darker."""
    channels = values.shape[1]
    factors, brighter = figures[:, :channels, None, None], figures[:, channels:, None, None]
    means = values.mean((2, 3), keepdim=True)
    values.mul_(factors).add_(means * (1 - factors) + brighter)


def _jittered(
    values: Tensor, figures: Tensor, jitter: Callable[[Tensor, Tensor], None], columns: slice
) -> None:
    jitter(values, figures[:, columns])


def _turned(values: Tensor, _figures: Tensor, turns: int) -> Tensor:
    return torch.rot90(values, turns, (2, 3))


def _run(values: Tensor, figures: Tensor, steps: list[Step]) -> Tensor:
    """Return values [n, C, S, S] after all steps; those given may change."""
    for step in steps:
        first, last = step.rows[0], step.rows[-1] + 1
        if last - first == len(step.rows):  # they follow one another: no copy of them is needed
            changed = step.operation(values[first:last], figures[first:last])
            if changed is not None and len(changed) == len(values):
                values = changed
            elif changed is not None:
                values[first:last] = changed
            continue
        places = torch.tensor(step.rows).to(values.device, non_blocking=True)
        some = values.index_select(0, places)
        changed = step.operation(some, figures.index_select(0, places))
        _put(values, places, some if changed is None else changed)
    return values


def _put(images: Tensor, places: Tensor, rows: Tensor) -> None:
    """Write rows to these places, as `index_copy_` does."""
    if images.device.type == "cpu":
        images.numpy()[places.numpy()] = rows.numpy()  # image by image; torch goes by value
    else:
        images.index_copy_(0, places, rows)


def _finished(values: Tensor, spec: ViewsSpec) -> Tensor:
    """Return normalized values where images are deep, uint8 else."""
    if spec.deep:
        mean, std = _upload(np.array([spec.mean, spec.std])[:, :, None, None], values.device)
        return values.sub_(mean).div_(std)
    if are_measurements(spec):
        values.clamp_(0, colour.TOP)
    return values.round_().to(torch.int16).to(torch.uint8)  # a fourth of the time of one step


def _upload(figures: NDArray[np.float64], device: torch.device) -> Tensor:
    return torch.from_numpy(figures.astype(np.float32)).to(device, non_blocking=True)
