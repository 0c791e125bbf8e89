from __future__ import annotations

from dataclasses import replace
from itertools import permutations
from typing import Any, get_args

import numpy as np
import pytest
import torch
from PIL import Image, ImageFilter, ImageOps
from torchvision import transforms
from torchvision.transforms import functional as tf

from moco.data.views import (
    RandomBlur,
    RandomQuarterTurns,
    build_evaluation_view,
    build_operation,
    build_view,
    cut_far_ends,
    normalize,
    to_pixels,
)
from moco.recipes import (
    CIFAR10_RESNET18,
    MOCO_V1,
    MOCO_V2,
    MOCO_V3_RESNET50,
    MOCO_V3_RESNET50_1000,
    MOCO_V3_VIT_BASE,
    MOCO_V3_VIT_SMALL,
)
from moco.specs import Operation, ViewsSpec

DRAW = np.random.default_rng(0)
COLOUR = Image.fromarray(DRAW.integers(0, 256, (40, 52, 3), dtype=np.uint8)).resize((120, 90))
GREY = COLOUR.convert("L")
SMALL = replace(MOCO_V1.views, image_size=24)
OPERATIONS = get_args(Operation)


def described(operation: Any) -> tuple[Any, ...]:
    """Return an operation's kind and strengths, as ALGORITHM.md lists them."""
    match operation:
        case transforms.RandomResizedCrop():
            assert operation.interpolation is transforms.InterpolationMode.BILINEAR
            assert operation.ratio == (3 / 4, 4 / 3)
            return "crop", operation.size, tuple(operation.scale)
        case transforms.RandomApply():
            (jitter,) = operation.transforms
            ranges = jitter.brightness, jitter.contrast, jitter.saturation, jitter.hue
            return "jitter", operation.p, tuple(round(high - centre(high), 6) for _, high in ranges)
        case transforms.RandomHorizontalFlip():
            return "flip", operation.p
        case RandomBlur():
            return "blur", operation.p, operation.radius
        case transforms.RandomSolarize():
            return "solarize", operation.threshold, operation.p
    gray = getattr(operation, "on_colour", operation)
    assert isinstance(gray, transforms.RandomGrayscale)
    return "gray", gray.p


def centre(high: float) -> float:
    return 1.0 if high > 1 else 0.0  # hue moves around 0, the others around 1


CROP = ("crop", (224, 224), (0.2, 1.0))
ORDERS = {  # ALGORITHM.md, sections 7 and 4
    MOCO_V1.name: [CROP, ("gray", 0.2), ("jitter", 1.0, (0.4, 0.4, 0.4, 0.4)), ("flip", 0.5)],
    MOCO_V2.name: [
        CROP,
        ("jitter", 0.8, (0.4, 0.4, 0.4, 0.1)),
        ("gray", 0.2),
        ("blur", 0.5, (0.1, 2.0)),
        ("flip", 0.5),
    ],
    CIFAR10_RESNET18.name: [
        ("crop", (32, 32), (0.08, 1.0)),
        ("flip", 0.5),
        ("jitter", 0.8, (0.4, 0.4, 0.4, 0.1)),
        ("gray", 0.2),
    ],
}


V3_RECIPES = [MOCO_V3_RESNET50, MOCO_V3_RESNET50_1000, MOCO_V3_VIT_SMALL, MOCO_V3_VIT_BASE]


@pytest.mark.parametrize("place", [0, 1])
@pytest.mark.parametrize("recipe", [MOCO_V1, MOCO_V2, CIFAR10_RESNET18], ids=lambda r: r.name)
def test_operations_come_in_the_papers_order(recipe: Any, place: Any) -> None:
    built: Any = build_view(recipe.views, place)
    assert [described(operation) for operation in built.transforms] == ORDERS[recipe.name]


@pytest.mark.parametrize("recipe", V3_RECIPES, ids=lambda r: r.name)
def test_v3_has_two_pipelines(recipe: Any) -> None:
    smallest = 0.08 if "vit" in recipe.name else 0.2
    for place, blurred, solarized in ((0, 1.0, 0.0), (1, 0.1, 0.2)):
        built: Any = build_view(recipe.views, place)
        assert [described(operation) for operation in built.transforms] == [
            ("crop", (224, 224), (smallest, 1.0)),
            ("jitter", 0.8, (0.4, 0.4, 0.2, 0.1)),
            ("gray", 0.2),
            ("blur", blurred, (0.1, 2.0)),
            ("solarize", 128, solarized),
            ("flip", 0.5),
        ]


def test_a_solarized_view_is_pillows() -> None:
    operate = build_operation("solarize", replace(SMALL, solarize_probabilities=(0.0, 1.0)), 1)
    assert np.array_equal(np.asarray(operate(COLOUR)), np.asarray(ImageOps.solarize(COLOUR)))
    first = build_operation("solarize", replace(SMALL, solarize_probabilities=(0.0, 1.0)), 0)
    assert np.array_equal(np.asarray(first(COLOUR)), np.asarray(COLOUR))


