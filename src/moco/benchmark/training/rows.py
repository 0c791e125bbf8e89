"""The loops that are timed: batches out of image files by loading processes, then steps."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from PIL import Image
from torch import Tensor
from torch.utils.data import DataLoader, Dataset, RandomSampler

from moco.benchmark.official import official_view, open_picture
from moco.benchmark.steps.official_step import Meter, OfficialStep
from moco.benchmark.steps.our_step import OurStep
from moco.data.batches import to_device
from moco.data.images import Images
from moco.errors import UsageError
from moco.plan import make_plan
from moco.plan_batches import load_plan
from moco.recipe import Recipe

SHOW_EVERY_STEPS = 10
"""As the script does."""
Shapes = list[tuple[int, ...]]


@dataclass(frozen=True)
class Sizes:
    """How much a turn does, and with what."""

    steps: int
    workers: int
    device: torch.device


@dataclass(frozen=True)
class TrainRow:
    """A row of the comparison."""

    name: str
    """What it is called in the JSON file."""
    title: str
    includes: str
    images: int
    """Of a turn."""
    take: Callable[[], Shapes]
    """Takes the steps of a turn, with loading processes of its own; returns its views' shapes."""


def our_training(images: Images, recipe: Recipe, learner: OurStep, sizes: Sizes) -> TrainRow:
    """Return what a run of `moco pretrain` does from its files to its steps.

    Raises:
        UsageError: The images are such that it would change the recipe's views.
    """
    recipe = recipe.at_full_size()  # the official loop's views do not grow
    plan = make_plan(
        images,
        recipe=recipe,
        device=sizes.device.type,
        workers=sizes.workers,
        run="unused",
    )
    if plan.recipe.views != recipe.views:
        raise UsageError(
            "these images are no photographs of 8 bits, so a run would change the recipe's views, "
            "which the official script cannot; name another --images"
        )
    begun = iter(range(0, 1 << 40, sizes.steps))

    def take() -> Shapes:
        shapes, start = [], next(begun)
        for batch in load_plan(plan, start=start, stop=start + sizes.steps):
            view_a, view_b, _ = to_device(batch, recipe.views, sizes.device)
            learner.step(view_a, view_b)
            shapes.append(tuple(view_a.shape))
        return shapes

    return TrainRow(
        "ours",
        "moco",
        "load_plan and the step of `moco pretrain`, precision auto; no decoded image is kept, no "
        "checkpoint is written",
        sizes.steps * recipe.batch_size,
        take,
    )


class TwoViews(Dataset[tuple[list[Tensor], int]]):
    """Files as torchvision's image folders read them, each with two views and a class."""

    def __init__(self, paths: Sequence[Path], recipe: Recipe) -> None:
        self.paths = list(paths)
        self.makers: list[Callable[[Image.Image], Tensor]] = [
            official_view(recipe.views, 0),
            official_view(recipe.views, 1),
        ]

    def __len__(self) -> int:
        return len(self.paths)

    def __getitem__(self, place: int) -> tuple[list[Tensor], int]:
        picture = open_picture(self.paths[place])
        return [make(picture) for make in self.makers], 0


def official_training(
    paths: Sequence[Path], recipe: Recipe, learner: OfficialStep, sizes: Sizes
) -> TrainRow:
    """Return the papers' own loop in one process."""
    dataset = TwoViews(paths, recipe)
    rows = sizes.steps * recipe.batch_size

    def take() -> Shapes:
        loader = DataLoader(
            dataset,
            batch_size=recipe.batch_size,
            sampler=RandomSampler(dataset, num_samples=rows),
            num_workers=sizes.workers,
            pin_memory=sizes.device.type == "cuda",
            drop_last=True,
        )
        return official_epoch(loader, learner, sizes.device)

    return TrainRow(
        "official",
        "official",
        "torch's DataLoader over Pillow and torchvision's transforms, the official step and its "
        "meters; float32",
        rows,
        take,
    )


def official_epoch(
    loader: DataLoader[object], learner: OfficialStep, device: torch.device
) -> Shapes:
    """Go through a loader once, as the script does; what it would print is put together."""
    batch_time, data_time = Meter(), Meter()
    shapes, ended = [], time.perf_counter()
    for number, ((view_a, view_b), _) in enumerate(loader):
        data_time.update(time.perf_counter() - ended, 1)
        learner.step(
            view_a.to(device, non_blocking=True),
            view_b.to(device, non_blocking=True),
        )
        batch_time.update(time.perf_counter() - ended, 1)
        ended = time.perf_counter()
        if number % SHOW_EVERY_STEPS == 0:
            shown_meters(number, batch_time, data_time, learner)
        shapes.append(tuple(view_a.shape))
    return shapes


def shown_meters(number: int, batch_time: Meter, data_time: Meter, learner: OfficialStep) -> str:
    """Return the line of a progress meter, which reads the figures from the device."""
    meters = {"time": batch_time, "data": data_time, **learner.meters}
    parts = [
        f"{name} {float(meter.last):.3f} ({float(meter.total) / max(1, meter.count):.3f})"
        for name, meter in meters.items()
    ]
    return "\t".join([f"[{number}]", *parts])
