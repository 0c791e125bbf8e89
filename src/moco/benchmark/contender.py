"""What is timed: a way to get from stored images to two views of each."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from moco.specs import ViewsSpec

CPU = torch.device("cpu")
Views = tuple[Tensor, Tensor]
"""First and second views [N, C, S, S]."""


@dataclass(frozen=True)
class Contender:
    """One row of the comparison."""

    name: str
    """What it is called in the JSON file."""
    title: str
    includes: str
    """What is done within its time, and in what its views end."""
    images: int
    """N, how many images a pass takes."""
    result: torch.dtype
    run: Callable[[int], Views]
    """Makes a pass; passes are numbered from 0, so that draws differ."""
    device: torch.device = CPU

    @property
    def is_per_core(self) -> bool:
        """Say whether its rate is one of a processor core, or of a whole device."""
        return self.device.type == "cpu"


def check_work(contender: Contender, views: ViewsSpec) -> None:
    """Make a pass, which also warms up, and see that it does the whole work.

    Raises:
        ValueError: It does not return two views of the recipe's size of each image, or not in the
            type that its row says.
    """
    side = views.image_size
    wanted = (contender.images, views.channels, side, side)
    made = contender.run(0)
    if len(made) != 2 or any(tuple(view.shape) != wanted for view in made):
        shapes = [list(view.shape) for view in made]
        raise ValueError(f"{contender.title} makes views {shapes}, not two of {list(wanted)}")
    if any(view.dtype != contender.result for view in made):
        raise ValueError(f"{contender.title} ends in {made[0].dtype}, not {contender.result}")
    if made[0].data_ptr() == made[1].data_ptr():
        raise ValueError(f"{contender.title} makes the same view twice")
