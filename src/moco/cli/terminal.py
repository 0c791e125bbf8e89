"""How a run looks on a terminal, and in a log file."""

from __future__ import annotations

import math
import sys
import time
from collections.abc import Mapping
from typing import Any

from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn
from rich.table import Column, Table

from moco.batch_norm import has_batch_norm
from moco.cli.output import printable, say
from moco.contrast import Contrast
from moco.data_tools.check import left_out_lines
from moco.distributed import world_size
from moco.encoders import parameter_count
from moco.memory import size_in_words
from moco.plan import Plan

LOG_EVERY_SECONDS = 10.0
NARROW = 110
"""Columns below which a terminal gets a short bar and short figures."""


class SteadyConsole(Console):
    """A console that falls silent when nobody reads it any more: a run must not end for that."""

    def on_broken_pipe(self) -> None:
        self.quiet = True


class TerminalReport:
    """A progress bar on a terminal, a plain line now and then elsewhere."""

    def __init__(self) -> None:
        self.console = SteadyConsole(highlight=False, soft_wrap=True)
        self.bar: Progress | None = None
        self.task: Any = None
        self.logged_at = 0.0
        self.first: tuple[float, int] | None = None

    def planned(self, plan: Plan, contrast: Contrast) -> None:
        """Print what will be trained, and start the bar."""
        for line in describe_plan(plan):
            self.note(line)
        for line in describe_contrast(plan, contrast):
            self.note(line)
        if self.console.is_terminal:
            self.bar = Progress(
                BarColumn(8 if self.is_narrow() else 30),
                TextColumn("{task.completed}/{task.total}", table_column=whole()),
                TimeElapsedColumn(table_column=whole()),
                TextColumn("left", table_column=whole()),
                TimeRemainingColumn(table_column=whole()),
                TextColumn("{task.fields[figures]}", table_column=Column(no_wrap=True)),
                console=self.console,
            )
            self.task = self.bar.add_task("", total=plan.steps, figures="")
            self.bar.start()

    def is_narrow(self) -> bool:
        """Say whether there is no room for words beside the figures."""
        return self.console.is_terminal and self.console.width < NARROW

    def note(self, text: str) -> None:
        """Print a line above the bar; where it cannot be written, go on without."""
        try:
            self.console.print(printable(text), markup=False)
        except OSError:
            self.console.quiet = True

    def stepped(self, row: Mapping[str, Any], plan: Plan) -> None:
        """Move the bar, or print a line when the last one is some seconds old."""
        now, done = time.monotonic(), row["step"] + 1
        self.first = self.first or (now, done)
        top1, rate = 100 * (row["pretext_top1"] or 0.0), row["images_per_second"]
        loss = math.nan if row["loss"] is None else row["loss"]  # a step that was left out
        figures = f"loss {loss:.3f}  pretext top-1 {top1:.1f} %  {rate:.0f} images/s"
        if self.is_narrow():
            figures = f"loss {loss:.2f} top-1 {top1:.0f} % {rate:.0f}/s"
        if "knn_top1" in row:
            figures += f"  kNN top-1 {100 * row['knn_top1']:.1f} %"
        if self.bar is not None:
            self.bar.update(self.task, completed=done, figures=figures)
        elif now - self.logged_at >= LOG_EVERY_SECONDS or done == plan.steps or "knn_top1" in row:
            self.logged_at = now
            steps_per_second = (done - self.first[1]) / max(now - self.first[0], 1e-9)
            left = (plan.steps - done) / steps_per_second if steps_per_second else 0.0
            self.note(
                f"step {done}/{plan.steps}  epoch {row['epoch'] + 1}/{plan.recipe.epochs}  "
                + figures
                + (f"  {duration(left)} left" if steps_per_second else "")
            )

    def ended(self) -> None:
        """Take the bar down."""
        if self.bar is not None:
            self.bar.stop()
            self.bar = None


