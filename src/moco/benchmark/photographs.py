"""JPEG files of the size and kind of ImageNet's, made of photographs that packages carry."""

from __future__ import annotations

import importlib.util
import io
import tarfile
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from PIL import Image

from moco.errors import DataError

COUNT = 48
WIDTH, HEIGHT = 500, 375
QUALITY = 90
HALF_COLOUR = 2
"""Pillow's number for 4:2:0, colours at half the resolution, as nearly all photographs have it."""
PACKED_SIDE = 256
"""The shorter side of images in shards, as `moco data pack` makes them."""
ORIGINALS = {
    "skimage": (
        "data/astronaut.png",
        "data/chelsea.png",
        "data/coffee.png",
        "data/motorcycle_left.png",
        "data/rocket.jpg",
    ),
    "sklearn": ("datasets/images/china.jpg", "datasets/images/flower.jpg"),
}
"""Package, and files within it."""


def write_photographs(folder: Path, count: int = COUNT) -> list[Path]:
    """Write so many different JPEGs of 500x375 pixels, always the same ones; return their paths.

    Raises:
        DataError: A package that carries the photographs is not installed.
    """
    originals = [Image.open(path).convert("RGB") for path in original_files()]
    draw = np.random.default_rng(0)
    paths = []
    for number in range(count):
        path = folder / f"{number:02}.jpg"
        cut = _cut(originals[number % len(originals)], draw)
        cut.save(path, quality=QUALITY, subsampling=HALF_COLOUR)
        paths.append(path)
    return paths


def original_files() -> list[Path]:
    """Return where the packages' photographs are.

    Raises:
        DataError: One of the packages is not installed, or has them no more.
    """
    found = []
    for package, names in ORIGINALS.items():
        spec = importlib.util.find_spec(package)
        places = (spec.submodule_search_locations if spec else None) or [""]
        found += [Path(places[0]) / name for name in names]
    missing = [path for path in found if not path.is_file()]
    if missing:
        raise DataError(
            f"the photographs come with scikit-image and scikit-learn, and {missing[0].name} is "
            "missing: pip install 'moco-torch[bench]', or name your own folder with --images"
        )
    return found


def _cut(original: Image.Image, draw: np.random.Generator) -> Image.Image:
    """Return most of a photograph, at random, in the shape and size of the samples."""
    scale = min(original.width / WIDTH, original.height / HEIGHT) * draw.uniform(0.8, 1.0)
    width, height = int(WIDTH * scale), int(HEIGHT * scale)
    left = int(draw.integers(0, original.width - width + 1))
    top = int(draw.integers(0, original.height - height + 1))
    box = (left, top, left + width, top + height)
    return original.resize((WIDTH, HEIGHT), Image.Resampling.BICUBIC, box=box)


def pack(paths: Sequence[Path], shard: Path) -> None:
    """Write the images into a WebDataset shard as `moco data pack` does: JPEGs, made smaller."""
    with tarfile.open(shard, "w") as archive:
        for number, path in enumerate(paths):
            with Image.open(path) as file:
                image = file.convert("RGB")
            scale = min(1.0, PACKED_SIDE / min(image.size))
            width, height = (max(1, round(scale * side)) for side in image.size)
            data = io.BytesIO()
            image.resize((width, height), Image.Resampling.BILINEAR).save(
                data, "JPEG", quality=QUALITY, subsampling=HALF_COLOUR
            )
            member = tarfile.TarInfo(f"{number:08}.jpg")
            member.size = data.tell()
            data.seek(0)
            archive.addfile(member, data)