def v1_as_published() -> transforms.Compose:
    return transforms.Compose(
        [
            transforms.RandomResizedCrop(224, scale=(0.2, 1.0)),
            transforms.RandomGrayscale(p=0.2),
            transforms.RandomApply([transforms.ColorJitter(0.4, 0.4, 0.4, 0.4)], p=1.0),
            transforms.RandomHorizontalFlip(),
            transforms.ToTensor(),
            transforms.Normalize(mean=[0.485, 0.456, 0.406], std=[0.229, 0.224, 0.225]),
        ]
    )


def cifar_as_published() -> transforms.Compose:
    return transforms.Compose(
        [
            transforms.RandomResizedCrop(32),
            transforms.RandomHorizontalFlip(p=0.5),
            transforms.RandomApply([transforms.ColorJitter(0.4, 0.4, 0.4, 0.1)], p=0.8),
            transforms.RandomGrayscale(p=0.2),
            transforms.ToTensor(),
            transforms.Normalize([0.4914, 0.4822, 0.4465], [0.2023, 0.1994, 0.2010]),
        ]
    )


@pytest.mark.parametrize(
    ("views", "published", "seeds"),
    [
        (MOCO_V1.views, v1_as_published(), 12),
        (CIFAR10_RESNET18.views, cifar_as_published(), 60),
    ],
    ids=["v1", "cifar"],
)
def test_values_are_those_of_the_published_transforms(
    views: ViewsSpec, published: transforms.Compose, seeds: int
) -> None:
    ours = build_view(views)
    for seed in range(seeds):
        torch.manual_seed(seed)
        expected = published(COLOUR)
        torch.manual_seed(seed)
        found = normalize(to_pixels(ours(COLOUR))[None], views)[0]
        torch.testing.assert_close(found, expected, rtol=0, atol=1e-6)


def test_v1_jitters_every_view() -> None:
    view = build_operation("jitter", MOCO_V1.views)
    for seed in range(50):
        torch.manual_seed(seed)
        assert np.asarray(view(COLOUR)).tobytes() != np.asarray(COLOUR).tobytes()


@pytest.mark.parametrize("p", [0.0, 0.5, 1.0])
def test_blur_happens_as_often_as_said_with_radii_over_the_whole_range(
    p: float, monkeypatch: pytest.MonkeyPatch
) -> None:
    radii: list[float] = []
    plain = ImageFilter.GaussianBlur

    def spy(radius: float) -> ImageFilter.GaussianBlur:
        radii.append(radius)
        return plain(radius)

    monkeypatch.setattr(ImageFilter, "GaussianBlur", spy)
    views = replace(MOCO_V2.views, blur_probabilities=(p, p))
    blur, dot = build_operation("blur", views), Image.new("L", (8, 8))
    torch.manual_seed(0)
    for _ in range(1000):
        blur(dot)
    assert abs(len(radii) - 1000 * p) <= 60 * (0 < p < 1)  # 3.8 deviations
    if p:
        assert 0.1 <= min(radii) < 0.15
        assert 1.95 < max(radii) <= 2.0
        assert np.mean(radii) == pytest.approx(1.05, abs=0.1)


def test_a_blurred_view_is_pillows_gaussian() -> None:
    blur = build_operation(
        "blur", replace(SMALL, blur_probabilities=(1.0, 1.0), blur_radius=(1.5, 1.5))
    )
    expected = COLOUR.filter(ImageFilter.GaussianBlur(1.5))
    assert np.array_equal(np.asarray(blur(COLOUR)), np.asarray(expected))


@pytest.mark.parametrize(
    ("operation", "rate"), [("gray", 0.2), ("horizontal_flip", 0.5), ("jitter", 0.8)]
)
def test_an_operation_happens_as_often_as_its_probability_says(
    operation: Operation, rate: float
) -> None:
    operate = build_operation(operation, MOCO_V2.views)
    image = Image.fromarray(DRAW.integers(0, 256, (4, 5, 3), dtype=np.uint8))
    torch.manual_seed(0)
    changed = sum(operate(image).tobytes() != image.tobytes() for _ in range(600))
    assert changed / 600 == pytest.approx(rate, abs=0.065)


@pytest.mark.parametrize("operation", OPERATIONS)
def test_every_operation_has_its_part_in_a_view(operation: Operation) -> None:
    sure = replace(
        SMALL,
        gray_probability=1.0,
        blur_probabilities=(1.0, 1.0),
        solarize_probabilities=(1.0, 1.0),
        flip_probability=1.0,
        blur_radius=(2.0, 2.0),
        image_size=30,
    )
    operate = build_operation(operation, sure)
    torch.manual_seed(1)
    assert operate(COLOUR).tobytes() != COLOUR.tobytes()


