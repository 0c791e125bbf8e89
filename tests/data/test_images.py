from __future__ import annotations

import time

import numpy as np
import pytest

from moco.data import images as images_module
from moco.data.images import Pixels, UnreadableImageError, first_usable
from moco.errors import DataError


class Mostly:
    """Images of which all below a number are bad, each found out after some seconds."""

    def __init__(self, count: int, bad: int, seconds: float = 0.0) -> None:
        self.count, self.bad, self.seconds = count, bad, seconds
        self.tried: list[int] = []

    def __len__(self) -> int:
        return self.count

    def name(self, image_id: int) -> str:
        return f"{image_id}.jpg"

    def read(self, image_id: int) -> Pixels:
        self.tried.append(image_id)
        if image_id < self.bad:
            time.sleep(self.seconds)
            raise UnreadableImageError("cut off")
        return np.zeros((1, 1, 1), np.uint8)


@pytest.mark.parametrize(("count", "bad"), [(1, 0), (40, 39), (900, 899), (100_000, 90_000)])
def test_one_usable_image_is_found_wherever_it_is(count: int, bad: int) -> None:
    images = Mostly(count, bad)
    first_usable(images)
    assert images.tried[-1] >= bad  # which could be read
    assert len(images.tried) == len(set(images.tried)) <= 1000 + 16


def test_many_bad_images_that_take_long_are_not_all_waited_for(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(images_module, "MOST_SECONDS", 0.1)
    slow = Mostly(5000, 5000, seconds=0.01)
    with pytest.raises(DataError, match=r"none of \d+ that were tried of the 5000 .*; 0.jpg: cut"):
        first_usable(slow)
    assert 16 <= len(slow.tried) < 200
    assert {5000 * place // 16 for place in range(16)} <= set(slow.tried)
    first_usable(Mostly(16, 15, seconds=0.01))  # so few are all looked at
