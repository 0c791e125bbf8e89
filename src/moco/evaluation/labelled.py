"""Labelled images: a folder with one folder for each class, or any source that names labels."""

from __future__ import annotations

from pathlib import Path
from typing import NamedTuple

from torch import Tensor

from moco.data.images import Pixels, StoredImages
from moco.data.sources.folder import FolderImages
from moco.data.sources.opening import open_images
from moco.errors import DataError
from moco.evaluation.feature_set import Task
from moco.evaluation.label_kinds import read_labels, task_of_labels


class Opened(NamedTuple):
    """A source with what its labels say."""

    images: StoredImages
    labels: list[str]


class LabelledImages:
    """The images of FOLDER/CLASS/..., or of another source with labels.

    Args:
        task: what is asked of the images.
        opened: the source, where it is open already.

    Raises:
        DataError: No images, images without a label, fewer than two classes, or labels that are no
            numbers where numbers are asked for.
    """

    def __init__(
        self,
        source: str | Path,
        *,
        cache_bytes: int = 0,
        task: Task = "one_class",
        opened: Opened | None = None,
    ) -> None:
        self.source, self.task = source, task
        self.images, names = opened or open_labelled(source, cache_bytes=cache_bytes)
        found, classes = read_labels(names, task, source)
        self.labels: Tensor = found
        """[len(self)] class numbers or numbers, or bool [len(self), Y]."""
        self.classes = list(classes)
        if len(self.classes) < 2 and task == "one_class":
            what = "class folder" if isinstance(self.images, FolderImages) else "class"
            raise DataError(f"{source} has one {what} only; evaluation needs two or more")

    def __len__(self) -> int:
        return len(self.images)

    def name(self, image_id: int) -> str:
        return self.images.name(image_id)

    def read(self, image_id: int) -> Pixels:
        return self.images.read(image_id)


def open_labelled(source: str | Path, *, cache_bytes: int = 0) -> Opened:
    """Return a source and its labels.

    Raises:
        DataError: There are no images, or no labels.
    """
    images = open_images(source, cache_bytes=cache_bytes)
    labels = images.labels()
    if labels is None:
        raise DataError(f"{source} {_without_classes(images)}")
    return Opened(images, labels)


def _without_classes(images: StoredImages) -> str:
    if not isinstance(images, FolderImages):
        return "names no classes; evaluation needs labels beside the images"
    names = (images.name(image_id) for image_id in range(len(images)))
    outside = next(name for name in names if len(Path(name).parts) < 2)
    return f"has images outside class folders ({outside}); evaluation needs FOLDER/CLASS/image"


def matching_images(
    train: str | Path, test: str | Path, *, cache_bytes: int = 0, task: Task | None = "one_class"
) -> tuple[LabelledImages, LabelledImages]:
    """Return both labelled sources, with the same classes.

    Args:
        cache_bytes: decoded training images are kept in memory up to this size, per process.
        task: what is asked of the images; None for what the labels look like.

    Raises:
        DataError: They do not have the same classes, or one has none.
    """
    known, asked = open_labelled(train, cache_bytes=cache_bytes), open_labelled(test)
    if task is None:
        of_folders = isinstance(known.images, FolderImages)
        task = "one_class" if of_folders else task_of_labels(known.labels, asked.labels)
    train_images = LabelledImages(train, task=task, opened=known)
    test_images = LabelledImages(test, task=task, opened=asked)
    if train_images.classes != test_images.classes:
        only = set(train_images.classes) ^ set(test_images.classes)
        what = "class folders" if isinstance(known.images, FolderImages) else "classes"
        raise DataError(
            f"{train} and {test} have different {what}: {', '.join(sorted(only)[:5])}; "
            "give both the same"
        )
    return train_images, test_images
