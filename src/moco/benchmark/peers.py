"""Other libraries' pipelines for two views, where they are installed beside this one."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from importlib import import_module
from pathlib import Path
from typing import Any

import torch
from PIL import Image
from torch import Tensor

from moco.benchmark.contender import Contender, Views
from moco.benchmark.official import batch_of
from moco.specs import ViewsSpec

MakeViews = Callable[[Image.Image], tuple[Tensor, Tensor]]
OPENED = "read and decode by Pillow, as in the official pipeline, then"
LIGHTLY = {"crop", "jitter", "gray", "blur", "horizontal_flip"}
"""The operations that its transform has."""


class UnlikeRecipeError(Exception):
    """A library cannot make such views; its text is the reason."""


def peer_contenders(
    paths: Sequence[Path], views: ViewsSpec
) -> tuple[list[Contender], dict[str, str]]:
    """Return the libraries that can take part, and why others do not."""
    found: list[Contender] = []
    left_out: dict[str, str] = {}
    for name, title, build, what in (
        ("lightly", "lightly, MoCoV2Transform", lightly_views, "its flip before the jitter"),
        (
            "stable_pretraining",
            "stable-pretraining, MultiViewTransform",
            stable_pretraining_views,
            "the recipe's operations in order, from its own transforms",
        ),
    ):
        try:
            make_views = build(views)
        except ModuleNotFoundError as error:
            left_out[name] = f"not installed ({error.name} is missing)"
        except (ImportError, AttributeError, TypeError, RuntimeError) as error:
            left_out[name] = f"cannot be used: {error}"
        except UnlikeRecipeError as error:
            left_out[name] = str(error)
        else:
            includes = f"{OPENED} {what}; ends in normalized float32, a batch"
            found.append(_contender(name, title, includes, paths, make_views))
    return found, left_out


def _contender(
    name: str, title: str, includes: str, paths: Sequence[Path], make_views: MakeViews
) -> Contender:
    def run(_number: int) -> Views:
        return batch_of(paths, make_views)

    return Contender(name, title, includes, len(paths), torch.float32, run)


def lightly_views(views: ViewsSpec) -> MakeViews:
    """Return lightly's transform with the recipe's parameters.

    Raises:
        ImportError: It is not installed.
        UnlikeRecipeError: It has no parameter for something in the recipe.
    """
    library = import_module("lightly.transforms")
    more = set(views.order) - LIGHTLY
    if more or views.crop_scale[1] != 1 or len(set(views.blur_probabilities)) > 1:
        raise UnlikeRecipeError("its MoCoV2Transform cannot make the recipe's views")
    brightness, contrast, saturation, hue = views.jitter

    def probability(operation: str, value: float) -> float:
        return value if operation in views.order else 0.0

    transform: Any = library.MoCoV2Transform(
        input_size=views.image_size,
        cj_prob=probability("jitter", views.jitter_probability),
        cj_bright=brightness,
        cj_contrast=contrast,
        cj_sat=saturation,
        cj_hue=hue,
        min_scale=views.crop_scale[0],
        random_gray_scale=probability("gray", views.gray_probability),
        gaussian_blur=probability("blur", views.blur_probabilities[0]),
        sigmas=views.blur_radius,
        hf_prob=probability("horizontal_flip", views.flip_probability),
        normalize={"mean": list(views.mean), "std": list(views.std)},
    )

    def make_views(image: Image.Image) -> tuple[Tensor, Tensor]:
        first, second = transform(image)
        return first, second

    return make_views


def stable_pretraining_views(views: ViewsSpec) -> MakeViews:
    """Return stable-pretraining's multi-view transform with the recipe's operations in order.

    Raises:
        ImportError: It is not installed.
        UnlikeRecipeError: It has no operation for something in the recipe.
    """
    transforms = import_module("stable_pretraining.data.transforms")

    def view(place: int) -> Any:
        operations = [_stable_operation(transforms, name, views, place) for name in views.order]
        end = transforms.ToImage(mean=list(views.mean), std=list(views.std))
        return transforms.Compose(transforms.RGB(), *operations, end)

    transform: Any = transforms.MultiViewTransform([view(0), view(1)])

    def make_views(image: Image.Image) -> tuple[Tensor, Tensor]:
        first, second = transform({"image": image})["views"]
        return first["image"], second["image"]

    return make_views


def _stable_operation(transforms: Any, name: str, views: ViewsSpec, place: int) -> Any:
    side, flip = views.image_size, views.flip_probability
    blur = {"sigma": list(views.blur_radius), "p": views.blur_probabilities[place]}
    operations = {
        "crop": lambda: transforms.RandomResizedCrop((side, side), scale=views.crop_scale),
        "jitter": lambda: transforms.ColorJitter(*views.jitter, p=views.jitter_probability),
        "gray": lambda: transforms.RandomGrayscale(p=views.gray_probability),
        "blur": lambda: transforms.PILGaussianBlur(**blur),
        "horizontal_flip": lambda: transforms.RandomHorizontalFlip(p=flip),
        "vertical_flip": lambda: transforms.RandomVerticalFlip(p=flip),
    }
    if name not in operations:
        raise UnlikeRecipeError(f"it has no {name} as the recipe needs it")
    return operations[name]()
