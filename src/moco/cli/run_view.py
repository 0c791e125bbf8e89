"""What a run's display shows: its figures so far, and the lines that show them at any width."""

from __future__ import annotations

import math
import textwrap
from collections import deque
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from moco.cli.curves import BLOCKS, PLAIN_BLOCKS, Curve, sparkline
from moco.cli.durations import duration
from moco.cli.output import printable
from moco.progress import DiagnosisInWords

LABEL, VALUE, NOTE = 14, 7, 38
"""Columns of a curve's name, of its latest value and of what stands behind it."""
LONGEST_CURVE, SHORTEST_CURVE, LONGEST_BAR, SHORTEST_BAR = 60, 8, 40, 6
READINGS = 64
"""That the pace is of."""
MOST_WORDS = 3
"""Lines of the doctor."""

Span = tuple[str, str]
"""Text and how it looks: a name in `LOOKS`, or empty."""
LOOKS = {"good": "32", "warning": "33", "bar": "36", "quiet": "2"}


@dataclass(frozen=True)
class Letters:
    """What a terminal can show."""

    blocks: str = BLOCKS
    done: str = "━"
    open: str = "─"
    coloured: bool = True


PLAIN_LETTERS = Letters(PLAIN_BLOCKS, "#", "-")


class RunFigures:
    """What is known of a run as it goes.

    Args:
        chance: the loss of queries that tell no key from another; ln(K + 1) of one plain loss.
    """

    def __init__(self, steps: int, epochs: int, chance: float, *, began: float) -> None:
        self.steps, self.epochs, self.chance, self.began = steps, epochs, chance, began
        self.done = self.epoch = 0
        self.row: Mapping[str, Any] = {}
        self.knn: tuple[float, int] | None = None
        """The latest score, and the epoch, from 1, whose end it is of."""
        self.best_knn = -math.inf
        self.curves = {name: Curve() for name in ("loss", "pretext", "gap", "knn")}
        self.diagnosis: DiagnosisInWords | None = None
        self.ended_at: float | None = None
        self._readings: deque[tuple[float, int]] = deque(maxlen=READINGS)

    def take(self, row: Mapping[str, Any], now: float) -> None:
        """Take in the row of the latest step; what it lacks is not shown."""
        self.row, self.done, self.epoch = row, row["step"] + 1, row["epoch"] + 1
        self._readings.append((now, self.done))
        new = {"loss": row.get("loss"), "pretext": row.get("pretext_top1"), "gap": self.gap()}
        if (score := row.get("knn_top1")) is not None:
            self.knn, new["knn"] = (score, self.epoch), score
            self.best_knn = max(self.best_knn, score)
        for name, value in new.items():
            if value is not None and math.isfinite(value):
                self.curves[name].add(value)

    def gap(self) -> float | None:
        """Return how much nearer own keys are than others', None where that is not known."""
        own, other = self.row.get("positive_similarity"), self.row.get("negative_similarity")
        return None if own is None or other is None else own - other

    def seconds_left(self, now: float) -> float | None:
        """Return how long the rest takes at the pace of the latest readings; None without one."""
        if len(self._readings) < 2 or self.done >= self.steps:
            return None
        (first_at, first), (last_at, last) = self._readings[0], self._readings[-1]
        if last == first or last_at <= first_at:
            return None
        seconds = (self.steps - last) * (last_at - first_at) / (last - first)
        return max(0.0, seconds - (now - last_at))


def run_lines(
    figures: RunFigures, width: int, height: int, letters: Letters, now: float
) -> list[str]:
    """Return the lines of the display, each shorter than `width` columns, fewer than `height`."""
    lines = [progress_line(figures, width, letters, now), *curve_lines(figures, width, letters)]
    lines += doctor_lines(figures, width)
    return [painted(line, width - 1, letters) for line in lines[: max(1, height - 2)]]


