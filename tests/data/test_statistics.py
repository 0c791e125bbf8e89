from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pytest

from moco.data.images import Pixels, UnreadableImageError, spread
from moco.data.statistics import ImageKind, channel_statistics, find_kind
from moco.errors import DataError

DRAW = np.random.default_rng(0)


class Listed:
    """Images from a list; None cannot be read."""

    def __init__(self, images: Sequence[Pixels | None]) -> None:
        self.images = images

    def __len__(self) -> int:
        return len(self.images)

    def name(self, image_id: int) -> str:
        return f"{image_id}.npy"

    def read(self, image_id: int) -> Pixels:
        pixels = self.images[image_id]
        if pixels is None:
            raise UnreadableImageError("made to fail")
        return pixels


def eight_bits(channels: int, count: int = 5) -> list[Pixels | None]:
    return [DRAW.integers(0, 256, (6 + n, 9, channels)).astype(np.uint8) for n in range(count)]


def sixteen_bits(channels: int, count: int = 5) -> list[Pixels | None]:
    return [DRAW.integers(200, 9000, (6 + n, 9, channels)).astype(np.uint16) for n in range(count)]


@pytest.mark.parametrize(
    ("images", "kind"),
    [
        (eight_bits(3), ImageKind(3, False)),
        (eight_bits(1), ImageKind(3, False)),  # a grey photograph
        (eight_bits(1) + eight_bits(3), ImageKind(3, False)),
        (eight_bits(4), ImageKind(4, False)),
        (sixteen_bits(1), ImageKind(1, True)),
        (sixteen_bits(12), ImageKind(12, True)),
        (sixteen_bits(3), ImageKind(3, True)),
        ([DRAW.normal(size=(5, 5, 2)).astype(np.float32)], ImageKind(2, True)),
        (eight_bits(3, 6) + sixteen_bits(1, 2), ImageKind(3, False)),  # most of them
        ([None, None, *sixteen_bits(12, 1)], ImageKind(12, True)),
    ],
)
def test_the_kind_is_what_most_images_are(images: list[Pixels | None], kind: ImageKind) -> None:
    assert find_kind(Listed(images)) == kind


def test_no_readable_image_has_no_kind() -> None:
    with pytest.raises(DataError, match=r"none of the 3 images can be read; 0\.npy: made"):
        find_kind(Listed([None] * 3))
    with pytest.raises(DataError, match="12 channels"):
        channel_statistics(Listed(eight_bits(3)), ImageKind(12, True))


@pytest.mark.parametrize(
    ("images", "kind", "scale"),
    [
        (eight_bits(3), ImageKind(3, False), 255),
        (sixteen_bits(12), ImageKind(12, True), 65535),
        ([DRAW.normal(280, 3, (7, 8, 2)).astype(np.float32)] * 3, ImageKind(2, True), 1),
    ],
)
def test_figures_are_those_of_all_pixels_together(
    images: list[Pixels], kind: ImageKind, scale: float
) -> None:
    found = channel_statistics(Listed([*images, None]), kind)
    values = np.concatenate([i.reshape(-1, kind.channels) for i in images]).astype(float) / scale
    assert found.images == len(images)
    for figures, expected in (
        (found.mean, values.mean(axis=0)),
        (found.std, values.std(axis=0)),
    ):
        np.testing.assert_allclose(figures, expected, rtol=6e-6)


def test_a_constant_channel_counts_as_deviation_one() -> None:
    found = channel_statistics(Listed([np.full((4, 4, 1), 300, np.uint16)]), ImageKind(1, True))
    assert found.std == (1.0,)
    assert found.mean == pytest.approx((300 / 65535,), rel=1e-5)


def test_a_sample_is_spread_evenly() -> None:
    assert spread(10, 3) == [0, 3, 6]
    assert spread(2, 5) == [0, 1]
    images = Listed([*sixteen_bits(1, 7), None])
    assert channel_statistics(images, ImageKind(1, True), sample=4).images == 4
    assert channel_statistics(images, ImageKind(1, True), sample=8).images == 7


def test_large_images_are_counted_by_every_few_rows_and_columns() -> None:
    large = np.zeros((1200, 40, 1), np.uint16)
    large[::3] = 65535  # rows that are counted
    assert channel_statistics(Listed([large]), ImageKind(1, True)).mean == (1.0,)
