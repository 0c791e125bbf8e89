"""Images with labels from anywhere, and parts of them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor

from moco.data.images import Images, Pixels, SubsetImages


class Labelled(Images, Protocol):
    """Images and the class of each; `LabelledImages` are such."""

    @property
    def labels(self) -> Tensor:
        """[N] class numbers."""
        ...

    @property
    def classes(self) -> Sequence[str]:
        """The name of each class number."""
        ...


@dataclass(frozen=True)
class LabelledPart:
    """Some images with the labels of just these."""

    images: Images
    labels: Tensor
    classes: Sequence[str]

    def __len__(self) -> int:
        return len(self.images)

    def name(self, image_id: int) -> str:
        return self.images.name(image_id)

    def read(self, image_id: int) -> Pixels:
        return self.images.read(image_id)


def part_of(images: Labelled, rows: Tensor) -> LabelledPart:
    """Return some of the images, renumbered from 0."""
    return LabelledPart(
        SubsetImages(images, rows.tolist()), torch.as_tensor(images.labels)[rows], images.classes
    )
