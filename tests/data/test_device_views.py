from __future__ import annotations

from collections.abc import Callable
from dataclasses import fields, replace
from itertools import permutations
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image, ImageFilter, ImageOps
from torch import Tensor
from torchvision.transforms import functional as tf
from torchvision.transforms import v2

from moco.data import colour, device_views
from moco.data.blur import blur, blur_matrices, box_radius
from moco.data.changes import Changes, draw_changes
from moco.data.device_views import apply_changes
from moco.recipes import CIFAR10_RESNET18, MOCO_V1, MOCO_V2, MOCO_V3_RESNET50
from moco.specs import ViewsSpec

RANDOM = np.random.default_rng(0)
MANY = 1000
EVERYTHING = replace(
    MOCO_V2.views,
    order=(
        *("crop", "jitter", "gray", "blur", "solarize"),
        *("horizontal_flip", "vertical_flip", "quarter_turns"),
    ),
    solarize_probabilities=(0.2, 0.2),
)


def noise(count: int, side: int, channels: int = 3) -> Tensor:
    pixels = RANDOM.integers(0, 256, (count, channels, side, side), dtype=np.uint8)
    return torch.from_numpy(pixels)


def smooth(count: int, side: int, channels: int = 3) -> Tensor:
    small = noise(count, 4, channels).float()
    return tf.resize(small, [side, side], antialias=True).round().to(torch.uint8)


