"""Cutting a batch on the device is cutting image by image, to the bit."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from torch import Tensor

from moco.data import device_cuts
from moco.data.crops import cut
from moco.data.device_cuts import MOST_SHRUNK, DeviceCuts, axis_weights

Numbers = NDArray[np.int64]


def made(count: int, height: int, width: int, channels: int) -> NDArray[np.uint8]:
    """Return noise, half of it only black and white, where sums are largest."""
    draw = np.random.default_rng(height * width + channels)
    pixels = draw.integers(0, 256, (count, height, width, channels), dtype=np.uint8)
    pixels[::2] = np.where(pixels[::2] < 128, 0, 255)
    return pixels


def cut_singly(pixels: NDArray[np.uint8], ids: Numbers, boxes: Numbers, side: int) -> Tensor:
    channels = pixels.shape[3]
    return torch.stack(
        [
            cut(pixels[image_id], (box[0], box[1], box[2], box[3]), side, channels)
            for image_id, box in zip(ids.tolist(), boxes.tolist(), strict=True)
        ]
    )


def cut_together(pixels: NDArray[np.uint8], ids: Numbers, boxes: Numbers, side: int) -> Tensor:
    cuts = DeviceCuts(torch.from_numpy(pixels), side)
    return cuts.cut(torch.from_numpy(ids), torch.from_numpy(boxes))


def drawn_boxes(count: int, height: int, width: int) -> Numbers:
    draw = np.random.default_rng(1)
    heights, widths = draw.integers(1, height + 1, count), draw.integers(1, width + 1, count)
    tops, lefts = draw.integers(0, height - heights + 1), draw.integers(0, width - widths + 1)
    return np.stack([tops, lefts, heights, widths], axis=1)


@pytest.mark.parametrize("side", [7, 32])
@pytest.mark.parametrize("channels", [1, 3])
def test_every_length_of_box_is_cut_as_torch_cuts_it(side: int, channels: int) -> None:
    pixels = made(4, 70, 70, channels)
    lengths = np.arange(1, 71)
    draw = np.random.default_rng(2)
    starts = draw.integers(0, 71 - lengths), draw.integers(0, 71 - lengths[::-1])
    boxes = np.stack([*starts, lengths, lengths[::-1]], axis=1)
    ids = np.arange(70) % 4
    together = cut_together(pixels, ids, boxes, side)
    assert together.dtype == torch.uint8
    assert torch.equal(together, cut_singly(pixels, ids, boxes, side))


@pytest.mark.parametrize(
    ("height", "width", "channels", "side", "count"),
    [
        (32, 32, 3, 32, 300),  # CIFAR
        (28, 28, 1, 28, 60),
        (33, 20, 5, 24, 40),  # torch cuts four channels at a time
        (64, 64, 12, 40, 8),
        (256, 341, 3, 224, 6),
        (20, 900, 3, 16, 20),  # shrunk a lot: sums are largest
    ],
)
def test_boxes_anywhere_are_cut_as_torch_cuts_them(
    height: int, width: int, channels: int, side: int, count: int
) -> None:
    pixels = made(10, height, width, channels)
    boxes = drawn_boxes(count, height, width)
    ids = np.random.default_rng(3).integers(0, 10, count)
    singly = cut_singly(pixels, ids, boxes, side)
    assert torch.equal(cut_together(pixels, ids, boxes, side), singly)


def test_how_many_are_cut_at_once_changes_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    pixels, boxes, ids = made(5, 30, 30, 3), drawn_boxes(23, 30, 30), np.arange(23) % 5
    usual = cut_together(pixels, ids, boxes, 16)
    for values in (1, 2**30):
        monkeypatch.setattr(device_cuts, "CACHED_VALUES", values)
        assert torch.equal(cut_together(pixels, ids, boxes, 16), usual)


def test_sums_stay_whole_numbers_that_float32_holds() -> None:
    for length, side in ((1, 32), (31, 32), (32, 32), (33, 32), (100, 1), (3200, 32)):
        _, weights, shift = axis_weights(length, side)
        assert 0 <= weights.min() <= weights.max() < 2**15
        assert weights.shape[1] * 255 * 255 < 2**24
        assert (weights >> 8).sum(axis=1).max() * 255 < 2**24
        assert abs(weights.sum(axis=1) - 2**shift).max() <= weights.shape[1]


def test_factors_are_exact_in_the_formats_that_gpus_multiply_in() -> None:
    parts = device_cuts.all_weights(70, 16, torch.device("cpu")).parts
    assert parts.max() > 200
    assert torch.equal(parts.bfloat16().float(), parts)  # TF32 has more bits
    pixels = torch.arange(256).float()
    assert torch.equal(pixels.bfloat16().float(), pixels)


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA GPU")
@pytest.mark.parametrize("precision", ["highest", "high", "medium"])
def test_a_gpu_cuts_to_the_bit_in_any_precision(precision: str) -> None:
    pixels, boxes = made(10, 256, 341, 3), drawn_boxes(70, 256, 341)
    ids = np.arange(70) % 10
    before = torch.get_float32_matmul_precision()
    torch.set_float32_matmul_precision(precision)
    try:
        cuts = DeviceCuts(torch.from_numpy(pixels).cuda(), 224)
        together = cuts.cut(torch.from_numpy(ids).cuda(), torch.from_numpy(boxes).cuda()).cpu()
    finally:
        torch.set_float32_matmul_precision(before)
    assert torch.equal(together, cut_singly(pixels, ids, boxes, 224))


def test_images_that_would_be_shrunk_too_much_are_refused() -> None:
    pixels = torch.zeros(1, 2, 2 * MOST_SHRUNK + 1, 3, dtype=torch.uint8)
    with pytest.raises(ValueError, match="up to 100 pixels, got 201"):
        DeviceCuts(pixels, 1)
    DeviceCuts(pixels[:, :, : 2 * MOST_SHRUNK], 2)
