from __future__ import annotations

import math
import time
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image
from scipy.stats import ks_2samp
from torch.nn import functional as F
from torchvision import transforms
from torchvision.transforms import functional as tf

from moco.data.crops import (
    CROP_DRAWS,
    crop_box,
    cut,
    cut_far_ends,
    cut_into,
    evaluation_view,
    fit,
)
from moco.data.draws import uniform_draws
from moco.data.images import UnreadableImageError
from moco.specs import ViewsSpec

RANDOM = np.random.default_rng(0)
EVALUATION = ViewsSpec(evaluation_resize=40, evaluation_size=32)


def noise(height: int, width: int, channels: int = 3, dtype: Any = np.uint8) -> Any:
    return RANDOM.integers(0, np.iinfo(dtype).max + 1, (height, width, channels), dtype=dtype)


def smooth(height: int, width: int) -> Any:
    small = Image.fromarray(noise(6, 5))
    return np.asarray(small.resize((width, height), Image.Resampling.BICUBIC))


def torchvisions_box(
    draws: list[float], height: int, width: int, scale: tuple[float, float]
) -> Any:
    """Run torchvision's own get_params, which takes its random numbers from `draws`."""
    counts = {"uniform": 0, "randint": 0}

    def uniform(low: float, high: float) -> torch.Tensor:
        attempt, which = divmod(counts["uniform"], 2)
        counts["uniform"] += 1
        draw = draws[4 * attempt + which]
        return torch.tensor([float(low) + (float(high) - float(low)) * draw], dtype=torch.float64)

    def randint(low: int, high: int, size: Any) -> torch.Tensor:
        attempt = counts["uniform"] // 2 - 1
        draw = draws[4 * attempt + 2 + counts["randint"]]
        counts["randint"] += 1
        return torch.tensor([low + int((high - low) * draw)])

    fake = SimpleNamespace(
        log=lambda ratio: torch.log(ratio.double()),
        tensor=torch.tensor,
        empty=lambda _: SimpleNamespace(uniform_=uniform),
        exp=torch.exp,
        randint=randint,
    )
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("torchvision.transforms.transforms.torch", fake)
        image = Image.new("L", (width, height))
        return transforms.RandomResizedCrop.get_params(image, list(scale), [3 / 4, 4 / 3])


@pytest.mark.parametrize(
    ("height", "width"), [(375, 500), (32, 32), (9, 8), (60, 300), (300, 7), (1, 1), (3, 1000)]
)
@pytest.mark.parametrize("scale", [(0.2, 1.0), (0.08, 1.0), (0.9, 1.0)])
def test_a_box_is_the_one_torchvision_makes_of_the_same_draws(
    height: int, width: int, scale: tuple[float, float]
) -> None:
    for draws in RANDOM.random((100, CROP_DRAWS)).tolist():
        expected = torchvisions_box(draws, height, width, scale)
        assert crop_box(draws, height, width, scale) == tuple(expected)


@settings(max_examples=300, deadline=None)
@given(
    st.lists(st.floats(0, 1, exclude_max=True), min_size=CROP_DRAWS, max_size=CROP_DRAWS),
    st.integers(1, 600),
    st.integers(1, 600),
)
def test_a_box_lies_within_the_image(draws: list[float], height: int, width: int) -> None:
    top, left, box_height, box_width = crop_box(draws, height, width, (0.08, 1.0))
    assert 0 <= top <= top + box_height <= height
    assert 0 <= left <= left + box_width <= width
    assert box_height >= 1
    assert box_width >= 1