def half_and_half(side: int = 24) -> Tensor:
    return torch.cat([noise(MANY // 2, side), smooth(MANY // 2, side)])


def to_pillow(image: Tensor) -> Image.Image:
    return Image.fromarray(image.permute(1, 2, 0).numpy())


def from_pillow(image: Image.Image) -> Tensor:
    return torch.from_numpy(np.array(image)).permute(2, 0, 1)


def changes(count: int, channels: int = 0, **changed: Any) -> Changes:
    """Return changes that do nothing but what is named."""
    nothing: dict[str, Any] = {
        "jittered": np.zeros(count, bool),
        "jitter_order": np.tile(np.arange(4), (count, 1)),
        "jitter_factors": np.tile([1.0, 1.0, 1.0, 0.0], (count, 1)),
        "gray": np.zeros(count, bool),
        "blur_radius": np.zeros(count),
        "solarized": np.zeros(count, bool),
        "horizontal_flip": np.zeros(count, bool),
        "vertical_flip": np.zeros(count, bool),
        "quarter_turns": np.zeros(count, np.int64),
        "channel_brightness": np.ones((count, channels)),
        "channel_contrast": np.ones((count, channels)),
    }
    return Changes(**(nothing | changed))


def apart(found: Tensor, expected: Tensor) -> tuple[float, float]:
    """Return the largest and the mean difference in levels."""
    difference = (found.double() - expected.double()).abs()
    return float(difference.max()), float(difference.mean())


# Each operation against torchvision on floating-point tensors, and against Pillow.

Operation = Callable[[Tensor, Tensor], None]
JITTERS: dict[str, tuple[Operation, Any, Any, float]] = {
    # name: ours, its figures, torchvision's, bound against it in levels
    "brightness": (
        *(colour.scale_brightness, lambda factors: factors[:, None]),
        *(tf.adjust_brightness, 1e-3),
    ),
    "contrast": (colour.scale_contrast, colour.contrast_figures, tf.adjust_contrast, 0.03),
    "saturation": (
        *(colour.scale_saturation, colour.saturation_figures),
        *(tf.adjust_saturation, 0.03),
    ),
    "hue": (colour.turn_hue, colour.hue_figures, tf.adjust_hue, 0.01),
}
# 0.03: torchvision's grey of tensors weighs red 0.2989 where Pillow, and so we, have 0.299


def drawn_factors(name: str, count: int) -> Any:
    if name == "hue":
        factors = RANDOM.uniform(-0.5, 0.5, count)
        factors[:9] = [-0.5, 0.5, 0.0, 1 / 6, -1 / 6, 1 / 3, -1 / 3, -1e-18, 0.25]
    else:
        factors = RANDOM.uniform(0, 2, count)
        factors[:3] = [0, 1, 2]
    return factors


@pytest.mark.parametrize("name", JITTERS)
def test_a_jitter_is_torchvisions_of_floating_point_values(name: str) -> None:
    operate, figures_of, reference, bound = JITTERS[name]
    pixels = half_and_half(12)
    factors = drawn_factors(name, MANY)
    found = pixels.float()
    operate(found, torch.from_numpy(figures_of(factors)).float())
    expected = torch.stack(
        [
            255 * reference(image / 255, float(factor))
            for image, factor in zip(pixels.float(), factors, strict=True)
        ]
    )
    assert apart(found, expected)[0] < bound


PILLOW_BOUNDS = {
    # name: largest and mean difference in levels, for unrounded values against Pillow's bytes
    "brightness": (1.0, 0.5),
    "contrast": (1.6, 0.5),
    "saturation": (1.6, 0.5),
    "hue": (20, 2.0),
}


@pytest.mark.parametrize("name", JITTERS)
def test_a_jitter_is_near_pillows(name: str) -> None:
    operate, figures_of, reference, _ = JITTERS[name]
    pixels = half_and_half()
    factors = drawn_factors(name, MANY)
    found = pixels.float()
    operate(found, torch.from_numpy(figures_of(factors)).float())
    expected = torch.stack(
        [
            from_pillow(reference(to_pillow(image), float(factor)))
            for image, factor in zip(pixels, factors, strict=True)
        ]
    )
    largest, mean = apart(found, expected)
    assert largest <= PILLOW_BOUNDS[name][0]
    assert mean <= PILLOW_BOUNDS[name][1]


def test_grey_is_pillows() -> None:
    pixels = half_and_half()
    found = pixels.float()
    colour.turn_gray(found)
    expected = torch.stack(
        [from_pillow(to_pillow(image).convert("L").convert("RGB")) for image in pixels]
    )
    assert apart(found, expected)[0] < 0.502
    assert apart(found.round(), expected)[1] < 1e-3
    tensors = torch.stack([255 * tf.rgb_to_grayscale(image / 255, 3) for image in pixels.float()])
    assert apart(found, tensors)[0] < 0.03


def test_solarized_levels_are_pillows() -> None:
    pixels = half_and_half()
    found = pixels.float()
    colour.solarize(found)
    expected = torch.stack([from_pillow(ImageOps.solarize(to_pillow(image))) for image in pixels])
    assert torch.equal(found, expected.float())
    float_expected = 255 * v2.functional.solarize(pixels.float() / 255, 128 / 255)
    assert apart(found, float_expected)[0] < 1e-3


def boxes_by_hand(image: Tensor, deviation: float) -> Tensor:
    """Return a [C, S, S] image averaged three times along each side, edge pixels repeated."""
    radius = float(box_radius(np.array(deviation)))
    reach = int(radius) + 1
    weights = np.clip(radius + 1 - abs(np.arange(-reach, reach + 1)), 0, 1) / (2 * radius + 1)
    values = image.double().numpy()
    for axis in (1, 2):
        for _ in range(3):
            around = [(reach, reach) if axis == side else (0, 0) for side in range(3)]
            padded = np.pad(values, around, mode="edge")
            windows = np.lib.stride_tricks.sliding_window_view(padded, len(weights), axis)
            values = windows @ weights
    return torch.from_numpy(values)


def blurred(pixels: Tensor, deviations: Any, most: float) -> Tensor:
    found = pixels.float()
    radii = torch.from_numpy(box_radius(deviations)).float()
    widest = float(box_radius(np.array(most)))
    blur(found, blur_matrices(radii, found.shape[-1], widest))
    return found


@pytest.mark.parametrize(("low", "high"), [(0.1, 2.0), (0.5, 9.0), (30.0, 60.0)])
@pytest.mark.parametrize("side", [8, 9, 33, 44, 45, 64, 71, 100])
def test_blur_is_three_boxes_along_each_side(side: int, low: float, high: float) -> None:
    pixels = noise(6, side, 2)
    deviations = np.append(RANDOM.uniform(low, high, 5), high)
    expected = torch.stack([boxes_by_hand(*each) for each in zip(pixels, deviations, strict=True)])
    assert apart(blurred(pixels, deviations, high), expected)[0] < 1e-3


@pytest.mark.parametrize("deviation", [0.1, 0.7, 1.4, 1.5, 2.0, 3.3, 10.0])
def test_box_radii_are_pillows(deviation: float) -> None:
    dot = np.zeros((1, 201, 3), np.uint8)
    dot[0, 100] = 255
    image = Image.fromarray(dot)
    gaussian = np.asarray(image.filter(ImageFilter.GaussianBlur((deviation, 0)))).astype(int)
    radius = float(box_radius(np.array(deviation)))
    for _ in range(3):
        image = image.filter(ImageFilter.BoxBlur((radius, 0)))
    assert abs(gaussian - np.asarray(image)).max() <= 1


def test_blur_is_near_pillows_and_no_further_from_the_gaussian_than_that_is() -> None:
    pixels = half_and_half()
    deviations = RANDOM.uniform(0.1, 2.0, MANY)
    found = blurred(pixels, deviations, 2.0)
    pillows = torch.stack(
        [
            from_pillow(to_pillow(image).filter(ImageFilter.GaussianBlur(float(deviation))))
            for image, deviation in zip(pixels, deviations, strict=True)
        ]
    )
    largest, mean = apart(found, pillows)
    assert largest < 3.5  # Pillow rounds six times
    assert mean < 0.5
    some = range(500, 1000, 5)  # smooth ones
    inside = (slice(None), slice(None), slice(6, -6), slice(6, -6))
    gaussian = torch.stack(
        [
            tf.gaussian_blur(pixels[row].float(), [23, 23], [float(deviations[row])] * 2)
            for row in some
        ]
    )[inside]
    ours, theirs = found[list(some)][inside], pillows[list(some)][inside]
    assert apart(ours, gaussian)[0] < 3
    assert apart(ours, gaussian)[1] < 0.2 < apart(theirs, gaussian)[1]


# Whole views.


def what_happens(drawn: Changes, row: int, spec: ViewsSpec) -> list[tuple[str, float]]:
    """Return the operations on one view, in order, each with its factor."""
    happens = {
        "gray": drawn.gray,
        "blur": drawn.blur_radius,
        "solarize": drawn.solarized,
        "horizontal_flip": drawn.horizontal_flip,
        "vertical_flip": drawn.vertical_flip,
        "quarter_turns": drawn.quarter_turns,
    }
    found: list[tuple[str, float]] = []
    for operation in spec.order[1:]:
        if operation == "jitter" and drawn.jittered[row]:
            order, factors = drawn.jitter_order[row], drawn.jitter_factors[row]
            found += [(list(JITTERS)[which], float(factors[which])) for which in order]
        elif operation != "jitter" and happens[operation][row]:
            found.append((operation, float(happens[operation][row])))
    return found


ON_TENSORS: dict[str, Callable[[Any, float], Any]] = {
    **{name: reference for name, (_, _, reference, _) in JITTERS.items()},
    "gray": lambda view, _: tf.rgb_to_grayscale(view, 3),
    "blur": lambda view, deviation: boxes_by_hand(view, deviation).float(),
    "solarize": lambda view, _: v2.functional.solarize(view, 128 / 255),
    "horizontal_flip": lambda view, _: tf.hflip(view),
    "vertical_flip": lambda view, _: tf.vflip(view),
    "quarter_turns": lambda view, turns: torch.rot90(view, int(turns), (1, 2)),
}
ON_PILLOW_IMAGES: dict[str, Callable[[Any, float], Any]] = {
    **ON_TENSORS,
    "gray": lambda image, _: image.convert("L").convert("RGB"),
    "blur": lambda image, deviation: image.filter(ImageFilter.GaussianBlur(deviation)),
    "solarize": lambda image, _: ImageOps.solarize(image),
}


ORDERS = list(permutations(EVERYTHING.order[1:]))
SPECS = {
    "v1": MOCO_V1.views,
    "v2": MOCO_V2.views,
    "v3": MOCO_V3_RESNET50.views,
    "cifar": CIFAR10_RESNET18.views,
    "strong": replace(EVERYTHING, jitter=(2.0, 3.0, 4.0, 0.5), blur_radius=(0.1, 6.0)),
    **{
        f"order {place}": replace(EVERYTHING, order=("crop", *ORDERS[place]))
        for place in range(100, len(ORDERS), 1000)
    },
}


@pytest.mark.parametrize("name", SPECS)
def test_views_are_torchvisions_operations_one_after_the_other(name: str) -> None:
    spec = SPECS[name]
    crops = torch.cat([noise(60, 24), smooth(60, 24)])
    drawn = draw_changes(spec, 1, 0, np.arange(120), 1)
    found = apply_changes(crops, drawn, spec)
    expected = []
    for row, view in enumerate(crops / 255):
        for operation, factor in what_happens(drawn, row, spec):
            view = ON_TENSORS[operation](view, factor)
        expected.append(255 * view)
    assert found.dtype == torch.uint8
    assert found.is_contiguous()
    difference = (found - torch.stack(expected)).abs()
    within = 1 if name == "strong" else 0.56  # it makes more of the other weight of red
    assert difference.mean() < 0.25
    if "solarize" in spec.order:  # 128 becomes 127, just below stays, so these come out 1 apart
        assert (difference > within).float().mean() < 1e-4
        within += 1
    assert difference.max() < within


@pytest.mark.parametrize("name", ["v1", "v2", "v3", "cifar"])
def test_views_are_near_pillows(name: str) -> None:
    spec = SPECS[name]
    crops = torch.cat([noise(100, 24), smooth(100, 24)])
    drawn = draw_changes(spec, 2, 0, np.arange(200), 0)
    found = apply_changes(crops, drawn, spec)
    expected = []
    for row, crop in enumerate(crops):
        image = to_pillow(crop)
        for operation, factor in what_happens(drawn, row, spec):
            image = ON_PILLOW_IMAGES[operation](image, factor)
        expected.append(from_pillow(image))
    difference = (found.float() - torch.stack(expected).float()).abs()
    assert difference.mean() < 1.7
    assert difference.flatten().quantile(0.99) <= 9


def test_views_without_changes_are_their_crops_to_the_bit() -> None:
    crops = noise(5, 30)
    before = crops.clone()
    assert torch.equal(apply_changes(crops, changes(5), EVERYTHING), crops)
    drawn = draw_changes(EVERYTHING, 0, 0, np.arange(5), 0)
    apply_changes(crops, drawn, EVERYTHING)
    assert torch.equal(crops, before)  # the crops themselves are left alone
    steady = replace(MOCO_V2.views, jitter=(0, 0, 0, 0), order=("crop", "jitter"))
    drawn = draw_changes(steady, 0, 0, np.arange(5), 0)
    assert drawn.jittered.any()
    assert torch.equal(apply_changes(crops, drawn, steady), crops)


def test_grey_crops_stay_grey() -> None:
    crops = noise(40, 24, 1).expand(-1, 3, -1, -1)
    drawn = draw_changes(EVERYTHING, 0, 0, np.arange(40), 1)
    views = apply_changes(crops, drawn, EVERYTHING).int()
    assert (views.amax(1) - views.amin(1)).max() <= 1


def test_turns_and_flips_come_in_order() -> None:
    crops = noise(64, 9)
    drawn = changes(
        64,
        horizontal_flip=RANDOM.random(64) < 0.5,
        vertical_flip=RANDOM.random(64) < 0.5,
        quarter_turns=RANDOM.integers(0, 4, 64),
    )
    flips: dict[str, Callable[[Any, int], Any]] = {
        "horizontal_flip": lambda image, row: (
            image[..., ::-1] if drawn.horizontal_flip[row] else image
        ),
        "vertical_flip": lambda image, row: image[:, ::-1] if drawn.vertical_flip[row] else image,
        "quarter_turns": lambda image, row: np.rot90(image, drawn.quarter_turns[row], (1, 2)),
    }
    for order in permutations(flips):
        spec: Any = replace(EVERYTHING, order=("crop", *order))
        views = apply_changes(crops, drawn, spec)
        for row in range(64):
            image = crops[row].numpy()
            for name in order:
                image = flips[name](image, row)
            assert np.array_equal(views[row], image)


MEASURED = replace(EVERYTHING, channels=5, mean=(0.5,) * 5, std=(0.1, 0.2, 0.3, 0.4, 0.5))
DEEP = replace(MEASURED, deep=True)


@pytest.mark.parametrize("side", [8, 24, 33, 64])
@pytest.mark.parametrize("spec", [EVERYTHING, MEASURED, DEEP], ids=["photo", "uint8", "deep"])
def test_a_view_is_the_same_to_the_bit_in_any_batch(
    side: int, spec: ViewsSpec, monkeypatch: pytest.MonkeyPatch
) -> None:
    crops = noise(50, side, spec.channels)
    crops = crops.float() / 255 if spec.deep else crops
    drawn = draw_changes(spec, 4, 0, np.arange(50), 0)
    together = apply_changes(crops, drawn, spec)
    by_pixel = crops.contiguous(memory_format=torch.channels_last)
    assert torch.equal(apply_changes(by_pixel, drawn, spec), together)
    for rows in (np.arange(25, 50), np.arange(0, 50, 3), np.arange(50)[::-1].copy()):
        assert torch.equal(apply_changes(crops[rows], drawn.rows(rows), spec), together[rows])
    for row in range(50):
        alone = apply_changes(crops[row : row + 1], drawn.rows(np.array([row])), spec)
        assert torch.equal(alone[0], together[row])
    monkeypatch.setattr(device_views, "CACHED_VALUES", 7 * crops[0].numel())
    assert torch.equal(apply_changes(crops, drawn, spec), together)


def test_no_images_are_no_views() -> None:
    crops = noise(0, 24)
    assert apply_changes(crops, changes(0), EVERYTHING).shape == (0, 3, 24, 24)


@pytest.mark.parametrize(
    ("crops", "spec"),
    [
        (noise(4, 8).float(), EVERYTHING),
        (noise(3, 8), EVERYTHING),
        (noise(4, 8, 4), EVERYTHING),
        (noise(4, 8, 5), DEEP),
    ],
)
def test_crops_that_are_not_what_the_spec_says_are_refused(crops: Tensor, spec: ViewsSpec) -> None:
    with pytest.raises(ValueError, match="crops must be"):
        apply_changes(crops, changes(4), spec)


# Measurements: images of other channels than three, or of more than 8 bits.


def test_channels_of_measurements_are_jittered_each_for_itself() -> None:
    crops = RANDOM.normal(0.4, 0.2, (20, 5, 16, 16)).astype(np.float32)
    brightness, contrast = RANDOM.uniform(0, 2, (2, 20, 5))
    jittered = RANDOM.random(20) < 0.5
    drawn = changes(20, channel_brightness=brightness, channel_contrast=contrast, jittered=jittered)
    means = crops.mean((2, 3), keepdims=True)
    moved = means + contrast[..., None, None] * (crops - means)
    moved += (brightness - 1)[..., None, None] * np.array(DEEP.std)[:, None, None]
    moved[~jittered] = crops[~jittered]
    expected = (moved - 0.5) / np.array(DEEP.std)[:, None, None]
    found = apply_changes(torch.from_numpy(crops), drawn, DEEP)
    assert found.dtype == torch.float32
    np.testing.assert_allclose(found.numpy(), expected, rtol=0, atol=1e-4)


def test_measurements_do_not_depend_on_the_units_of_their_values() -> None:
    crops = noise(30, 24, 5).float() / 255
    drawn = draw_changes(DEEP, 0, 0, np.arange(30), 0)
    views = apply_changes(crops, drawn, DEEP)
    factors = np.array([1000.0, 0.001, 3.0, 1.0, 50.0])
    offsets = np.array([-5000.0, 0.01, 0.0, 100.0, 7.0])
    mean, std = np.array(DEEP.mean) * factors + offsets, np.array(DEEP.std) * factors
    other = replace(DEEP, mean=tuple(mean), std=tuple(std))
    scaled = crops * torch.tensor(factors)[:, None, None] + torch.tensor(offsets)[:, None, None]
    found = apply_changes(scaled.float(), drawn, other)
    torch.testing.assert_close(found, views, rtol=0, atol=2e-3)


def test_measurements_of_8_bits_are_rounded_and_kept_within_them() -> None:
    crops = noise(100, 16, 5)
    drawn = draw_changes(MEASURED, 0, 0, np.arange(100), 0)
    views = apply_changes(crops, drawn, MEASURED)
    assert views.dtype == torch.uint8
    unrounded = apply_changes(crops.float() / 255, drawn, DEEP)
    std = torch.tensor(MEASURED.std)[:, None, None]
    expected = ((unrounded * std + 0.5) * 255).clamp(0, 255)
    assert apart(views, expected)[0] < 0.502
    assert ((unrounded * std + 0.5).amax((1, 2, 3)) > 1).any()


def test_measurements_have_no_colours() -> None:
    crops = noise(6, 16, 5)
    colourful = changes(6, 5, gray=np.ones(6, bool), solarized=np.ones(6, bool))
    assert torch.equal(apply_changes(crops, colourful, MEASURED), crops)
    deep_photographs = replace(EVERYTHING, deep=True, mean=(0.0,) * 3, std=(1.0,) * 3)
    crops = noise(6, 16).float()
    colourful = changes(6, 3, gray=np.ones(6, bool), solarized=np.ones(6, bool))
    assert torch.equal(apply_changes(crops, colourful, deep_photographs), crops)


@pytest.mark.parametrize("spec", [MEASURED, DEEP], ids=["uint8", "deep"])
def test_measurements_are_blurred_and_turned(spec: ViewsSpec) -> None:
    crops = noise(8, 40, 5)
    deviations = RANDOM.uniform(0.1, 2.0, 8)
    drawn = changes(
        8, 5, blur_radius=deviations, quarter_turns=np.ones(8, int), vertical_flip=np.ones(8, bool)
    )
    found = apply_changes(crops.float() if spec.deep else crops, drawn, spec).double()
    if spec.deep:
        found = found * torch.tensor(spec.std)[:, None, None] + 0.5
    for row in range(8):
        expected = boxes_by_hand(crops[row], deviations[row]).flip(1).rot90(1, (1, 2))
        assert apart(found[row], expected)[0] < 0.502


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
@pytest.mark.filterwarnings("ignore:Synchronization debug mode")
@pytest.mark.parametrize("spec", [EVERYTHING, MEASURED, DEEP], ids=["photo", "uint8", "deep"])
def test_a_device_makes_the_same_views_and_never_waits(spec: ViewsSpec) -> None:
    crops = noise(64, 48, spec.channels)
    crops = crops.float() / 255 if spec.deep else crops
    drawn = draw_changes(spec, 4, 0, np.arange(64), 0)
    expected = apply_changes(crops, drawn, spec)
    crops = crops.to("cuda")
    apply_changes(crops, drawn, spec)  # the first time, mean and deviation are copied there
    torch.cuda.set_sync_debug_mode("error")
    try:
        found = apply_changes(crops, drawn, spec)
    finally:
        torch.cuda.set_sync_debug_mode("default")
    largest, mean = apart(found.cpu(), expected)
    assert largest <= (1e-3 if spec.deep else 1)
    assert mean < 1e-3


def test_changes_have_a_row_for_each_image() -> None:
    drawn = draw_changes(MEASURED, 0, 0, np.arange(9), 0)
    some = drawn.rows(np.array([4, 2]))
    assert len(some) == 2
    for field in fields(Changes):
        whole, part = getattr(drawn, field.name), getattr(some, field.name)
        assert np.array_equal(part, whole[[4, 2]])
