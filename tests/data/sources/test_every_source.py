"""Every format gives the same images in the same order as the folder that it was made from."""

from __future__ import annotations

import pickle
import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from source_makers import (
    CLASSES,
    ENCODED,
    cifar,
    idx_files,
    labels_in,
    names_in,
    save_array,
    save_arrays,
)

from moco.data.images import StoredImages
from moco.data.sources.base import Source
from moco.data.sources.folder import FolderImages
from moco.data.sources.opening import open_images
from moco.data.sources.sequence import SequenceImages

Maker = Callable[[np.ndarray, list[str], Path], StoredImages]


def opened(path: Path) -> StoredImages:
    return open_images(path)


DECODED: dict[str, Maker] = {
    "npy": lambda stack, _, out: opened(save_array(out / "x.npy", stack)),
    "npy channels first": lambda stack, _, out: opened(
        save_array(out / "x.npy", np.ascontiguousarray(stack.transpose(0, 3, 1, 2)))
    ),
    "npz": lambda stack, labels, out: opened(
        save_arrays(out / "x.npz", stack, labels, packed=False)
    ),
    "npz compressed": lambda stack, labels, out: opened(
        save_arrays(out / "x.npz", stack, labels, packed=True)
    ),
    "npz in Fortran order": lambda stack, labels, out: opened(
        save_arrays(out / "x.npz", np.asfortranarray(stack), labels, packed=False)
    ),
    "cifar-10": lambda stack, labels, out: opened(cifar(stack, labels, out)),
    "cifar-100": lambda stack, labels, out: opened(cifar(stack, labels, out, hundred=True)),
    "idx4": lambda stack, labels, out: opened(idx_files(stack, labels, out, packed=False)),
    "idx4 gz": lambda stack, labels, out: opened(idx_files(stack, labels, out, packed=True)),
    "arrays": lambda stack, labels, _: SequenceImages(list(stack), labels),
    "Pillow images": lambda stack, labels, _: SequenceImages(
        [(Image.fromarray(pixels), 1) for pixels in stack], labels
    ),
    "tensors": lambda stack, labels, _: SequenceImages(
        torch.from_numpy(stack.transpose(0, 3, 1, 2).copy()), labels
    ),
}
WITH_NUMBERS = {"idx4", "idx4 gz"}  # formats without class names
WITHOUT_LABELS = {"npy", "npy channels first"}


def stems(reads: list[str]) -> list[str]:
    """Return what was read, without the names."""
    return [read.rpartition(": ")[2] for read in reads]


def check_copies(
    images: StoredImages, expected: list[str], reads: Callable[..., list[str]]
) -> None:
    """Check what is read here, by two forked processes, and after a journey to a spawned one."""
    assert isinstance(images, StoredImages)
    assert stems(reads(images)) == expected
    here = reads(images)
    assert reads(images, 2) == here
    assert reads(pickle.loads(pickle.dumps(images))) == here
    assert images.shard_sizes().sum() == len(images)
    assert images.shard_sizes().min() > 0
    assert isinstance(images, Source)
    assert images.damaged == []
    images.prefetch(len(images.shard_sizes()) - 1)


@pytest.mark.parametrize("kind", ENCODED)
def test_formats_of_encoded_files(
    kind: str, pictures: Path, tmp_path: Path, reads: Callable[..., list[str]]
) -> None:
    images = open_images(ENCODED[kind](pictures, tmp_path))
    check_copies(images, stems(reads(FolderImages(pictures))), reads)
    assert images.labels() == labels_in(pictures)
    if kind in ("zip stored", "zip deflated", "tar ustar", "tar gnu", "tar pax"):
        assert [images.name(number) for number in range(24)] == names_in(pictures)
        assert images.fingerprint() == FolderImages(pictures).fingerprint()


