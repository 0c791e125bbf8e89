"""Sheets of small pictures: each in its place, within the bytes that they may take."""

from __future__ import annotations

import base64
import io
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image

from moco.data.images import Pixels, UnreadableImageError
from moco.errors import UsageError
from moco.report import thumbnails
from moco.report.thumbnails import Sprites, make_sprites, shown_picture


class MadeImages:
    """Each of its own colour, its sides lighter than its middle square; some cannot be read."""

    def __init__(self, count: int, height: int, width: int, broken: tuple[int, ...] = ()) -> None:
        draw = np.random.default_rng(0)
        self.colours = draw.integers(0, 200, (count, 3), dtype=np.uint8)
        self.height, self.width, self.broken = height, width, broken
        self.noise = 0

    def __len__(self) -> int:
        return len(self.colours)

    def name(self, image_id: int) -> str:
        return f"{image_id}.png"

    def read(self, image_id: int) -> Pixels:
        if image_id in self.broken:
            raise UnreadableImageError("broken")
        pixels = np.full((self.height, self.width, 3), 255, np.uint8)
        short = min(self.height, self.width)
        top, left = (self.height - short) // 2, (self.width - short) // 2
        pixels[top : top + short, left : left + short] = self.colours[image_id]
        if self.noise:
            draw = np.random.default_rng(image_id)
            pixels = draw.integers(0, 256, pixels.shape, dtype=np.uint8)
        return pixels


def cut_out(sprites: Sprites, number: int) -> NDArray[np.uint8]:
    """The picture as a browser would cut it out of its sheet."""
    sheet, place = divmod(number, sprites.columns**2)
    row, column = divmod(place, sprites.columns)
    with Image.open(io.BytesIO(sprites.sheets[sheet])) as opened:
        assert opened.format == "JPEG"
        pixels = np.asarray(opened.convert("RGB"))
    side = sprites.side
    return pixels[row * side : (row + 1) * side, column * side : (column + 1) * side]


@pytest.mark.parametrize(("height", "width"), [(40, 64), (64, 40), (40, 40)])
def test_each_picture_is_the_middle_square_of_its_image(height: int, width: int) -> None:
    images = MadeImages(90, height, width)
    ids = list(range(1, 90, 2))
    sprites = make_sprites(images, ids, most_bytes=1 << 20)
    assert sprites.side == 40
    for number, image_id in enumerate(ids):
        tile = cut_out(sprites, number).astype(int)
        assert np.abs(tile[8:-8, 8:-8].mean(axis=(0, 1)) - images.colours[image_id]).max() < 12


def test_many_sheets_hold_all_pictures(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(thumbnails, "SHEET_SIDE", 100)
    images = MadeImages(40, 16, 16)
    sprites = make_sprites(images, range(40), most_bytes=1 << 20)
    assert (sprites.side, sprites.columns, len(sprites.sheets)) == (16, 6, 2)
    with Image.open(io.BytesIO(sprites.sheets[1])) as last:
        assert last.size == (96, 16)
    middle = cut_out(sprites, 38)[4:-4, 4:-4].astype(int).mean(axis=(0, 1))
    assert np.abs(middle - images.colours[38]).max() < 12


def test_side_and_quality_follow_the_bytes() -> None:
    images = MadeImages(300, 64, 64)
    images.noise = 1
    made = [make_sprites(images, range(300), most_bytes=most) for most in (2000000, 400000, 90000)]
    assert [
        sprites.encoded_bytes <= most
        for sprites, most in zip(made, (2000000, 400000, 90000), strict=True)
    ] == [True] * 3
    assert made[0].side == 64
    assert made[0].side > made[1].side > made[2].side
    held = sum(len(base64.b64encode(sheet)) for sheet in made[1].sheets)
    assert held == made[1].encoded_bytes
    assert made[1].encoded_bytes > 200000  # no less than half of what it may take
    with pytest.raises(UsageError, match="lower --most-images"):
        make_sprites(images, range(300), most_bytes=500)


def test_unlike_images_that_mislead_the_choice_still_fit() -> None:
    images = MadeImages(600, 32, 32)
    read = images.read
    images.read = lambda image_id: read(image_id) if image_id % 2 == 0 else noise(image_id)  # type: ignore[method-assign]

    def noise(image_id: int) -> Pixels:
        return np.random.default_rng(image_id).integers(0, 256, (32, 32, 3), dtype=np.uint8)

    most = 150_000
    assert make_sprites(images, range(600), most_bytes=most).encoded_bytes <= most


def test_a_browser_holds_no_more_than_it_should(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(thumbnails, "MOST_DECODED_BYTES", 50 * 32 * 32 * 4)
    assert make_sprites(MadeImages(50, 64, 64), range(50), most_bytes=1 << 30).side == 32
    with pytest.raises(UsageError, match="lower --most-images"):
        make_sprites(MadeImages(900, 64, 64), range(900), most_bytes=1 << 30)


def test_a_picture_that_is_gone_is_grey_and_the_others_keep_their_places() -> None:
    images = MadeImages(9, 24, 24, broken=(3, 4))
    sprites = make_sprites(images, range(9), most_bytes=1 << 20)
    assert np.abs(cut_out(sprites, 3)[8:-8, 8:-8].astype(int) - 128).max() < 12
    assert (
        np.abs(
            cut_out(sprites, 8)[4:-4, 4:-4].astype(int).mean(axis=(0, 1)) - images.colours[8]
        ).max()
        < 12
    )


def test_shown_pictures_are_jpeg_and_not_too_small(tmp_path: Path) -> None:
    for side, expected in ((20, 100), (300, 160), (100, 100)):
        address = shown_picture(MadeImages(1, side, side), 0)
        head, _, content = address.partition(",")
        assert head == "data:image/jpeg;base64"
        with Image.open(io.BytesIO(base64.b64decode(content))) as opened:
            assert opened.size == (expected, expected)
    assert shown_picture(MadeImages(1, 9, 9, broken=(0,)), 0).startswith("data:image/jpeg")
