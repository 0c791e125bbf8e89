"""Pictures that their camera stored on their side."""

from __future__ import annotations

import numpy as np

from moco.data.decoding.tags import ORIENTATION, read_tags
from moco.data.images import Pixels


def upright(pixels: Pixels, orientation: int) -> Pixels:
    """Return the image as it is to be seen, in C order; `orientation` as EXIF has it, 1 to 8."""
    if not 2 <= orientation <= 8:
        return pixels
    if orientation >= 5:
        pixels = pixels.swapaxes(0, 1)
    if orientation in (3, 4, 7, 8):
        pixels = pixels[::-1]
    if orientation in (2, 3, 6, 7):
        pixels = pixels[:, ::-1]
    turned = np.empty(pixels.shape, pixels.dtype)
    for channel in range(pixels.shape[2]):  # four times as fast as all at once
        turned[:, :, channel] = pixels[:, :, channel]
    return turned


def exif_orientation(exif: bytes) -> int:
    """Return what the first directory of Exif metadata says, 1 where it does not."""
    while exif.startswith(b"Exif\0\0"):
        exif = exif[6:]
    try:
        (orientation,) = read_tags(exif, {ORIENTATION}).get(ORIENTATION, (1,))
    except ValueError:  # damaged metadata is no damage to the picture
        return 1
    return orientation if 1 <= orientation <= 8 else 1
