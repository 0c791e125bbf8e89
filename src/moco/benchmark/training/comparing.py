"""Images per second from files to weights, ours beside the official script."""

from __future__ import annotations

import gc
import multiprocessing
import resource
import tempfile
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import torch

from moco.benchmark.files import Files, Likeness, compare_pixels
from moco.benchmark.input import SURE_LIKENESS
from moco.benchmark.machine import system_load
from moco.benchmark.photographs import COUNT, write_photographs
from moco.benchmark.steps.equal_work import check_equal_work
from moco.benchmark.steps.official_step import OfficialStep
from moco.benchmark.steps.our_step import OurStep
from moco.benchmark.steps.residual import check_comparable
from moco.benchmark.steps.rows import common_start, official_rows, our_rows
from moco.benchmark.training.rows import Sizes, TrainRow, official_training, our_training
from moco.data.sources.folder import FolderImages, find_images
from moco.device import shared_cpu
from moco.errors import DataError, UsageError
from moco.recipe import Recipe


@dataclass(frozen=True)
class Turn:
    """What a row's turn took."""

    seconds: float
    """By the clock on the wall."""
    cpu_seconds: float
    """Of this process and its loading processes together."""


@dataclass(frozen=True)
class TrainResult:
    """A row's turns, and how they stand to the official one's of the same round."""

    row: TrainRow
    turns: list[Turn]
    ratios: list[float]
    """How many times as fast by the clock."""
    cpu_ratios: list[float]
    """How many times as fast by CPU seconds."""

    @property
    def rates(self) -> list[float]:
        """Images per second by the clock."""
        return [self.row.images / turn.seconds for turn in self.turns]

    @property
    def cpu_rates(self) -> list[float]:
        """Images per CPU second."""
        return [self.row.images / turn.cpu_seconds for turn in self.turns]


@dataclass(frozen=True)
class TrainComparison:
    """What a run of the benchmark found."""

    recipe: Recipe
    sizes: Sizes
    threads: int
    images: int
    likeness: Likeness
    results: list[TrainResult]
    loads: tuple[float | None, float | None]
    """Programs that wanted a processor in the last minute, at the beginning and at the end."""


def compare_training(
    recipe: Recipe, folder: Path | None, *, rounds: int, sizes: Sizes
) -> TrainComparison:
    """Train in turn on the files of a folder, or on made photographs.

    Raises:
        UsageError: A number or the recipe makes no sense here.
        DataError: There are no images, or fewer than a batch.
        ValueError: The steps do other work, or the pixels are others.
    """
    check_sizes(rounds, sizes)
    check_comparable(recipe)
    began = system_load()
    with (
        tempfile.TemporaryDirectory() as temporary,
        shared_cpu(sizes.device, sizes.workers),
    ):
        files = image_files(folder, Path(temporary), recipe.batch_size)
        likeness = compare_pixels(files, recipe.views)
        if folder is None and likeness.worst > SURE_LIKENESS:
            raise ValueError(f"our pixels are not the official pipeline's: {likeness}")
        rows = train_rows(files, recipe, sizes)
        turns = turns_of(rows, rounds, sizes.device)
        threads = torch.get_num_threads()
    official = turns["official"]
    results = [
        TrainResult(
            row,
            turns[row.name],
            [b.seconds / a.seconds for a, b in zip(turns[row.name], official, strict=True)],
            [b.cpu_seconds / a.cpu_seconds for a, b in zip(turns[row.name], official, strict=True)],
        )
        for row in rows
    ]
    loads = began, system_load()
    return TrainComparison(recipe, sizes, threads, len(files.paths), likeness, results, loads)


def check_sizes(rounds: int, sizes: Sizes) -> None:
    """Refuse numbers that make no sense.

    Raises:
        UsageError: One is too small.
    """
    for option, value, least in (
        ("rounds", rounds, 1),
        ("steps", sizes.steps, 1),
        ("workers", sizes.workers, 0),
    ):
        if value < least:
            raise UsageError(f"--{option} must be from {least}, got {value}")


def image_files(folder: Path | None, place: Path, batch: int) -> Files:
    """Return a folder's images, or photographs written into `place`: a batch of them at least.

    Raises:
        DataError: There are fewer, or none.
    """
    if folder is None:
        written = write_photographs(place, max(COUNT, batch))
        folder, names = place, [path.name for path in written]
    else:
        names = find_images(folder)
    if len(names) < batch:
        raise DataError(f"{len(names)} images are fewer than a batch of {batch}; lower --batch")
    paths = [folder / name for name in names]
    sizes = sum(path.stat().st_size for path in paths)
    return Files(paths, FolderImages(folder, names=names), sizes / len(paths))


def train_rows(files: Files, recipe: Recipe, sizes: Sizes) -> list[TrainRow]:
    """Return both loops; their steps have done equal work.

    Raises:
        ValueError: They have not, or a row makes fewer or smaller views.
    """
    start = common_start(recipe, sizes.device)
    ours, official = our_rows(start)[0][0], official_rows(start)[0]
    check_equal_work([ours, official], start)
    if not isinstance(ours.learner, OurStep) or not isinstance(official.learner, OfficialStep):
        raise TypeError("rows changed places")
    return [
        our_training(files.images, recipe, ours.learner, sizes),
        official_training(files.paths, recipe, official.learner, sizes),
    ]


def turns_of(rows: Sequence[TrainRow], rounds: int, device: torch.device) -> dict[str, list[Turn]]:
    """Return what each turn took: A B, A B, and so on.

    Raises:
        ValueError: A row took other steps than the others.
    """
    turns: dict[str, list[Turn]] = {row.name: [] for row in rows}
    for _ in range(rounds):
        shapes = []
        for row in rows:
            began, cpu_began = time.perf_counter(), cpu_seconds()
            shapes.append(row.take())
            if device.type == "cuda":
                torch.cuda.synchronize(device)
            seconds = time.perf_counter() - began
            if multiprocessing.active_children():  # their time counts once they ended
                gc.collect()
            turns[row.name].append(Turn(seconds, cpu_seconds() - cpu_began))
        if any(shape != shapes[0] for shape in shapes):
            raise ValueError(f"the rows take other steps: {shapes}")
    return turns


def cpu_seconds() -> float:
    """Return the CPU time of this process and of those that it started and saw end."""
    spent = [resource.getrusage(who) for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)]
    return sum(usage.ru_utime + usage.ru_stime for usage in spent)
