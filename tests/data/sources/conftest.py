from __future__ import annotations

import hashlib
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from source_makers import make_folder
from torch.utils.data import DataLoader, Dataset

from moco.data.images import Images, UnreadableImageError
from moco.data.sources.folder import FolderImages


@pytest.fixture(scope="session")
def pictures(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a folder of 24 images of 32 x 32 pixels in three class folders."""
    return make_folder(tmp_path_factory.mktemp("pictures"))


@pytest.fixture(scope="session")
def stack(pictures: Path) -> np.ndarray:
    """Return the folder's images [24, 32, 32, 3], grey ones in three equal channels."""
    images = FolderImages(pictures)
    return np.stack(
        [np.broadcast_to(images.read(number), (32, 32, 3)) for number in range(len(images))]
    )


class Reads(Dataset[str]):
    """What reading gives: shape, type and a digest of the pixels, or why there is none."""

    def __init__(self, images: Images) -> None:
        self.images = images

    def __len__(self) -> int:
        return len(self.images)

    def __getitem__(self, image_id: int) -> str:
        try:
            pixels = self.images.read(image_id)
        except UnreadableImageError as error:
            return str(error)
        assert pixels.flags.c_contiguous
        digest = hashlib.sha256(pixels.tobytes()).hexdigest()[:8]
        return f"{self.images.name(image_id)}: {pixels.shape} {pixels.dtype} {digest}"


@pytest.fixture
def reads() -> Callable[..., list[str]]:
    """Return reads(images, workers=0): what reading each image gives, in order."""

    def read_all(images: Images, workers: int = 0) -> list[str]:
        if workers == 0:
            return [Reads(images)[number] for number in range(len(images))]
        loader = DataLoader(Reads(images), batch_size=None, num_workers=workers, timeout=60)
        return list(loader)

    return read_all
