"""Random views of an image: torchvision's own operations, in the recipe's order.

Each operation works on a Pillow image, grey or RGB. A view is decided by torch's random state
alone; `batches.py` sets it from (seed, epoch, image, view).
"""

from __future__ import annotations

from collections.abc import Callable
from functools import lru_cache
from typing import Literal, cast

import torch
from PIL import Image, ImageFilter
from torch import Tensor
from torchvision import transforms

from moco.specs import Operation, ViewsSpec

ImageOperation = Callable[[Image.Image], Image.Image]


class RandomBlur:
    """Gaussian blur of random deviation (v2, as in SimCLR), applied with probability `p`."""

    def __init__(self, p: float, radius: tuple[float, float]) -> None:
        self.p, self.radius = p, radius

    def __call__(self, image: Image.Image) -> Image.Image:
        if torch.rand(()) >= self.p:
            return image
        low, high = self.radius
        radius = low + (high - low) * float(torch.rand(()))
        return image.filter(ImageFilter.GaussianBlur(radius))


class RandomQuarterTurns:
    """Turn by 0, 90, 180 or 270 degrees, for images without an up."""

    turns = (
        None,
        Image.Transpose.ROTATE_90,
        Image.Transpose.ROTATE_180,
        Image.Transpose.ROTATE_270,
    )

    def __call__(self, image: Image.Image) -> Image.Image:
        turn = self.turns[int(torch.randint(4, ()))]
        return image if turn is None else image.transpose(turn)


def build_view(spec: ViewsSpec, place: Literal[0, 1] = 0) -> ImageOperation:
    """Return the operations in order, from a decoded image to a view of `image_size` pixels.

    Args:
        place: which of the two views: v3 blurs and solarizes them unlike.
    """
    return cast(
        ImageOperation,
        transforms.Compose([build_operation(operation, spec, place) for operation in spec.order]),
    )


def build_operation(
    operation: Operation, spec: ViewsSpec, place: Literal[0, 1] = 0
) -> ImageOperation:
    """Return one operation with the recipe's strengths."""
    built: object
    match operation:
        case "crop":
            built = transforms.RandomResizedCrop(spec.image_size, scale=spec.crop_scale)
        case "jitter":
            brightness, contrast, saturation, hue = spec.jitter
            jitter = transforms.ColorJitter(brightness, contrast, saturation, hue)
            built = transforms.RandomApply([jitter], p=spec.jitter_probability)
        case "gray":
            built = transforms.RandomGrayscale(spec.gray_probability)
        case "blur":
            built = RandomBlur(spec.blur_probabilities[place], spec.blur_radius)
        case "solarize":
            built = transforms.RandomSolarize(128, spec.solarize_probabilities[place])
        case _:
            built = _build_turn(operation, spec)
    return cast(ImageOperation, built)


def _build_turn(
    operation: Literal["horizontal_flip", "vertical_flip", "quarter_turns"], spec: ViewsSpec
) -> object:
    match operation:
        case "horizontal_flip":
            return transforms.RandomHorizontalFlip(spec.flip_probability)
        case "vertical_flip":
            return transforms.RandomVerticalFlip(spec.flip_probability)
        case "quarter_turns":
            return RandomQuarterTurns()


def build_evaluation_view(spec: ViewsSpec) -> ImageOperation:
    """Return how evaluation looks at an image: short side resized, centre cut."""
    return cast(
        ImageOperation,
        transforms.Compose(
            [
                cut_far_ends,
                transforms.Resize(spec.evaluation_resize),
                transforms.CenterCrop(spec.evaluation_size),
            ]
        ),
    )


def cut_far_ends(image: Image.Image) -> Image.Image:
    """Return the middle of an image more than 16 times as long as wide.

    Its ends are nowhere near the centre that evaluation cuts, and resized they can fill the memory.
    """
    most = 16 * min(image.size)
    if max(image.size) <= most:
        return image
    width, height = (min(side, most) for side in image.size)
    left, top = (image.width - width) // 2, (image.height - height) // 2
    return image.crop((left, top, left + width, top + height))


def to_pixels(image: Image.Image) -> Tensor:
    """Return uint8 [3, H, W]; a grey image has three equal channels."""
    pixels = cast(Tensor, transforms.functional.pil_to_tensor(image))
    return pixels.expand(3, -1, -1)


def normalize(pixels: Tensor, spec: ViewsSpec) -> Tensor:
    """Return the network's input from uint8 [N, 3, H, W]: scaled to 0..1, then mean and std."""
    precision = torch.get_default_dtype()
    mean, std = (_on_device(values, pixels.device, precision) for values in (spec.mean, spec.std))
    return (pixels.to(precision) / 255 - mean) / std


@lru_cache(maxsize=16)
def _on_device(channels: tuple[float, ...], device: torch.device, precision: torch.dtype) -> Tensor:
    """Return [C, 1, 1]; copied to a device once, since a copy a step makes the step wait."""
    return torch.tensor(channels, device=device, dtype=precision)[:, None, None]
