"""Images that Python code hands over: any sequence, or a data set of torch."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any, Protocol

import numpy as np
import torch
from PIL import Image

from moco.data.decoding import pixels_of
from moco.data.images import Pixels, UnreadableImageError
from moco.data.sources.array_pixels import pixels_of_array
from moco.data.sources.base import Source, class_names, joined_labels, one_line
from moco.errors import DataError

IMAGE_KEYS = ("image", "img")


class Items(Protocol):
    """Anything with a length and items by number."""

    def __len__(self) -> int: ...

    def __getitem__(self, number: int, /) -> Any: ...


class SequenceImages(Source):
    """The images of a sequence or of a torch `Dataset`.

    An item is a Pillow image, an array [H, W], [H, W, C] or [C, H, W], or a tensor [H, W] or
    [C, H, W]; or a tuple or list that begins with one, or a dict that has one as `image` or `img`.
    Types of values are those of `array_pixels.pixel_type`. An array of equal first and last sides
    is [H, W, C].

    Args:
        items: its images; asked for by number, in every loading process.
        labels: the class of each image; a number for each; or its several classes, as lists or as
            a bool array [N, Y]. The data set's `targets` by default, if it has them.

    Raises:
        DataError: It is empty, or there are more or fewer labels than images.
    """

    def __init__(
        self, items: Items, labels: Sequence[Any] | None = None, *, cache_bytes: int = 0
    ) -> None:
        super().__init__(cache_bytes=cache_bytes)
        self.items, self._labels = items, labels
        if not len(items):
            raise DataError("the sequence of images is empty")
        if labels is not None and len(labels) != len(items):
            raise DataError(f"{len(labels)} labels for {len(items)} images; give one for each")

    def __len__(self) -> int:
        return len(self.items)

    def _name(self, image_id: int) -> str:
        return f"image {image_id}"

    def _read(self, image_id: int) -> Pixels:
        try:
            item = self.items[image_id]
        except Exception as error:
            raise UnreadableImageError(one_line(error)) from error
        return pixels_of_item(item)

    def labels(self) -> list[str] | None:
        """Return the given labels, else the data set's `targets`, without reading an image."""
        labels = self._labels
        if labels is None:
            labels = getattr(self.items, "targets", None)
        if labels is None or len(labels) != len(self):
            return None
        names = [str(name) for name in getattr(self.items, "classes", [])]
        if any(isinstance(label, list | tuple | set) for label in labels):
            return [_several(label, names) for label in labels]
        values = np.asarray(labels)
        if values.ndim == 2 and values.dtype.kind == "b":
            return [_several(row.nonzero()[0].tolist(), names) for row in values]
        if values.ndim == 1 and values.dtype.kind in "iu":
            return class_names(values, names)
        return [str(label) for label in labels]


def _several(labels: Iterable[Any], names: list[str]) -> str:
    """Return the labels of one image as one text, by name where numbers have names."""
    known = dict(enumerate(names))
    return joined_labels(known.get(label, label) for label in labels)


def pixels_of_item(item: Any) -> Pixels:
    """Return the image that an item is or begins with; raises UnreadableImageError."""
    if isinstance(item, dict):
        item = next((item[key] for key in IMAGE_KEYS if key in item), item)
    if isinstance(item, tuple | list) and item:
        item = item[0]
    if isinstance(item, Image.Image):
        return pixels_of(item)
    if isinstance(item, torch.Tensor):
        values = item.detach().cpu()
        values = values.float() if values.dtype == torch.bfloat16 else values
        return pixels_of_array(values.numpy(), channels_first=item.ndim == 3)
    if isinstance(item, np.ndarray):
        return pixels_of_array(item)
    raise UnreadableImageError(
        f"an item is a {type(item).__name__}, not a Pillow image, array or tensor"
    )