def test_flips_and_quarter_turns() -> None:
    sure = replace(SMALL, flip_probability=1.0)
    array = np.asarray(COLOUR)
    assert np.array_equal(build_operation("horizontal_flip", sure)(COLOUR), array[:, ::-1])
    assert np.array_equal(build_operation("vertical_flip", sure)(COLOUR), array[::-1])
    torch.manual_seed(0)
    turned = [np.asarray(RandomQuarterTurns()(COLOUR)) for _ in range(200)]
    counts = [
        sum(np.array_equal(one, np.rot90(array, quarter)) for one in turned) for quarter in range(4)
    ]
    assert sum(counts) == 200
    assert min(counts) > 25


def test_grey_images_give_the_pixels_of_their_colour_copies_in_every_order() -> None:
    views = replace(SMALL, jitter_probability=0.7, jitter=(0.4, 0.4, 0.4, 0.1), image_size=12)
    views = replace(views, solarize_probabilities=(0.5, 0.5))
    small_grey = GREY.resize((30, 24))
    rest = [operation for operation in OPERATIONS if operation != "crop"]
    differ = []
    for number, order in enumerate(permutations(rest)):
        if number % 49:  # some of the 5040 orders, each with its own seed
            continue
        view = build_view(replace(views, order=("crop", *order)))
        torch.manual_seed(number)
        grey = view(small_grey)
        torch.manual_seed(number)
        colour = view(small_grey.convert("RGB"))
        assert grey.mode == "L"
        if not torch.equal(to_pixels(grey), to_pixels(colour)):
            differ.append(order)
    assert not differ, f"{len(differ)} orders differ, such as {differ[0]}"


@pytest.mark.parametrize("operation", OPERATIONS)
def test_each_operation_alone_gives_grey_pixels_the_same(operation: Operation) -> None:
    operate = build_operation(
        operation, replace(SMALL, blur_probabilities=(1.0, 1.0), solarize_probabilities=(1.0, 1.0))
    )
    for seed in range(10):
        torch.manual_seed(seed)
        grey = operate(GREY)
        torch.manual_seed(seed)
        assert torch.equal(to_pixels(grey), to_pixels(operate(GREY.convert("RGB"))))


def test_the_evaluation_view_is_resize_and_centre_crop() -> None:
    views = replace(SMALL, evaluation_resize=40, evaluation_size=32)
    for image in (COLOUR, GREY, COLOUR.rotate(90, expand=True)):
        expected = tf.center_crop(tf.resize(image, 40), [32, 32])
        found = build_evaluation_view(views)(image)
        assert found.size == (32, 32)
        assert found.tobytes() == expected.tobytes()


@pytest.mark.parametrize("size", [(200_000, 2), (3, 100_000), (1, 1_000_000)])
def test_evaluation_of_a_thin_image_looks_at_its_middle_and_needs_little_memory(
    size: tuple[int, int],
) -> None:
    image = Image.new("L", size)
    middle = tuple(side // 2 for side in size)
    image.putpixel(middle, 255)
    seen = build_evaluation_view(MOCO_V2.views)(image)
    assert seen.size == (224, 224)
    assert np.asarray(seen).max() > 100


def test_ordinary_images_keep_their_ends() -> None:
    image = Image.new("L", (320, 20))
    assert cut_far_ends(image) is image


def test_recipes_evaluate_as_published() -> None:
    imagenet: Any = build_evaluation_view(MOCO_V2.views)
    cifar: Any = build_evaluation_view(CIFAR10_RESNET18.views)
    assert [step.size for step in imagenet.transforms[1:]] == [256, (224, 224)]
    image = COLOUR.resize((32, 32))
    assert cifar(image).tobytes() == image.tobytes()  # CIFAR's images are seen as they are


def test_pixels_and_normalized_input_are_those_of_to_tensor_and_normalize() -> None:
    for image in (COLOUR, GREY):
        found = to_pixels(image)
        assert found.dtype == torch.uint8
        assert found.shape == (3, 90, 120)
        expected = transforms.Normalize(MOCO_V1.views.mean, MOCO_V1.views.std)(
            transforms.ToTensor()(image.convert("RGB"))
        )
        batch = normalize(torch.stack([found, found]), MOCO_V1.views)
        torch.testing.assert_close(batch, torch.stack([expected] * 2), rtol=0, atol=1e-6)


def test_images_smaller_than_a_view_and_of_one_pixel_give_full_views() -> None:
    for order in (MOCO_V1.views.order, MOCO_V2.views.order):
        view = build_view(replace(SMALL, order=order))
        for size in ((1, 1), (2, 300), (300, 2)):
            for mode in ("L", "RGB"):
                assert view(Image.new(mode, size)).size == (24, 24)