def describe_plan(plan: Plan) -> list[str]:
    """Return the plan in lines: images, device, steps, and each derived setting with its reason."""
    recipe = plan.recipe
    processes = f"{world_size()} processes on " if world_size() > 1 else ""
    lines = [
        f"{len(plan.images):,} images, recipe {recipe.name} ({recipe.source})",
        f"{recipe.epochs} epochs of {plan.steps_per_epoch} steps of {recipe.batch_size} images on "
        f"{processes}{plan.device.type}, {where_images_lie(plan)}{in_parts(plan)}",
        f"run directory {plan.run}",
    ]
    if recipe.views.first_size:
        sizes = list(dict.fromkeys(map(recipe.image_size_at, range(recipe.epochs))))
        lines.append(f"views grow with the epochs: {', '.join(map(str, sizes))} pixels")
    lines += left_out_lines(plan.images)
    lines += [f"  {choice.field} = {choice.value}: {choice.reason}" for choice in plan.choices]
    return lines


def in_parts(plan: Plan) -> str:
    """Say in how many parts a batch is taken, where it is not whole."""
    return f", each batch in {plan.accumulate} parts" if plan.accumulate > 1 else ""


def where_images_lie(plan: Plan) -> str:
    """Say who loads the images, or that they are on the device."""
    if plan.resident is None:
        return f"{plan.workers} loading processes"
    return f"all images there, {size_in_words(plan.resident.pixels.nbytes)}"


def describe_contrast(plan: Plan, contrast: Contrast) -> list[str]:
    """Return lines about the network, and what keeps batch norm from leaking."""
    recipe, encoder = plan.recipe, contrast.encoder
    groups = recipe.batch_norm_groups
    precision = str(encoder.precision or "torch.float32").removeprefix("torch.")
    lines = [
        f"{recipe.encoder.backbone} with {parameter_count(encoder):,} parameters in {precision}, "
        f"{recipe.dictionary_in_words}"
    ]
    if encoder.precision != plan.precision:
        lines.append(
            f"float32, since images of {recipe.image_size_at(0)} pixels are so small for this "
            "network that a CPU gets lower precision wrong; larger ones train faster"
        )
    if recipe.encoder.token_drop:
        lines.append(
            f"training forwards, of keys too, leave out {100 * recipe.encoder.token_drop:g} % of "
            "each image's patches"
        )
    if not has_batch_norm(encoder):
        lines.append("no batch norm in the network, so keys need no shuffling")
    else:
        shuffled = ", keys shuffled between them" if contrast.shuffle_keys else ""
        lines.append(
            f"batch norm in {groups} groups of {recipe.batch_size // groups} images{shuffled}"
            if groups > 1
            else "batch norm over the whole batch"
        )
    if has_batch_norm(encoder) and recipe.may_leak:
        lines.append(
            "warning: keys are not shuffled, so batch norm can leak which key is whose; set "
            + ("batch_norm_groups to 2 or more" if groups == 1 else "shuffle_keys to true")
        )
    milestones = recipe.optimizer.milestones
    if recipe.optimizer.schedule == "step" and milestones and milestones[0] >= recipe.epochs:
        lines.append(
            f"warning: the learning rate never drops: its milestones {list(milestones)} lie beyond "
            f"{recipe.epochs} epochs; set optimizer.milestones"
        )
    return lines


def whole() -> Column:
    """Return a column of the bar that is never cut short."""
    return Column(no_wrap=True, min_width=4)


def duration(seconds: float) -> str:
    """Return seconds as 45 s, 12 min, 3 h 20 min or 2 d 4 h."""
    minutes, hours = round(seconds / 60), int(seconds // 3600)
    if seconds < 100:
        return f"{seconds:.0f} s"
    if hours < 2:
        return f"{minutes} min"
    if hours < 48:
        return f"{hours} h {round(seconds % 3600 / 60)} min"
    return f"{hours // 24} d {hours % 24} h"


def print_table(title: str, columns: list[str], rows: list[list[str]]) -> None:
    """Print a table, the first column to the left and figures to the right."""
    say(printable(title))  # beside the table, which would break it into its own width
    table = Table()
    for number, column in enumerate(columns):
        table.add_column(column, justify="left" if number == 0 else "right")
    for row in rows:
        table.add_row(*row)
    Console(width=None if sys.stdout.isatty() else 110).print(table)
