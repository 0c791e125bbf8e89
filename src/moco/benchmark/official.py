"""The papers' own input pipeline, from Pillow and torchvision, whole and as fast as it goes.

Written from what their code does: an image is opened and converted by Pillow, each view goes
through torchvision's operations one image at a time, and ends as normalized float32.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, Literal, cast

import torch
from PIL import Image, ImageFilter
from torch import Tensor
from torch.utils.data import default_collate
from torchvision import transforms

from moco.benchmark.contender import Contender, Views
from moco.errors import UsageError
from moco.specs import Operation, ViewsSpec

INCLUDES = (
    "read and decode by Pillow, then for each view torchvision's crop, jitter and so on; "
    "ends in normalized float32, a batch"
)


class PillowBlur:
    """Gaussian blur of a random deviation."""

    def __init__(self, radius: tuple[float, float]) -> None:
        self.radius = radius

    def __call__(self, image: Image.Image) -> Image.Image:
        return image.filter(ImageFilter.GaussianBlur(random.uniform(*self.radius)))


def official(paths: Sequence[Path], views: ViewsSpec) -> Contender:
    """Return the official pipeline on these files.

    Raises:
        UsageError: The recipe has views that it cannot make.
    """
    makers = (official_view(views, 0), official_view(views, 1))

    def run(_number: int) -> Views:
        return batch_of(paths, lambda image: (makers[0](image), makers[1](image)))

    return Contender(
        "official", "official (Pillow, torchvision)", INCLUDES, len(paths), torch.float32, run
    )


def official_view(views: ViewsSpec, place: Literal[0, 1]) -> Callable[[Image.Image], Tensor]:
    """Return what makes the first (0) or second (1) view [3, S, S] of a picture.

    Raises:
        UsageError: The recipe is not for photographs.
    """
    if views.channels != 3 or views.deep:
        raise UsageError("the official pipeline takes photographs; choose a recipe of 3 channels")
    operations = [operation_of(name, views, place) for name in views.order]
    return cast(
        Callable[[Image.Image], Tensor],
        transforms.Compose(
            [*operations, transforms.ToTensor(), transforms.Normalize(views.mean, views.std)]
        ),
    )


def operation_of(name: Operation, views: ViewsSpec, place: Literal[0, 1]) -> Any:
    """Return torchvision's operation, as probable and strong as the recipe has it."""
    if name == "quarter_turns":
        raise UsageError("the official pipeline makes no quarter turns; choose another recipe")
    jitter, blur = transforms.ColorJitter(*views.jitter), PillowBlur(views.blur_radius)
    return {
        "crop": transforms.RandomResizedCrop(views.image_size, scale=views.crop_scale),
        "jitter": transforms.RandomApply([jitter], p=views.jitter_probability),
        "gray": transforms.RandomGrayscale(p=views.gray_probability),
        "blur": transforms.RandomApply([blur], p=views.blur_probabilities[place]),
        "solarize": transforms.RandomSolarize(128, p=views.solarize_probabilities[place]),
        "horizontal_flip": transforms.RandomHorizontalFlip(p=views.flip_probability),
        "vertical_flip": transforms.RandomVerticalFlip(p=views.flip_probability),
    }[name]


def batch_of(
    paths: Sequence[Path], make_views: Callable[[Image.Image], tuple[Tensor, Tensor]]
) -> Views:
    """Return the views of all files, put together as a loading process of torch does."""
    first, second = default_collate([make_views(open_picture(path)) for path in paths])
    return first, second


def open_picture(path: Path) -> Image.Image:
    """Return a file's picture in colours, as torchvision's image folders read it."""
    with open(path, "rb") as file, Image.open(file) as image:
        return image.convert("RGB")