@pytest.mark.parametrize(("height", "width"), [(375, 500), (224, 224), (100, 190)])
def test_boxes_are_distributed_as_torchvisions(height: int, width: int) -> None:
    count = 1500
    draws = uniform_draws(3, 0, np.arange(count), 0, CROP_DRAWS).tolist()
    ours = np.array([crop_box(row, height, width, (0.08, 1.0)) for row in draws])
    torch.manual_seed(0)
    image = Image.new("L", (width, height))
    theirs = np.array(
        [
            transforms.RandomResizedCrop.get_params(image, [0.08, 1.0], [3 / 4, 4 / 3])
            for _ in range(count)
        ]
    )
    for name, place in (("top", 0), ("left", 1), ("height", 2), ("width", 3)):
        assert ks_2samp(ours[:, place], theirs[:, place]).pvalue > 1e-4, name
    areas, ratios = ours[:, 2] * ours[:, 3], ours[:, 3] / ours[:, 2]
    assert ks_2samp(areas, theirs[:, 2] * theirs[:, 3]).pvalue > 1e-4
    assert ks_2samp(ratios, theirs[:, 3] / theirs[:, 2]).pvalue > 1e-4


def test_an_image_too_long_for_any_box_gives_its_middle() -> None:
    draws = [0.5] * CROP_DRAWS
    assert crop_box(draws, 1000, 30, (0.9, 1.0)) == (480, 0, 40, 30)
    assert crop_box(draws, 30, 1000, (0.9, 1.0)) == (0, 480, 30, 40)


def test_a_box_takes_microseconds() -> None:
    rows = uniform_draws(0, 0, np.arange(2000), 0, CROP_DRAWS).tolist()
    start = time.process_time()
    for row in rows:
        crop_box(row, 375, 500, (0.2, 1.0))
    assert (time.process_time() - start) / len(rows) < 15e-6


BOXES = [(0, 0, 60, 80), (5, 7, 40, 33), (20, 10, 9, 8), (3, 0, 1, 80)]


@pytest.mark.parametrize("make", [noise, smooth])
@pytest.mark.parametrize("size", [8, 24, 96])
@pytest.mark.parametrize("box", BOXES)
def test_a_cut_is_within_one_level_of_pillows(make: Any, size: int, box: Any) -> None:
    pixels = make(60, 80)
    top, left, height, width = box
    expected = Image.fromarray(pixels).crop((left, top, left + width, top + height))
    expected = np.asarray(expected.resize((size, size), Image.Resampling.BILINEAR)).astype(int)
    found = cut(pixels, box, size, 3).permute(1, 2, 0).numpy()
    assert found.dtype == np.uint8
    assert abs(found - expected).max() <= 1
    assert abs(found - expected).mean() < 0.05


def test_a_cut_has_its_pixels_side_by_side_and_leaves_the_image_alone() -> None:
    pixels = noise(60, 80)
    before = pixels.copy()
    pixels.flags.writeable = False
    for box in ((5, 7, 40, 33), (0, 0, 60, 80), (4, 0, 30, 80)):
        view = cut(pixels, box, 24, 3)
        assert view.stride() == (1, 24 * 3, 3)
    assert np.array_equal(pixels, before)


def test_a_grey_cut_is_repeated() -> None:
    pixels = noise(40, 50, 1)
    view = cut(pixels, (3, 4, 30, 40), 16, 3)
    assert view.shape == (3, 16, 16)
    colours = cut(np.repeat(pixels, 3, 2), (3, 4, 30, 40), 16, 3)
    assert torch.equal(view, colours)


@pytest.mark.parametrize("channels", [1, 2, 3, 4, 5])
@pytest.mark.parametrize("pixel_by_pixel", [True, False])
def test_a_cut_goes_into_its_place_and_nowhere_else(channels: int, pixel_by_pixel: bool) -> None:
    pixels, box = noise(60, 80, channels), (5, 7, 40, 33)
    batch = torch.full((3, 24, 24, channels), 7, dtype=torch.uint8).permute(0, 3, 1, 2)
    if not pixel_by_pixel:
        batch = batch.contiguous()
    place = batch.data_ptr()
    cut_into(batch[1], pixels, box)
    assert batch.data_ptr() == place
    assert (batch[[0, 2]] == 7).all()
    part = torch.from_numpy(pixels[5:45, 7:40].copy())[None].permute(0, 3, 1, 2)
    expected = F.interpolate(part, (24, 24), mode="bilinear", antialias=True)[0]
    assert (batch[1].int() - expected.int()).abs().max() <= (0 if channels <= 4 else 1)


