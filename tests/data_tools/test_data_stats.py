"""Statistics of all pixels equal those that numpy computes of all pixels at once."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import yaml
from numpy.typing import NDArray
from PIL import Image

from moco.data import channel_sums
from moco.data.images import Pixels
from moco.data.sources.folder import FolderImages
from moco.data.sources.sequence import SequenceImages
from moco.data.statistics import ImageKind
from moco.data_tools.stats import recipe_lines, source_statistics, yaml_number
from moco.errors import DataError
from moco.found_recipe import find_recipe

Make = Callable[[np.random.Generator], Pixels]


def eight_bits(draw: np.random.Generator) -> Pixels:
    return draw.integers(0, 200, (*draw.integers(5, 40, 2), 3), dtype=np.uint8)


def sixteen_bits(draw: np.random.Generator) -> Pixels:
    return draw.integers(100, 40000, (*draw.integers(5, 40, 2), 1), dtype=np.uint16)


def twelve_channels(draw: np.random.Generator) -> Pixels:
    values = draw.normal(1000, 3, (*draw.integers(12, 40, 2), 12)).astype(np.float32)
    return values * np.arange(1, 13, dtype=np.float32)


def twelve_channels_of_bytes(draw: np.random.Generator) -> Pixels:
    return draw.integers(0, 256, (*draw.integers(12, 40, 2), 12), dtype=np.uint8)


MAKERS = [eight_bits, sixteen_bits, twelve_channels, twelve_channels_of_bytes]


def all_pixels(images: list[Pixels]) -> NDArray[np.float64]:
    """Return [P, C] of all images, integers as 0 to 1."""
    kind = images[0].dtype
    scale = {"uint8": 255.0, "uint16": 65535.0}.get(kind.name, 1.0)
    flat = np.concatenate([pixels.reshape(-1, pixels.shape[2]) for pixels in images])
    return flat.astype(np.float64) / scale


def close(found: object, wanted: object) -> None:
    np.testing.assert_allclose(np.asarray(found), np.asarray(wanted), rtol=1e-9, atol=0)


@pytest.mark.parametrize("workers", [0, 2])
@pytest.mark.parametrize("make", MAKERS)
def test_equal_to_numpy_on_all_pixels(make: Make, workers: int, tmp_path: Path) -> None:
    draw = np.random.default_rng(3)
    made = [make(draw) for _ in range(40)]
    for number, pixels in enumerate(made):
        np.save(tmp_path / f"{number:02}.npy", pixels)
    found = source_statistics(FolderImages(tmp_path), workers=workers)
    pixels = all_pixels(made)
    assert found.kind == ImageKind(made[0].shape[2], made[0].dtype != np.uint8)
    assert (found.images, found.unreadable, found.of_another_kind) == (40, 0, 0)
    assert found.pixels == len(pixels)
    close(found.mean, pixels.mean(axis=0))
    close(found.std, pixels.std(axis=0))
    close(found.lowest, pixels.min(axis=0))
    close(found.highest, pixels.max(axis=0))


def test_photographs_count_grey_ones_as_three_channels(photos: Path) -> None:
    images = FolderImages(photos)
    made = [np.broadcast_to(images.read(n), (*images.read(n).shape[:2], 3)) for n in range(64)]
    found = source_statistics(images)
    pixels = all_pixels(list(made))
    close(found.mean, pixels.mean(axis=0))
    close(found.std, pixels.std(axis=0))


def test_only_grey_photographs_have_three_figures() -> None:
    grey = [np.full((4, 4, 1), value, np.uint8) for value in (0, 51)]
    found = source_statistics(SequenceImages(grey))
    close(found.mean, [0.1] * 3)
    close(found.std, [0.1] * 3)


def test_large_images_are_counted_in_blocks(monkeypatch: pytest.MonkeyPatch) -> None:
    made = [twelve_channels(np.random.default_rng(number)) for number in range(3)]
    whole = source_statistics(SequenceImages(made))
    monkeypatch.setattr(channel_sums, "MOST_VALUES", 1000)
    parts = source_statistics(SequenceImages(made))
    close(parts.mean, whole.mean)
    close(parts.std, whole.std)
    assert parts.pixels == whole.pixels


def test_a_sample_is_spread_over_all() -> None:
    made = [np.full((4, 4, 3), number, np.uint8) for number in range(100)]
    found = source_statistics(SequenceImages(made), sample=4)
    close(found.mean, [(0 + 25 + 50 + 75) / 4 / 255] * 3)
    assert found.images == 4


def test_what_is_not_counted_is_said(photos: Path, tmp_path: Path) -> None:
    for number in range(40):
        Image.new("RGB", (8, 8), (number, 0, 255)).save(tmp_path / f"{number:02}.png")
    np.save(tmp_path / "a.npy", np.zeros((9, 9, 5), np.uint8))
    (tmp_path / "b.png").touch()
    (tmp_path / "c.png").touch()
    found = source_statistics(FolderImages(tmp_path))
    assert (found.images, found.of_another_kind, found.unreadable) == (40, 1, 2)
    close(found.mean, [19.5 / 255, 0, 1])
    close(found.std[1:], [0, 0])


def test_nothing_to_count(tmp_path: Path) -> None:
    (tmp_path / "a.png").touch()
    with pytest.raises(DataError, match="can be read"):
        source_statistics(FolderImages(tmp_path))


@pytest.mark.parametrize(
    ("figure", "text"),
    [(1.0, "1.0"), (1e-5, "1.0e-05"), (-2.5e9, "-2.5e+09"), (0.123456789, "0.123457"), (0, "0.0")],
)
def test_numbers_are_numbers_in_yaml(figure: float, text: str) -> None:
    assert yaml_number(figure) == text
    assert yaml.safe_load(f"[{text}]") == [float(text)]


@pytest.mark.parametrize("make", MAKERS)
def test_the_lines_go_into_a_recipe_file(make: Make, tmp_path: Path) -> None:
    draw = np.random.default_rng(0)
    made = [make(draw) for _ in range(4)]
    found = source_statistics(SequenceImages([pixels * 0 + made[0][0, 0] for pixels in made]))
    assert found.std == (0.0,) * found.kind.channels  # exactly, whatever the mean was rounded to
    path = tmp_path / "mine.yaml"
    path.write_text(f"base: moco-v2\n{recipe_lines(found)}\n")
    recipe = find_recipe(path).recipe
    assert recipe is not None
    views = recipe.views
    assert views.channels == found.kind.channels
    assert views.deep == found.kind.deep
    np.testing.assert_allclose(views.mean, found.mean, rtol=1e-5)
    assert views.std == (1.0,) * found.kind.channels  # no channel varies
