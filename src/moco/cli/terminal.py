"""How a run looks on a terminal, and in a log file."""

from __future__ import annotations

import os
import sys
import time
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import replace
from typing import Any

from rich.console import Console
from rich.table import Table

from moco.batch_norm import has_batch_norm
from moco.cli.durations import duration as duration
from moco.cli.live import LiveLines
from moco.cli.output import printable, say
from moco.cli.plain_log import LOG_EVERY_SECONDS as LOG_EVERY_SECONDS
from moco.cli.plain_log import LogTimes
from moco.cli.run_view import PLAIN_LETTERS, Letters, RunFigures, run_lines, shown, verdict_in_words
from moco.contrast import Contrast
from moco.data_tools.check import left_out_lines
from moco.distributed import world_size
from moco.encoders import parameter_count
from moco.memory import size_in_words
from moco.plan import Plan
from moco.progress import DiagnosisInWords

NOT_DRAWN_ON = ("", "dumb", "unknown")
"""What TERM is where lines cannot be cleared."""


class TerminalReport:
    """Curves below the lines on a terminal, a plain line now and then elsewhere.

    Args:
        clock: gives the time in seconds.
    """

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self.clock = clock
        self.is_silent = sys.stdout is None
        self.figures: RunFigures | None = None
        self.times = LogTimes(clock())
        self.told_verdict = ""
        self.live: LiveLines | None = None

    def planned(self, plan: Plan, contrast: Contrast) -> None:
        """Print what will be trained, and start the display."""
        for line in describe_plan(plan):
            self.note(line)
        for line in describe_contrast(plan, contrast):
            self.note(line)
        recipe, began = plan.recipe, self.clock()
        figures = RunFigures(plan.steps, recipe.epochs, recipe.chance_loss, began=began)
        self.figures, self.times = figures, LogTimes(began)
        if can_draw():
            letters = fitting_letters()
            sys.stdout.flush()
            self.live = LiveLines(
                sys.stdout.fileno(),
                sys.stdout.encoding,
                lambda width, height: run_lines(figures, width, height, letters, self.clock()),
            )
            self.live.start()

    def note(self, text: str) -> None:
        """Print a line, above the display; where it cannot be written, go on without."""
        if self.live is not None:
            self.live.note(printable(text))
        elif not self.is_silent:
            self.is_silent = not printed(printable(text))

    def stepped(self, row: Mapping[str, Any], plan: Plan) -> None:
        """Show the figures, or print a line when one is due."""
        figures, now = self.figures, self.clock()
        if figures is None:
            return
        before = figures.knn
        figures.take(row, now)
        is_news = figures.knn is not before or self.is_news(figures)
        if self.live is not None:
            return
        if figures.done == plan.steps or self.times.is_due(now, is_news=is_news):
            self.times.written(now)
            self.note(figures_in_words(figures, now))
            if figures.diagnosis is not None and self.is_news(figures):
                self.told_verdict = figures.diagnosis.verdict
                self.note(f"doctor: {verdict_in_words(figures.diagnosis)}")

    def is_news(self, figures: RunFigures) -> bool:
        """Say whether the doctor's verdict is another than the one that was printed."""
        return figures.diagnosis is not None and figures.diagnosis.verdict != self.told_verdict

    def examined(self, diagnosis: DiagnosisInWords) -> None:
        """Show what the doctor says; a log has it with its next line."""
        if self.figures is not None:
            self.figures.diagnosis = diagnosis

    def ended(self) -> None:
        """Leave the display as it is."""
        if self.figures is not None:
            self.figures.ended_at = self.clock()
        if self.live is not None:
            self.live.stop()
            if self.live.is_gone:
                self.is_silent = True
                let_go_of_output()
            self.live = None


def can_draw() -> bool:
    """Say whether standard output is a terminal that lines can be drawn on."""
    is_terminal = sys.stdout is not None and sys.stdout.isatty()
    return (
        is_terminal and sys.platform != "win32" and os.environ.get("TERM", "") not in NOT_DRAWN_ON
    )


def fitting_letters() -> Letters:
    """Return what this terminal can show: no colour by NO_COLOR, plain letters where it must."""
    letters = Letters()
    try:
        f"{letters.blocks}{letters.done}{letters.open}".encode(sys.stdout.encoding)
    except UnicodeEncodeError:
        letters = PLAIN_LETTERS
    if os.environ.get("TERM") == "linux":  # the console's own font lacks most of them
        letters = PLAIN_LETTERS
    return replace(letters, coloured=not os.environ.get("NO_COLOR"))


def printed(line: str) -> bool:
    """Print a line; say whether that worked. A run must not end because nobody reads any more."""
    try:
        print(line, flush=True)
    except (OSError, ValueError):
        let_go_of_output()
        return False
    return True


def let_go_of_output() -> None:
    """Let what is still printed go nowhere, also what is left in Python's buffer."""
    with suppress(OSError, ValueError):
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


def figures_in_words(figures: RunFigures, now: float) -> str:
    """Return a step's figures as a line of a log."""
    row, left = figures.row, figures.seconds_left(now)
    words = [
        f"step {figures.done}/{figures.steps}",
        f"epoch {figures.epoch}/{figures.epochs}",
        f"loss {shown(row.get('loss'), 3)} (chance {figures.chance:.3f})",
        f"pretext top-1 {shown(row.get('pretext_top1'), 1, percent=True)}",
        f"similarity gap {shown(figures.gap(), 3)}",
        f"{shown(row.get('images_per_second'), 0)} images/s",
    ]
    if figures.knn is not None:
        score, epoch = figures.knn
        words.append(f"kNN top-1 {shown(score, 1, percent=True)} (epoch {epoch})")
    if left is not None:
        words.append(f"{duration(left)} left")
    return "  ".join(words)


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
    lines += plan.start_lines
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


def print_table(title: str, columns: list[str], rows: list[list[str]]) -> None:
    """Print a table, the first column to the left and figures to the right."""
    say(printable(title))  # beside the table, which would break it into its own width
    table = Table()
    for number, column in enumerate(columns):
        table.add_column(column, justify="left" if number == 0 else "right")
    for row in rows:
        table.add_row(*row)
    Console(width=None if sys.stdout.isatty() else 110).print(table)