def progress_line(figures: RunFigures, width: int, letters: Letters, now: float) -> list[Span]:
    """Return the bar and what fits beside it, the time left before all else."""
    left = figures.seconds_left(now)
    rate = figures.row.get("images_per_second")
    until = now if figures.ended_at is None else figures.ended_at
    parts = {
        "count": f"{figures.done:,}/{figures.steps:,}",
        "epoch": f"epoch {figures.epoch}/{figures.epochs}" if figures.epoch else "starting",
        "rate": f"{rate:,.0f} images/s" if rate is not None else "",
        "spent": duration(until - figures.began),
        "left": f"{duration(left)} left" if left is not None else "",
    }
    room = width - 1 - SHORTEST_BAR
    shown: set[str] = set()
    for name in ("count", "left", "rate", "epoch", "spent"):
        if parts[name] and len(parts[name]) + 2 <= room:
            shown.add(name)
            room -= len(parts[name]) + 2
    length = min(LONGEST_BAR, room + SHORTEST_BAR)
    done = min(length, length * figures.done // max(1, figures.steps))
    bar: list[Span] = [(letters.done * done, "bar"), (letters.open * (length - done), "quiet")]
    return [*bar, ("".join(f"  {parts[name]}" for name in parts if name in shown), "")]


def curve_lines(figures: RunFigures, width: int, letters: Letters) -> list[list[Span]]:
    """Return a line for each series: its name, the latest value, its curve, and what it means."""
    row, gap = figures.row, figures.gap()
    own, other = row.get("positive_similarity"), row.get("negative_similarity")
    chance = f"chance {figures.chance:.3f}"
    series = [
        ("loss", "loss", shown(row.get("loss"), 3), (f"{chance}, ln(K+1)", chance)),
        (
            "pretext",
            "pretext top-1",
            shown(row.get("pretext_top1"), 1, percent=True),
            ("finds its own key; no class accuracy", "own key"),
        ),
        (
            "gap",
            "similarity gap",
            shown(gap, 3),
            (f"own keys {shown(own, 2)}, others {shown(other, 2)}",) if gap is not None else (),
        ),
    ]
    if figures.knn is not None:
        score, epoch = figures.knn
        best = f"epoch {epoch}, best {shown(figures.best_knn, 1, percent=True)}"
        series.append(("knn", "kNN top-1", shown(score, 1, percent=True), (best, f"epoch {epoch}")))
    return [
        curve_line(label, value, figures.curves[name].points(), notes, width, letters)
        for name, label, value, notes in series
    ]


def curve_line(
    label: str,
    value: str,
    points: list[float],
    notes: tuple[str, ...],
    width: int,
    letters: Letters,
) -> list[Span]:
    """Return one series; the longest note that fits stands behind its curve."""
    front = f"{label:<{LABEL}} {value:>{VALUE}}"
    room = width - 1 - len(front) - 2
    length = min(LONGEST_CURVE, max(SHORTEST_CURVE, room - NOTE))
    if room < length:
        return [(front, "")]
    curve = f"{sparkline(points, length, letters.blocks):<{length}}"
    note = next((text for text in notes if len(text) + 2 <= room - length), "")
    return [(f"{front}  ", ""), (curve, "bar"), (f"  {note}", "quiet")]


def doctor_lines(figures: RunFigures, width: int) -> list[list[Span]]:
    """Return what the doctor says, in the width that there is; none before it said anything."""
    diagnosis = figures.diagnosis
    if diagnosis is None:
        return []
    words = verdict_in_words(diagnosis)
    inner = max(10, width - 2 - LABEL)
    lines = textwrap.wrap(words, inner, max_lines=MOST_WORDS, placeholder=" ...")
    look = "warning" if diagnosis.is_sick else "good"
    return [
        [(f"{'doctor' if number == 0 else '':<{LABEL}} ", ""), (line, look)]
        for number, line in enumerate(lines)
    ]


def verdict_in_words(diagnosis: DiagnosisInWords) -> str:
    """Return the verdict and its sentence on one line, in letters that steer no terminal."""
    verdict, words = diagnosis.verdict, diagnosis.words
    is_said = not words or words.lower().startswith(verdict.lower())
    return printable((words or verdict) if is_said else f"{verdict}: {words}")


def painted(spans: list[Span], width: int, letters: Letters) -> str:
    """Return the text of the spans, cut to a width, in colour where that is wanted."""
    text = ""
    for words, look in spans:
        cut = words[:width]
        width -= len(cut)
        text += f"\x1b[{LOOKS[look]}m{cut}\x1b[0m" if cut and look and letters.coloured else cut
    return text if letters.coloured else text.rstrip()


def shown(value: float | None, digits: int, *, percent: bool = False) -> str:
    """Return a figure, a dash where there is none."""
    if value is None or not math.isfinite(value):
        return "-"
    return f"{100 * value:.{digits}f} %" if percent else f"{value:.{digits}f}"
