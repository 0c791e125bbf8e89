"""The made photographs: like ImageNet's files, always the same; the remedy where they lack."""

from __future__ import annotations

import importlib.util
import tarfile
from pathlib import Path

import pytest
from PIL import Image, JpegImagePlugin

from moco.benchmark.photographs import COUNT, pack, write_photographs
from moco.data.sources.opening import open_images
from moco.errors import DataError


def test_are_jpegs_of_the_usual_kind_all_different(tmp_path: Path) -> None:
    paths = write_photographs(tmp_path)
    assert len(paths) == len({path.read_bytes() for path in paths}) == COUNT == 48
    for path in paths:
        with Image.open(path) as image:
            assert (image.format, image.mode, image.size) == ("JPEG", "RGB", (500, 375))
            assert JpegImagePlugin.get_sampling(image) == 2  # 4:2:0
    assert 35e3 < sum(path.stat().st_size for path in paths) / COUNT < 65e3


def test_are_the_same_every_time(tmp_path: Path) -> None:
    folders = [tmp_path / "a", tmp_path / "b"]
    for folder in folders:
        folder.mkdir()
    first, second = (write_photographs(folder, 9) for folder in folders)
    assert [path.read_bytes() for path in first] == [path.read_bytes() for path in second]


@pytest.mark.parametrize("package", ["skimage", "sklearn"])
def test_a_missing_package_is_told_with_the_remedy(
    package: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    found = importlib.util.find_spec
    monkeypatch.setattr(
        importlib.util, "find_spec", lambda name: None if name == package else found(name)
    )
    with pytest.raises(DataError, match=r"pip install 'moco-torch\[bench\]', or .*--images"):
        write_photographs(tmp_path)


def test_packed_images_are_small_and_can_be_read(tmp_path: Path) -> None:
    sizes = [(500, 375), (300, 900), (40, 30)]
    paths = [tmp_path / f"{number}.png" for number in range(3)]
    for path, size in zip(paths, sizes, strict=True):
        Image.new("RGB", size, (200, 30, 60)).save(path)
    shard = tmp_path / "shard.tar"
    pack(paths, shard)
    with tarfile.open(shard) as archive:
        assert archive.getnames() == ["00000000.jpg", "00000001.jpg", "00000002.jpg"]
    images = open_images(shard)
    assert [images.read(i).shape for i in range(3)] == [
        (256, 341, 3),
        (768, 256, 3),
        (30, 40, 3),
    ]
    assert abs(images.read(1).astype(int) - (200, 30, 60)).max() <= 3