@pytest.mark.parametrize("kind", DECODED)
def test_formats_of_pixels(
    kind: str, pictures: Path, stack: np.ndarray, tmp_path: Path, reads: Callable[..., list[str]]
) -> None:
    labels = labels_in(pictures)
    images = DECODED[kind](stack, labels, tmp_path)
    expected = stems(reads(SequenceImages(list(stack))))
    check_copies(images, expected, reads)
    for number in (0, 7, 23):
        np.testing.assert_array_equal(images.read(number), stack[number])
    if kind in WITHOUT_LABELS:
        assert images.labels() is None
    elif kind in WITH_NUMBERS:
        assert images.labels() == [str(CLASSES.index(label)) for label in labels]
    else:
        assert images.labels() == labels


@pytest.mark.parametrize("kind", ["tar shards", "zip deflated", "parquet structs", "folder"])
def test_any_order_gives_the_same_images(kind: str, pictures: Path, tmp_path: Path) -> None:
    images, folder = open_images(ENCODED[kind](pictures, tmp_path)), FolderImages(pictures)
    for number in np.random.default_rng(1).integers(0, 24, 60):
        np.testing.assert_array_equal(images.read(number), folder.read(int(number)))


def test_grey_images_keep_one_channel(pictures: Path, tmp_path: Path) -> None:
    images = open_images(ENCODED["tar shards"](pictures, tmp_path))
    channels = [images.read(number).shape[2] for number in range(24)]
    assert channels.count(1) == 5
    assert channels.count(3) == 19


@pytest.mark.parametrize("kind", ["tar shards", "list of paths", "zip stored", "folder"])
@pytest.mark.parametrize("limit", [0, 5_000, 10**9])
def test_the_cache_stays_under_its_limit(
    kind: str, limit: int, pictures: Path, tmp_path: Path
) -> None:
    images = open_images(ENCODED[kind](pictures, tmp_path), cache_bytes=limit)
    first = [images.read(number) for number in range(24)]
    again = [images.read(number) for number in range(24)]
    kept = [one is other for one, other in zip(first, again, strict=True)]
    held = [pixels.nbytes for pixels, is_kept in zip(first, kept, strict=True) if is_kept]
    assert sum(held) <= limit
    assert all(kept) == (limit == 10**9)
    assert any(kept) == (limit > 0)
    copy = pickle.loads(pickle.dumps(images))
    assert all(copy.read(number) is not first[number] for number in range(24))
    assert len(pickle.dumps(images)) < 10_000  # neither pixels nor files travel


@pytest.mark.parametrize(
    "kind", ["folder", "tar shards", "zip stored", "parquet structs", "list of paths"]
)
def test_no_image_outside_its_numbers(kind: str, pictures: Path, tmp_path: Path) -> None:
    images = open_images(ENCODED[kind](pictures, tmp_path))
    for number in (-1, 24):
        with pytest.raises(IndexError):
            images.read(number)
        with pytest.raises(IndexError):
            images.name(number)


@pytest.mark.parametrize("kind", ["folder", "tar shards", "parquet bytes", "list of paths"])
def test_names_differ_and_decide_the_fingerprint(kind: str, pictures: Path, tmp_path: Path) -> None:
    made = []
    for place in ("one", "two"):
        (tmp_path / place).mkdir()
        made.append(open_images(ENCODED[kind](pictures, tmp_path / place)))
    assert len({made[0].name(number) for number in range(24)}) == 24
    assert made[0].fingerprint() == made[1].fingerprint()


@pytest.mark.parametrize("kind", ["folder", "zip stored", "tar ustar", "list without header"])
def test_the_fingerprint_tells_other_images(kind: str, pictures: Path, tmp_path: Path) -> None:
    copy = tmp_path / "copy"
    shutil.copytree(pictures, copy)
    prints = []
    for number in range(3):
        (tmp_path / str(number)).mkdir()
        prints.append(open_images(ENCODED[kind](copy, tmp_path / str(number))).fingerprint())
        name = names_in(copy)[3]
        if number == 0:
            (copy / name).unlink()
        else:
            (copy / name).rename(copy / "cat" / "renamed.png")
    assert len(set(prints)) == 3