@pytest.mark.parametrize("channels", [1, 2, 4, 5, 9, 13])
@pytest.mark.parametrize("dtype", [np.uint8, np.float32])
def test_channels_are_resized_each_for_itself(channels: int, dtype: Any) -> None:
    pixels = noise(40, 50, channels).astype(dtype)
    view = cut(pixels, (3, 4, 30, 40), 16, channels)
    assert view.shape == (channels, 16, 16)
    assert view.numpy().dtype == dtype
    for channel in range(channels):
        alone = cut(pixels[:, :, channel : channel + 1], (3, 4, 30, 40), 16, 1)
        torch.testing.assert_close(view[channel], alone[0], rtol=0, atol=1e-4)


def test_a_deep_cut_is_pillows_of_floating_point_values() -> None:
    pixels = RANDOM.normal(0, 1000, (60, 80, 1)).astype(np.float32)
    expected = Image.fromarray(pixels[3:43, 9:70, 0]).resize((20, 20), Image.Resampling.BILINEAR)
    found = cut(pixels, (3, 9, 40, 61), 20, 1)[0].numpy()
    np.testing.assert_allclose(found, np.asarray(expected), rtol=0, atol=1e-2)


def test_what_fits_stays_as_it_is() -> None:
    for channels in (1, 2, 3, 12):
        pixels = noise(4, 5, channels)
        assert fit(pixels, channels, False) is pixels
        deep = pixels.astype(np.float32)
        assert fit(deep, channels, True) is deep
    grey = noise(4, 5, 1)
    assert fit(grey, 3, False) is grey


def test_a_colour_image_becomes_pillows_grey() -> None:
    pixels = noise(50, 60)
    found = fit(pixels, 1, False)
    assert np.array_equal(found[:, :, 0], np.asarray(Image.fromarray(pixels).convert("L")))
    white = np.full((2, 2, 3), 65535, np.uint16)
    assert (fit(white, 1, False) == 255).all()
    assert (fit(white, 1, True) == 1).all()  # weights add up to one
    deep = fit(pixels, 1, True)
    assert deep.dtype == np.float32
    np.testing.assert_allclose(deep, found / 255, rtol=0, atol=0.51 / 255)


def test_sixteen_bits_become_the_nearest_of_eight() -> None:
    every = np.arange(65536, dtype=np.uint16).reshape(256, 256, 1)
    found = fit(every, 1, False)
    assert found.dtype == np.uint8
    nearest = np.floor(every / 257 + 0.5)  # no value lies half way, as 257 is odd
    assert np.array_equal(found, nearest)
    assert found[0, 0, 0] == 0
    assert found[-1, -1, 0] == 255


def test_floating_point_values_from_0_to_1_become_bytes() -> None:
    pixels = np.array([[[0.0], [1.0], [0.5], [0.1]]], np.float32)
    assert fit(pixels, 1, False).ravel().tolist() == [0, 255, 128, 26]
    every = (np.arange(256, dtype=np.float32) / np.float32(255)).reshape(16, 16, 1)
    assert fit(every, 1, False).ravel().tolist() == list(range(256))


@pytest.mark.parametrize(
    ("low", "high", "words"), [(-0.25, 0.5, "-0.25 to 0.5"), (0, 1.5, "0 to 1.5")]
)
def test_values_that_bytes_cannot_hold_are_refused(low: float, high: float, words: str) -> None:
    pixels = np.array([[[low], [high]]], np.float32)
    with pytest.raises(UnreadableImageError) as caught:
        fit(pixels, 1, False)
    message = f"values from {words} do not fit 8 bits; set views.deep=true"
    assert str(caught.value) == message


