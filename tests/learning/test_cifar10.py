"""The CIFAR-10 recipe learns, shortened to what a CPU does in minutes; key momentum 0 does not.

What may be gated on at this scale, and what not: docs/small_recipe.md. One thread, fixed steps.
"""

from __future__ import annotations

import sys
import tarfile
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from moco.demo import STATISTICS_STEPS, untrained_backbone
from moco.evaluation.features import extract_features
from moco.evaluation.knn import knn_class_scores
from moco.evaluation.labelled import LabelledImages, matching_images
from moco.evaluation.linear import linear_class_scores
from moco.loading import load_with_recipe
from moco.plan import make_plan
from moco.pretraining import train
from moco.recipe import Recipe
from moco.recipes import CIFAR10_RESNET18

ARCHIVE = Path(__file__).parents[3] / "shared" / "data" / "cifar10-jpeg.tar.gz"
PER_CLASS = {"train": 1000, "test": 200}

SHORTENED = replace(
    CIFAR10_RESNET18,
    encoder=replace(CIFAR10_RESNET18.encoder, stem="strided", width=0.5, stage_blocks=(1, 1, 1, 1)),
    dictionary=replace(CIFAR10_RESNET18.dictionary, size=1024),
    batch_size=64,
    batch_norm_groups=4,
    epochs=5,
)
"""The recipe with a smaller network, an eighth of the batch, a quarter of the queue, 780 steps."""

pytestmark = [
    pytest.mark.slow,
    pytest.mark.timeout(1800),
    pytest.mark.skipif(not ARCHIVE.exists(), reason=f"no CIFAR-10 files at {ARCHIVE}"),
]


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> tuple[LabelledImages, LabelledImages]:
    root = tmp_path_factory.mktemp("cifar10")
    taken: dict[tuple[str, str], int] = {}
    with tarfile.open(ARCHIVE) as archive:
        for member in archive:
            parts = Path(member.name).parts
            if not member.isfile() or len(parts) < 3:
                continue
            split, name = parts[-3], parts[-2]
            taken[split, name] = taken.get((split, name), 0) + 1
            if taken[split, name] <= PER_CLASS[split]:
                archive.extract(member, root, filter="data")
    base = next(root.rglob("train"))
    return matching_images(base, base.parent / "test")


def scores(
    network: torch.nn.Module | None,
    recipe: Recipe,
    folders: tuple[LabelledImages, LabelledImages],
) -> dict[str, float]:
    train_images, test_images = folders
    known, asked = (
        extract_features(network, images, recipe.views, device=torch.device("cpu")).rows
        for images in folders
    )
    labels = train_images.labels
    votes = {
        f"knn {count}": knn_class_scores(known, labels, asked, classes=10, neighbours=count)
        for count in (20, 200)
    }
    shuffled = torch.randperm(len(labels), generator=torch.Generator().manual_seed(0))
    votes["linear"] = linear_class_scores(
        known[shuffled], labels[shuffled], asked, classes=10, penalties=(1.0, 1e-1, 1e-2)
    )
    return {
        name: float((vote.argmax(dim=1) == test_images.labels).float().mean())
        for name, vote in votes.items()
    }


def trained_scores(
    recipe: Recipe, folders: tuple[LabelledImages, LabelledImages], run: Path
) -> dict[str, float]:
    plan = make_plan(folders[0].source, recipe=recipe, run=run, device="cpu")
    network, _ = load_with_recipe(train(plan))
    return scores(network, recipe, folders)


@pytest.fixture(scope="module")
def trained(
    folders: tuple[LabelledImages, LabelledImages], tmp_path_factory: pytest.TempPathFactory
) -> dict[str, float]:
    return trained_scores(SHORTENED, folders, tmp_path_factory.mktemp("runs") / "run")


def test_beats_the_untrained_encoder_and_raw_pixels(
    trained: dict[str, float], folders: tuple[LabelledImages, LabelledImages], tmp_path: Path
) -> None:
    plan = make_plan(folders[0].source, recipe=SHORTENED, run=tmp_path / "run", device="cpu")
    untrained, with_statistics = (
        scores(untrained_backbone(plan, statistics_steps=steps), SHORTENED, folders)
        for steps in (0, STATISTICS_STEPS)
    )
    pixels = scores(None, SHORTENED, folders)
    figures = (
        f"trained {trained}, untrained {untrained}, untrained with statistics {with_statistics}, "
        f"pixels {pixels}"
    )
    sys.stdout.write(f"{figures}\n")
    assert trained["knn 20"] >= untrained["knn 20"] + 0.06, figures
    assert trained["knn 200"] > with_statistics["knn 200"] + 0.03, figures
    assert trained["knn 200"] > pixels["knn 200"], figures
    assert trained["linear"] > pixels["linear"], figures


def test_key_momentum_zero_fails(
    trained: dict[str, float],
    folders: tuple[LabelledImages, LabelledImages],
    tmp_path: Path,
) -> None:
    without = trained_scores(replace(SHORTENED, key_momentum=0.0), folders, tmp_path / "run")
    figures = f"key momentum 0.99 {trained}, key momentum 0 {without}"
    sys.stdout.write(f"{figures}\n")
    assert trained["knn 20"] >= without["knn 20"] + 0.06, figures
