"""An image made small and put into the bytes of a file."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from io import BytesIO
from typing import Any, NamedTuple

import numpy as np
import torch
from PIL import Image
from torch.nn import functional as F

from moco.data.images import Images, Pixels, UnreadableImageError


@dataclass(frozen=True)
class Encoding:
    """How images are packed."""

    side: int | None = 256
    """What the shorter side is at most; None for images as large as they are."""
    quality: int = 90
    """Of JPEG, 1 to 100."""
    lossless: bool = False
    """PNG in place of JPEG."""

    def settings(self) -> dict[str, Any]:
        """Return what decides the bytes, as plain values."""
        found = asdict(self)
        return {**found, "quality": None} if self.lossless else found


class Encoded(NamedTuple):
    """An image as a file: what its name ends in, and its bytes."""

    suffix: str
    content: bytes


class Unusable(NamedTuple):
    """An image that cannot be packed."""

    reason: str


def encode_image(images: Images, image_id: int, encoding: Encoding) -> Encoded | Unusable:
    """Return the image's new file, or why there is none."""
    try:
        return encode(shrunk(images.read(image_id), encoding.side), encoding)
    except UnreadableImageError as error:
        return Unusable(str(error))


def shrunk(pixels: Pixels, side: int | None) -> Pixels:
    """Return the image with a shorter side of at most `side`, as views are resized: antialiased."""
    height, width = pixels.shape[:2]
    short = min(height, width)
    if side is None or short <= side:
        return pixels
    size = [max(1, round(length * side / short)) for length in (height, width)]
    # torch resizes bytes in their own arithmetic and knows no uint16
    kept = pixels if pixels.dtype == np.uint8 else pixels.astype(np.float32)
    batch = torch.from_numpy(np.require(kept, requirements=("C", "W"))).permute(2, 0, 1)[None]
    resized = F.interpolate(batch, size, mode="bilinear", antialias=True)[0]
    found = resized.permute(1, 2, 0).numpy()
    if pixels.dtype == np.uint16:
        found = np.clip(np.rint(found), 0, 65535)
    return np.ascontiguousarray(found.astype(pixels.dtype))


def encode(pixels: Pixels, encoding: Encoding) -> Encoded:
    """Return the image as JPEG, as PNG where nothing may be lost, as .npy where neither holds it.

    Raises:
        UnreadableImageError: No file would be read as this image.
    """
    file = BytesIO()
    if pixels.dtype != np.uint8 or pixels.shape[2] not in (1, 3):
        np.lib.format.write_array(file, _npy_layout(pixels), version=(1, 0), allow_pickle=False)
        return Encoded(".npy", file.getvalue())
    picture = Image.fromarray(pixels[:, :, 0] if pixels.shape[2] == 1 else pixels)
    if encoding.lossless:
        picture.save(file, "PNG")
        return Encoded(".png", file.getvalue())
    try:
        picture.save(file, "JPEG", quality=encoding.quality, subsampling="4:2:0")
    except (OSError, ValueError) as error:  # no side of a JPEG is above 65500
        raise UnreadableImageError(f"no JPEG can hold it: {error}") from error
    return Encoded(".jpg", file.getvalue())


def _npy_layout(pixels: Pixels) -> Pixels:
    """Return [H, W, C] or [C, H, W], whichever a reader takes for what it is.

    A reader takes the last axis for the channels if it is not longer than the first.
    """
    height, width, channels = pixels.shape
    if channels <= height:
        return pixels
    if width > channels:
        return np.ascontiguousarray(np.moveaxis(pixels, 2, 0))
    raise UnreadableImageError(f"its {channels} channels are more than its rows and columns")
