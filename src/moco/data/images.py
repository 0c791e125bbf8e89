"""Unlabelled images by number: a folder, or any sequence of Pillow images."""

from __future__ import annotations

import os
import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import Protocol

import numpy as np
from PIL import Image, ImageOps

from moco.errors import DataError

IMAGE_SUFFIXES = frozenset(
    {".bmp", ".gif", ".jfif", ".jpeg", ".jpg", ".pgm", ".png", ".ppm", ".tif", ".tiff", ".webp"}
)

IMAGE_FORMATS = ("BMP", "GIF", "JPEG", "PNG", "PPM", "TIFF", "WEBP")
"""What a file may turn out to hold, whatever its suffix: Pillow has readers that start other
programs."""


class Images(Protocol):
    """Images known by their number, 0 to len - 1; reading one may raise UnreadableImageError."""

    def __len__(self) -> int: ...

    def read(self, image_id: int) -> Image.Image:
        """Return the image, grey ("L") or colour ("RGB")."""
        ...

    def name(self, image_id: int) -> str:
        """Return what a person calls the image: its path under the folder."""
        ...


class UnreadableImageError(Exception):
    """A file that is not an image, or a damaged one; its text is the reason."""


class FolderImages:
    """All images below a folder, in the order of their paths; no class folders needed.

    Args:
        folder: searched recursively; other files are left alone.
        cache_bytes: decoded images are kept in memory up to this size, per process.

    Raises:
        DataError: The folder is missing or holds no image file.
    """

    def __init__(self, folder: str | Path, *, cache_bytes: int = 0) -> None:
        self.folder = Path(folder)
        self.paths = find_images(self.folder)
        self.cache_bytes = cache_bytes
        self.cached: dict[int, Image.Image] = {}

    def __len__(self) -> int:
        return len(self.paths)

    def name(self, image_id: int) -> str:
        return self.paths[image_id]

    def path(self, image_id: int) -> Path:
        """Return where the image lies."""
        return self.folder / self.paths[image_id]

    def read(self, image_id: int) -> Image.Image:
        """Return the image; raises UnreadableImageError."""
        if image_id in self.cached:
            return self.cached[image_id]
        image = decode(self.path(image_id))
        size = image.width * image.height * (1 if image.mode == "L" else 4)  # as Pillow holds it
        if size <= self.cache_bytes:
            self.cache_bytes -= size
            self.cached[image_id] = image
        return image


class SequenceImages:
    """Any sequence of Pillow images, for use from Python."""

    def __init__(self, images: Sequence[Image.Image]) -> None:
        self.images = images

    def __len__(self) -> int:
        return len(self.images)

    def name(self, image_id: int) -> str:
        return f"image {image_id}"

    def read(self, image_id: int) -> Image.Image:
        return to_grey_or_rgb(self.images[image_id])


def find_images(folder: Path) -> list[str]:
    """Return the paths of all image files below `folder`, relative to it, sorted.

    Raises:
        DataError: The folder is missing, one below it cannot be read, or none of its files has an
            image's suffix.
    """
    if not os.path.isdir(folder):
        what = "is a file, not a folder" if folder.exists() else "does not exist"
        raise DataError(f"image folder {folder} {what}; name a folder of images")
    found, walked = [], set()
    for directory, folders, files in os.walk(folder, onerror=_refuse_folder, followlinks=True):
        status = os.stat(directory)
        if (status.st_dev, status.st_ino) in walked:  # a link to where we were
            folders.clear()
            continue
        walked.add((status.st_dev, status.st_ino))
        folders.sort()
        below = os.path.relpath(directory, folder)
        for file in files:
            if os.path.splitext(file)[1].lower() in IMAGE_SUFFIXES:
                found.append(os.path.normpath(os.path.join(below, file)))
    if not found:
        kinds = " ".join(sorted(IMAGE_SUFFIXES))
        raise DataError(f"no image below {folder}; files that count end in {kinds}")
    return sorted(found)


def check_readable(images: Images) -> None:
    """Read images up to the first good one.

    Raises:
        DataError: There is none.
    """
    reason = ""
    for image_id in range(len(images)):
        try:
            images.read(image_id)
        except UnreadableImageError as error:
            reason = reason or f"{images.name(image_id)}: {error}"
            continue
        return
    raise DataError(f"none of the {len(images)} images can be read; {reason}")


def _refuse_folder(error: OSError) -> None:
    raise DataError(
        f"folder {error.filename} cannot be read ({error.strerror}); make it readable, or move it"
    )


def decode(path: Path) -> Image.Image:
    """Return a file's first picture upright, grey or RGB.

    Raises:
        UnreadableImageError: It is no image, damaged, or over Pillow's limit of pixels.
    """
    try:
        if not path.is_file():
            raise UnreadableImageError("not a regular file")
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # Pillow's doubts about files that it can read
            with Image.open(path, formats=IMAGE_FORMATS) as file:
                return to_grey_or_rgb(ImageOps.exif_transpose(file))
    except (OSError, SyntaxError, ValueError, EOFError, Image.DecompressionBombError) as error:
        reason = str(error).replace(repr(str(path)), path.name).replace(str(path), path.name)
        reason = reason or type(error).__name__
        raise UnreadableImageError(reason) from error


def to_grey_or_rgb(image: Image.Image) -> Image.Image:
    """Return the image with 8 bits a channel: "L" when it has one channel, else "RGB".

    Grey stays one channel until the tensor is made: every operation of a view gives the same
    pixels as on three equal channels, at a third of the work.
    """
    if image.mode.startswith("I;16"):  # Pillow's own conversion would clip it to white
        return Image.fromarray((np.asarray(image).astype(np.uint32) // 257).astype(np.uint8))
    if image.mode in ("1", "L"):
        return image.convert("L")
    return image.convert("RGB")


class SubsetImages:
    """Some of the images, renumbered from 0."""

    def __init__(self, images: Images, image_ids: Sequence[int]) -> None:
        self.images, self.image_ids = images, list(image_ids)

    def __len__(self) -> int:
        return len(self.image_ids)

    def name(self, image_id: int) -> str:
        return self.images.name(self.image_ids[image_id])

    def read(self, image_id: int) -> Image.Image:
        return self.images.read(self.image_ids[image_id])
