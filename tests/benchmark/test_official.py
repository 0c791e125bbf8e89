"""The official pipeline as a rival: whole, and the same operations as torchvision's own."""

from __future__ import annotations

import random
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image, ImageFilter
from torch import Tensor
from torchvision import transforms
from torchvision.datasets.folder import pil_loader

from moco.benchmark.official import official, official_view, open_picture
from moco.errors import UsageError
from moco.recipes import MOCO_V2, MOCO_V3_RESNET50


def v2_as_published() -> Callable[[Image.Image], Tensor]:
    def blur(image: Image.Image) -> Image.Image:
        return image.filter(ImageFilter.GaussianBlur(radius=random.uniform(0.1, 2.0)))

    return transforms.Compose(
        [
            transforms.RandomResizedCrop(224, scale=(0.2, 1.0)),
            transforms.RandomApply([transforms.ColorJitter(0.4, 0.4, 0.4, 0.1)], p=0.8),
            transforms.RandomGrayscale(p=0.2),
            transforms.RandomApply([blur], p=0.5),
            transforms.RandomHorizontalFlip(),
            transforms.ToTensor(),
            transforms.Normalize(mean=[0.485, 0.456, 0.406], std=[0.229, 0.224, 0.225]),
        ]
    )


@pytest.fixture
def noise() -> Image.Image:
    pixels = np.random.default_rng(0).integers(0, 256, (24, 32, 3), dtype=np.uint8)
    return Image.fromarray(pixels).resize((320, 240), Image.Resampling.BICUBIC)


def seeded(seed: int, make: Callable[[Image.Image], Tensor], image: Image.Image) -> Tensor:
    torch.manual_seed(seed)
    random.seed(seed)
    return make(image)


@pytest.mark.parametrize("place", [0, 1])
def test_is_torchvisions_on_the_papers_parameters(place: int, noise: Image.Image) -> None:
    ours, published = official_view(MOCO_V2.views, place), v2_as_published()  # type: ignore[arg-type]
    for seed in range(24):
        assert torch.equal(seeded(seed, ours, noise), seeded(seed, published, noise))


def test_each_view_has_its_own_probabilities(noise: Image.Image) -> None:
    views = replace(
        MOCO_V3_RESNET50.views,
        order=("crop", "solarize"),
        crop_scale=(1.0, 1.0),
        solarize_probabilities=(0.0, 1.0),
        image_size=240,
    )
    square = noise.crop((0, 0, 240, 240))
    plain, inverted = (official_view(views, place)(square) for place in (0, 1))  # type: ignore[arg-type]
    mean, std = (torch.tensor(values)[:, None, None] for values in (views.mean, views.std))
    before, after = (
        ((view * std + mean) * 255).round().int().permute(1, 2, 0).numpy()
        for view in (plain, inverted)
    )
    pixels = np.asarray(square)
    assert (before == pixels).all()
    assert (after == np.where(pixels >= 128, 255 - pixels, pixels)).all()


def test_reads_files_as_torchvisions_image_folders_do(photos: Path) -> None:
    for path in sorted(photos.rglob("*.png"))[:8]:
        picture, theirs = open_picture(path), pil_loader(str(path))
        assert picture.mode == "RGB"
        assert picture.tobytes() == theirs.tobytes()


def test_a_pass_makes_a_batch_of_two_views_of_every_file(photos: Path) -> None:
    paths = sorted(photos.rglob("*.png"))[:5]
    contender = official(paths, replace(MOCO_V2.views, image_size=32))
    first, second = contender.run(0)
    assert first.shape == second.shape == (5, 3, 32, 32)
    assert first.dtype == second.dtype == contender.result == torch.float32
    assert contender.images == 5
    assert not torch.equal(first, second)


def test_refuses_what_it_does_not_make() -> None:
    with pytest.raises(UsageError, match="quarter turns"):
        official_view(replace(MOCO_V2.views, order=("crop", "quarter_turns")), 0)
    deep = replace(MOCO_V2.views, deep=True)
    with pytest.raises(UsageError, match="photographs"):
        official_view(deep, 0)
