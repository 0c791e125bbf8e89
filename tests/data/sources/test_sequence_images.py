from __future__ import annotations

import pickle
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from torch.utils.data import Dataset, TensorDataset

from moco.data.images import StoredImages, UnreadableImageError
from moco.data.sources.sequence import SequenceImages
from moco.errors import DataError

DRAW = np.random.default_rng(4)
COLOUR = DRAW.integers(0, 256, (6, 9, 3), dtype=np.uint8)
GREY = COLOUR[:, :, :1]
CHANNELS_FIRST = np.ascontiguousarray(COLOUR.transpose(2, 0, 1))
DEEP = (GREY.astype(np.uint16) * 257)[:, :, 0]
FLOATS = torch.from_numpy(CHANNELS_FIRST.astype(np.float32) / 255)

ITEMS: dict[str, tuple[Any, np.ndarray]] = {
    "Pillow colour": (Image.fromarray(COLOUR), COLOUR),
    "Pillow grey": (Image.fromarray(GREY[:, :, 0]), GREY),
    "[H, W]": (GREY[:, :, 0], GREY),
    "[H, W, C]": (COLOUR, COLOUR),
    "[C, H, W]": (CHANNELS_FIRST, COLOUR),
    "[1, H, W]": (GREY[None, :, :, 0], GREY),
    "strided": (COLOUR[::-1, ::-1], COLOUR[::-1, ::-1]),
    "uint16": (DEEP, DEEP[:, :, None]),
    "bool": (GREY[:, :, 0] > 99, (GREY > 99) * np.uint8(255)),
    "float64": (DEEP / 3, (DEEP / 3).astype(np.float32)[:, :, None]),
    "tensor": (torch.from_numpy(CHANNELS_FIRST), COLOUR),
    "tensor [3, 2, 2]": (
        torch.arange(12).to(torch.uint8).reshape(3, 2, 2),
        np.arange(12, dtype=np.uint8).reshape(3, 2, 2).transpose(1, 2, 0),
    ),
    "tensor [H, W]": (torch.from_numpy(GREY[:, :, 0].copy()), GREY),
    "tensor of floats": (FLOATS, FLOATS.numpy().transpose(1, 2, 0)),
    "tensor of halves": (FLOATS.half(), FLOATS.half().float().numpy().transpose(1, 2, 0)),
    "tensor of bfloat16": (FLOATS.bfloat16(), FLOATS.bfloat16().float().numpy().transpose(1, 2, 0)),
    "tensor with gradient": (FLOATS.clone().requires_grad_(), FLOATS.numpy().transpose(1, 2, 0)),
    "tuple": ((COLOUR, 7), COLOUR),
    "list": ([Image.fromarray(COLOUR), "label", 3], COLOUR),
    "dict": ({"label": 1, "image": COLOUR}, COLOUR),
}


@pytest.mark.parametrize("kind", ITEMS)
def test_items_of_many_kinds(kind: str) -> None:
    item, expected = ITEMS[kind]
    read = SequenceImages([item]).read(0)
    assert read.dtype == expected.dtype
    np.testing.assert_array_equal(read, expected)
    assert read.flags.c_contiguous


@pytest.mark.parametrize("kind", ["[H, W, C]", "[H, W]", "tensor", "tensor of floats", "uint16"])
def test_an_image_is_no_view_of_the_item(kind: str) -> None:
    item = ITEMS[kind][0]
    read = SequenceImages([item]).read(0)
    assert read.flags.writeable
    before = np.asarray(item).copy()
    read[:] = 0
    np.testing.assert_array_equal(np.asarray(item), before)


BAD_ITEMS: dict[str, tuple[Any, str]] = {
    "text": ("a.png", "an item is a str, not a Pillow image"),
    "none": (None, "an item is a NoneType"),
    "empty tuple": ((), "an item is a tuple"),
    "dict without image": ({"x": COLOUR}, "an item is a dict"),
    "objects": (np.array([[None]]), "object values cannot be pixels"),
    "long integers": (GREY[:, :, 0].astype(np.int64), "int64 values cannot be pixels"),
    "batch": (COLOUR[None], "is no"),
    "line": (COLOUR[0, :, 0], "is no"),
    "nothing": (COLOUR[:0], "is no"),
    "many channels": (np.broadcast_to(np.uint8(0), (2000, 2000, 1999)), "1999 channels"),
    "infinite": (np.full((4, 4), np.inf), "infinite"),
    "complex tensor": (torch.zeros(3, 4, 4, dtype=torch.complex64), "cannot be pixels"),
}


@pytest.mark.parametrize("kind", BAD_ITEMS)
def test_items_that_are_no_image_say_so(kind: str) -> None:
    item, reason = BAD_ITEMS[kind]
    with pytest.raises(UnreadableImageError, match=reason):
        SequenceImages([item]).read(0)


class Photos(Dataset[Any]):
    """A data set as torchvision's, of which some items fail."""

    classes = ("bird", "cat")

    def __init__(self) -> None:
        self.targets = [0, 1, 1, 0, 5]
        self.asked: list[int] = []

    def __len__(self) -> int:
        return 5

    def __getitem__(self, number: int) -> tuple[Image.Image, int]:
        self.asked.append(number)
        if number == 1:
            raise RuntimeError("the disk is tired")
        if number == 2:
            raise KeyError
        if number == 3:
            raise IndexError(3)
        return Image.fromarray(COLOUR), self.targets[number]


def test_a_data_set_of_torch(reads: Callable[..., list[str]]) -> None:
    images = SequenceImages(Photos())
    assert isinstance(images, StoredImages)
    for number, reason in {1: "the disk is tired", 2: "KeyError", 3: "3"}.items():
        with pytest.raises(UnreadableImageError, match=reason):
            images.read(number)
    np.testing.assert_array_equal(images.read(4), COLOUR)
    assert images.name(4) == "image 4"
    assert reads(images, 2) == reads(images)


def test_labels_are_known_without_reading(monkeypatch: pytest.MonkeyPatch) -> None:
    photos = Photos()
    assert SequenceImages(photos).labels() == ["bird", "cat", "cat", "bird", "5"]
    assert SequenceImages(photos, list("abcde")).labels() == list("abcde")
    assert SequenceImages(photos, np.arange(5)).labels() == ["bird", "cat", "2", "3", "4"]
    photos.targets = torch.tensor([1, 0, 0, 1, 1])  # type: ignore[assignment]
    assert SequenceImages(photos).labels() == ["cat", "bird", "bird", "cat", "cat"]
    photos.targets = [1, 2]
    assert SequenceImages(photos).labels() is None
    assert SequenceImages([COLOUR]).labels() is None
    assert photos.asked == []


def test_a_data_set_of_tensors() -> None:
    images = SequenceImages(TensorDataset(FLOATS[None], torch.tensor([3])))
    assert images.read(0).dtype == np.float32


def test_an_empty_sequence_and_wrong_labels_are_refused() -> None:
    with pytest.raises(DataError, match="is empty"):
        SequenceImages([])
    with pytest.raises(DataError, match="2 labels for 1 images"):
        SequenceImages([COLOUR], [1, 2])


def test_the_fingerprint_and_the_cache() -> None:
    images = SequenceImages([COLOUR] * 3, cache_bytes=COLOUR.nbytes)
    assert images.read(0) is images.read(0)
    assert images.read(1) is not images.read(1)
    assert images.fingerprint() != SequenceImages([COLOUR] * 2).fingerprint()
    assert pickle.loads(pickle.dumps(images)).fingerprint() == images.fingerprint()