def test_deep_values_are_those_of_the_file() -> None:
    for dtype in (np.uint8, np.uint16):
        top = np.iinfo(dtype).max
        found = fit(np.array([[[0], [top], [top // 2]]], dtype), 1, True)
        assert found.dtype == np.float32
        np.testing.assert_allclose(found.ravel(), [0, 1, top // 2 / top], rtol=1e-7)
    below = np.array([[[-3.0], [7e4]]], np.float32)
    assert np.array_equal(fit(below, 1, True), below)


@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf])
@pytest.mark.parametrize("deep", [False, True])
def test_values_that_are_no_numbers_are_refused(value: float, deep: bool) -> None:
    pixels = np.array([[[0.5], [value]]], np.float32)
    with pytest.raises(UnreadableImageError):
        fit(pixels, 1, deep)


@pytest.mark.parametrize(
    ("pixels", "channels", "reason"),
    [
        (np.zeros((4, 4, 13), np.uint8), 12, "has 13 channels where the run has 12"),
        (np.zeros((4, 4, 4), np.uint8), 3, "has 4 channels where the run has 3"),
        (np.zeros((4, 4, 1), np.uint8), 4, "has 1 channels where the run has 4"),
        (np.zeros((4, 4), np.uint8), 1, "has shape [4, 4], not rows, columns, channels"),
        (np.zeros((0, 4, 3), np.uint8), 3, "has shape [0, 4, 3], not rows, columns, channels"),
        (np.zeros((4, 4, 3), np.int32), 3, "has int32 values, not uint8, uint16 or float32"),
    ],
)
@pytest.mark.parametrize("deep", [False, True])
def test_what_does_not_fit_says_why(pixels: Any, channels: int, reason: str, deep: bool) -> None:
    with pytest.raises(UnreadableImageError) as caught:
        fit(pixels, channels, deep)
    assert str(caught.value) == reason


@pytest.mark.parametrize(
    ("height", "width"),
    [
        *((60, 80), (81, 60), (40, 40), (500, 375), (41, 101), (10, 155)),
        *((33, 47), (47, 33)),  # the long side is 56.97, which torchvision takes as 56
        *((41, 57), (57, 41)),  # 55 pixels less 32 leave 11.5 before, which it takes as 12
    ],
)
@pytest.mark.parametrize("make", [noise, smooth])
def test_evaluation_looks_at_what_torchvision_cuts(height: int, width: int, make: Any) -> None:
    pixels = make(height, width)
    image = Image.fromarray(pixels)
    expected = np.asarray(tf.center_crop(tf.resize(image, 40), [32, 32])).astype(int)
    found = evaluation_view(pixels, EVALUATION).permute(1, 2, 0).numpy()
    assert abs(found - expected).max() <= 1
    assert abs(found - expected).mean() < 0.05


def test_evaluation_of_other_images() -> None:
    grey = noise(50, 70, 1)
    assert torch.equal(
        evaluation_view(grey, EVALUATION), evaluation_view(np.repeat(grey, 3, 2), EVALUATION)
    )
    deep = ViewsSpec(
        channels=2, deep=True, mean=(0.5, 3), std=(2, 4), evaluation_resize=40, evaluation_size=32
    )
    pixels = noise(40, 40, 2, np.uint16)
    view = evaluation_view(pixels, deep)
    expected = (pixels[4:36, 4:36] / 65535 - deep.mean) / deep.std
    assert view.dtype == torch.float32
    np.testing.assert_allclose(view.permute(1, 2, 0), expected, rtol=0, atol=1e-5)
    with pytest.raises(UnreadableImageError, match="2 channels where the run has 3"):
        evaluation_view(noise(50, 70, 2), EVALUATION)


@pytest.mark.parametrize("size", [(200_000, 2), (3, 100_000), (1, 1_000_000)])
def test_evaluation_of_a_thin_image_looks_at_its_middle(size: tuple[int, int]) -> None:
    pixels = np.zeros((*size, 1), np.uint8)
    long, short = size.index(max(size)), min(size)
    np.moveaxis(pixels, long, 0)[max(size) // 2 - 8 * short : max(size) // 2 + 8 * short] = 200
    middle = cut_far_ends(pixels)
    assert max(middle.shape) == 16 * short
    view = evaluation_view(pixels, EVALUATION)
    assert view.shape == (3, 32, 32)
    assert (view == 200).all()
    ordinary = noise(10, 160)
    assert cut_far_ends(ordinary).shape == ordinary.shape
