"""Images of one size that follow one another: in files, or unpacked in memory."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from moco.data.images import Pixels
from moco.data.sources.array_pixels import (
    is_channels_first,
    pixel_type,
    pixels_of_array,
    refused_type,
)
from moco.data.sources.base import Source
from moco.data.sources.files import OpenFiles
from moco.errors import DataError

MOST_IMAGE_BYTES = 1 << 30


@dataclass(frozen=True)
class Layout:
    """Of one image: its axes and its values as stored."""

    shape: tuple[int, ...]
    dtype: np.dtype[Any]
    channels_first: bool

    @property
    def nbytes(self) -> int:
        """Bytes of an image."""
        return int(np.prod(self.shape, dtype=object)) * self.dtype.itemsize


def layout_of_stack(what: str, shape: tuple[int, ...], dtype: np.dtype[Any]) -> Layout:
    """Return the layout of the images in a stack [N, H, W], [N, H, W, C] or [N, C, H, W].

    The last axis holds the channels unless it is larger than the second one.

    Raises:
        DataError: Of another shape, of a type that cannot be pixels, or empty.
    """
    if len(shape) not in (3, 4):
        raise DataError(f"{what} has shape {list(shape)}; images are [N, H, W] or [N, H, W, C]")
    if 0 in shape:
        raise DataError(f"{what} has shape {list(shape)}: no image in it")
    if len(shape) == 3 and shape[2] <= 4:
        raise DataError(
            f"{what} has shape {list(shape)}, which looks like one image; images are [N, H, W] or "
            "[N, H, W, C]: put a folder of single images in its place, or add an axis"
        )
    if pixel_type(dtype) is None:
        raise DataError(f"{what}: {refused_type(dtype)}")
    layout = Layout(shape[1:], dtype, is_channels_first(shape[1:]))
    if layout.nbytes > MOST_IMAGE_BYTES:
        raise DataError(f"{what} has images of over {MOST_IMAGE_BYTES >> 30} GiB; cut them up")
    return layout


@dataclass(frozen=True)
class RecordFile:
    """A file of equally long records; in bytes: where the first begins, how long each is."""

    path: Path
    images: int
    begin: int
    stride: int
    pixels: int = 0
    """Where in its record an image begins."""


class RecordImages(Source):
    """Images in files of equally long records, read one by one."""

    def __init__(
        self,
        path: Path,
        files: Sequence[RecordFile],
        layout: Layout,
        *,
        cache_bytes: int = 0,
    ) -> None:
        super().__init__(cache_bytes=cache_bytes)
        self.path, self.layout, self.records = path, layout, list(files)
        self._starts = np.cumsum([0, *(file.images for file in files)])
        self._files = OpenFiles()

    def __len__(self) -> int:
        return int(self._starts[-1])

    def _place(self, image_id: int) -> tuple[RecordFile, int]:
        number = int(np.searchsorted(self._starts, image_id, "right")) - 1
        return self.records[number], image_id - int(self._starts[number])

    def _name(self, image_id: int) -> str:
        file, row = self._place(image_id)
        return f"{file.path.name} row {row}"

    def _read(self, image_id: int) -> Pixels:
        file, row = self._place(image_id)
        begin = file.begin + row * file.stride + file.pixels
        content = self._files.read(file.path, begin, self.layout.nbytes)
        values = np.frombuffer(content, self.layout.dtype).reshape(self.layout.shape)
        return pixels_of_array(values, channels_first=self.layout.channels_first)

    def shard_sizes(self) -> NDArray[np.int64]:
        """Return how many images each file holds."""
        return np.diff(self._starts)


class UnpackedImages(Source):
    """Images that are unpacked into memory as a whole, once in each process that reads them."""

    def __init__(self, path: Path, layout: Layout, count: int) -> None:
        super().__init__()  # what would be cached is in memory already
        self.path, self.layout, self.count = path, layout, count
        self._stack: NDArray[Any] | None = None

    @abstractmethod
    def _unpack(self) -> NDArray[Any]:
        """Return all images [N, ...]; raises DataError."""

    def unpack(self) -> NDArray[Any]:
        """Return all images [N, ...], unpacked once for this process and those forked from it."""
        if self._stack is None:
            self._stack = self._unpack()
        return self._stack

    def release(self) -> None:
        """Give back the memory of the images; they can be unpacked again."""
        self._stack = None

    def __len__(self) -> int:
        return self.count

    def _name(self, image_id: int) -> str:
        return f"{self.path.name} row {image_id}"

    def _read(self, image_id: int) -> Pixels:
        return pixels_of_array(self.unpack()[image_id], channels_first=self.layout.channels_first)

    def __getstate__(self) -> dict[str, Any]:
        return {**super().__getstate__(), "_stack": None}
