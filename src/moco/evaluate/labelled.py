"""Labelled images: a folder with one folder for each class."""

from __future__ import annotations

from pathlib import Path

import torch
from torch import Tensor

from moco.data.images import FolderImages
from moco.errors import DataError


class LabelledFolder(FolderImages):
    """Images of FOLDER/CLASS/..., labelled by the first folder of their path.

    Raises:
        DataError: No images, images outside class folders, or fewer than two classes.
    """

    def __init__(self, folder: str | Path) -> None:
        super().__init__(folder)
        names = [Path(path).parts for path in self.paths]
        outside = next((parts[0] for parts in names if len(parts) < 2), None)
        if outside is not None:
            raise DataError(
                f"{folder} has images outside class folders ({outside}); "
                "evaluation needs FOLDER/CLASS/image"
            )
        self.classes = sorted({parts[0] for parts in names})
        if len(self.classes) < 2:
            raise DataError(f"{folder} has one class folder only; evaluation needs two or more")
        numbers = {name: number for number, name in enumerate(self.classes)}
        self.labels: Tensor = torch.tensor([numbers[parts[0]] for parts in names])
        """[len(self)] the class number of each image."""


def matching_folders(train: str | Path, test: str | Path) -> tuple[LabelledFolder, LabelledFolder]:
    """Return both labelled folders, with the same classes.

    Raises:
        DataError: They do not have the same class folders, or one is no labelled folder.
    """
    train_images, test_images = LabelledFolder(train), LabelledFolder(test)
    if train_images.classes != test_images.classes:
        only = set(train_images.classes) ^ set(test_images.classes)
        raise DataError(
            f"{train} and {test} have different class folders: {', '.join(sorted(only)[:5])}"
        )
    return train_images, test_images
