"""What the demo trains and compares on: solar cells from a package, or the user's folder."""

from __future__ import annotations

import importlib.util
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from moco.data.images import Images, SubsetImages
from moco.data.sources.opening import open_images
from moco.errors import DataError
from moco.evaluation.labelled import LabelledImages

ELPV_BLOCK = 82
"""Neighbours in the list may come from one module: blocks of this size stay on one side, so that
only the modules at their edges are on both."""
ELPV_SETTINGS = (
    "views.order=[crop, jitter, horizontal_flip, vertical_flip, quarter_turns]",
    "views.crop_scale=[0.5, 1.0]",
    "views.jitter=[0.3, 0.3, 0.0, 0.0]",
)
"""Cells have no up and no colour: turned and flipped, only brightness and contrast jittered; a
defect may fill a corner only, so crops are large."""
ELPV_CPU_EPOCHS = 36
"""About five minutes on two cores; more learns little more."""
FEWEST_IN_CLASS = 10
DEMO_CACHE_BYTES = 1 << 28
"""For each loading process; the solar cells take 236 MB."""


@dataclass(frozen=True)
class DemoData:
    """Images to train on and to be tested on, with labels where there are any."""

    title: str
    about: str
    train: Images
    """What pre-training sees, without labels; with them in the comparison."""
    test: Images | None
    """Seen by nothing before the comparison; None when there are no labels."""
    train_labels: Tensor
    test_labels: Tensor
    validation: Tensor
    """[len(train)] True for the rows that choose the linear probe's penalty."""
    classes: tuple[str, ...]
    settings: tuple[str, ...] = ()
    """Changes to the small recipe that suit these images."""
    cpu_epochs: int | None = None
    """Passes over the images on a CPU, None for the small recipe's own number."""


def solar_cells() -> DemoData:
    """Return the ELPV solar cells, two thirds for training by blocks of 82 neighbours.

    Raises:
        DataError: The package is not installed.
    """
    package = importlib.util.find_spec("elpv_dataset")
    if package is None or not package.submodule_search_locations:
        raise DataError(
            "the demo's images come with the elpv-dataset package: pip install "
            "'moco-torch[demo]', or name your own folder with --images"
        )
    folder = Path(package.submodule_search_locations[0]) / "data"
    images = open_images(folder / "images", cache_bytes=DEMO_CACHE_BYTES)
    probability = {}
    for line in (folder / "labels.csv").read_text(encoding="utf-8").splitlines():
        path, defect, _kind = line.split()
        probability[Path(path).name] = float(defect)
    labels = torch.tensor([int(probability[images.name(i)] > 0.5) for i in range(len(images))])
    block = torch.arange(len(images)) // ELPV_BLOCK
    data = _split(
        images,
        labels,
        is_test=block % 3 == 2,
        is_validation=(block // 3) % 5 == 4,
        title="Solar cells: sound or defective?",
        about=(
            "2,624 electroluminescence photographs of solar cells (ELPV, Buerhop-Lutz et al. 2018, "
            "CC BY-NC-SA). Defective: experts give a defect a probability above one half. "
            "Every third block of 82 neighbouring cells is for testing; pre-training never saw "
            "those. Cells of one module can lie on both sides of a block's edge, as when a part of "
            "a plant is labelled; for modules without any label see docs/results.md."
        ),
        classes=("sound", "defective"),
    )
    return replace(data, settings=ELPV_SETTINGS, cpu_epochs=ELPV_CPU_EPOCHS)


def own_folder(folder: Path, seed: int) -> DemoData:
    """Return the user's images: class folders are split 70 to 30, others only trained on.

    Raises:
        DataError: The folder is missing or holds no images.
    """
    images = open_images(folder, cache_bytes=DEMO_CACHE_BYTES)
    try:
        labelled = LabelledImages(folder)
    except DataError:
        labelled = None
    counts = labelled.labels.bincount() if labelled is not None else torch.zeros(1)
    if labelled is None or int(counts.min()) < FEWEST_IN_CLASS:
        nothing = torch.zeros(0, dtype=torch.long)
        about = (
            f"{len(images):,} images without class folders of at least {FEWEST_IN_CLASS} images "
            "each, so nothing is compared."
        )
        return DemoData(
            folder.name, about, images, None, nothing, nothing, nothing.bool(), classes=()
        )
    place = _place_in_class(labelled.labels, seed)
    return _split(
        images,
        labelled.labels,
        is_test=place >= 0.7,
        is_validation=place < 0.14,
        title=folder.name,
        about=f"{len(images):,} images in {len(labelled.classes)} class folders; 30 % of each, "
        "drawn at random, are for testing, and pre-training never saw those.",
        classes=tuple(labelled.classes),
    )


def _place_in_class(labels: Tensor, seed: int) -> Tensor:
    """Return each image's place in a random order of its own class, from 0 to below 1."""
    draw = torch.from_numpy(np.random.default_rng(seed).random(len(labels)))
    place = torch.zeros(len(labels))
    for label in labels.unique():  # type: ignore[no-untyped-call]
        members = (labels == label).nonzero().flatten()
        place[members] = draw[members].argsort().argsort() / len(members)
    return place


def _split(
    images: Images,
    labels: Tensor,
    *,
    is_test: Tensor,
    is_validation: Tensor,
    title: str,
    about: str,
    classes: tuple[str, ...],
) -> DemoData:
    train, test = (~is_test).nonzero().flatten(), is_test.nonzero().flatten()
    return DemoData(
        title,
        about,
        SubsetImages(images, train.tolist()),
        SubsetImages(images, test.tolist()),
        labels[train],
        labels[test],
        is_validation[train],
        classes,
    )
