"""Features of real images: CIFAR-10 where its files are there, and scikit-learn's digits."""

from __future__ import annotations

import functools
import io
import tarfile
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from sklearn.datasets import load_digits
from torch import Tensor
from torchvision.models import resnet18

from moco.evaluation.feature_set import FeatureSet

ARCHIVE = Path(__file__).parents[3] / "shared" / "data" / "cifar10-jpeg.tar.gz"


@functools.cache
def cifar10_pixels(train: int, test: int) -> tuple[FeatureSet, FeatureSet]:
    """Return the first so many images of each class as raw pixels, 0 to 1, [N, 3072]."""
    wanted = {"train": train, "test": test}
    pixels: dict[str, list[np.ndarray]] = {"train": [], "test": []}
    names: dict[str, list[str]] = {"train": [], "test": []}
    with tarfile.open(ARCHIVE) as archive:
        for member in archive:
            parts = Path(member.name).parts
            if not member.isfile() or names[parts[-3]].count(parts[-2]) >= wanted[parts[-3]]:
                continue
            data = archive.extractfile(member)
            assert data is not None
            pixels[parts[-3]].append(np.asarray(Image.open(io.BytesIO(data.read()))))
            names[parts[-3]].append(parts[-2])
    classes = tuple(sorted(set(names["train"])))
    first, second = (
        FeatureSet(
            torch.from_numpy(np.stack(pixels[split])).permute(0, 3, 1, 2).flatten(1) / 255,
            torch.tensor([classes.index(name) for name in names[split]]),
            classes,
            title=split,
        )
        for split in ("train", "test")
    )
    return first, second


@torch.no_grad()
def untrained_features(pixels: Tensor) -> Tensor:
    """Return what an untrained ResNet-18 makes of [N, 3072] pixels, [N, 512]."""
    with torch.random.fork_rng():
        torch.manual_seed(0)
        network = resnet18()
    network.fc = torch.nn.Identity()
    images = pixels.reshape(-1, 3, 32, 32) - 0.5
    network.train()(images[:256])  # batch norm's statistics
    return torch.cat([network.eval()(batch) for batch in images.split(256)])


def digits() -> tuple[FeatureSet, FeatureSet]:
    """Return 1,000 and 797 of scikit-learn's digits, [N, 64]."""
    found = load_digits()
    rows, labels = torch.from_numpy(found.data).float(), torch.from_numpy(found.target).long()
    classes = tuple(str(number) for number in range(10))
    return (
        FeatureSet(rows[:1000], labels[:1000], classes, title="train"),
        FeatureSet(rows[1000:], labels[1000:], classes, title="test"),
    )
