"""Labelled images: a folder with one folder for each class, or any source that names classes."""

from __future__ import annotations

from pathlib import Path

import torch
from torch import Tensor

from moco.data.images import Pixels
from moco.data.sources.folder import FolderImages
from moco.data.sources.opening import open_images
from moco.errors import DataError


class LabelledImages:
    """The images of FOLDER/CLASS/..., or of another source with labels.

    Raises:
        DataError: No images, images without a class, or fewer than two classes.
    """

    def __init__(self, source: str | Path, *, cache_bytes: int = 0) -> None:
        self.source = source
        self.images = open_images(source, cache_bytes=cache_bytes)
        names = self.images.labels()
        if names is None:
            raise DataError(f"{source} {self._without_classes()}")
        self.classes = sorted(set(names))
        if len(self.classes) < 2:
            what = "class folder" if isinstance(self.images, FolderImages) else "class"
            raise DataError(f"{source} has one {what} only; evaluation needs two or more")
        numbers = {name: number for number, name in enumerate(self.classes)}
        self.labels: Tensor = torch.tensor([numbers[name] for name in names])
        """[len(self)] the class number of each image."""

    def __len__(self) -> int:
        return len(self.images)

    def name(self, image_id: int) -> str:
        return self.images.name(image_id)

    def read(self, image_id: int) -> Pixels:
        return self.images.read(image_id)

    def _without_classes(self) -> str:
        if not isinstance(self.images, FolderImages):
            return "names no classes; evaluation needs labels beside the images"
        names = (self.images.name(image_id) for image_id in range(len(self.images)))
        outside = next(name for name in names if len(Path(name).parts) < 2)
        return f"has images outside class folders ({outside}); evaluation needs FOLDER/CLASS/image"


def matching_images(
    train: str | Path, test: str | Path, *, cache_bytes: int = 0
) -> tuple[LabelledImages, LabelledImages]:
    """Return both labelled sources, with the same classes.

    Args:
        cache_bytes: decoded training images are kept in memory up to this size, per process.

    Raises:
        DataError: They do not have the same classes, or one has none.
    """
    train_images = LabelledImages(train, cache_bytes=cache_bytes)
    test_images = LabelledImages(test)
    if train_images.classes != test_images.classes:
        only = set(train_images.classes) ^ set(test_images.classes)
        raise DataError(
            f"{train} and {test} have different class folders: {', '.join(sorted(only)[:5])}; "
            "give both the same"
        )
    return train_images, test_images
