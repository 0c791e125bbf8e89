"""The demo's question on solar modules that have no labelled cell.

    python benchmarks/solar_unseen_modules.py RUN [RUN ...]

Each RUN is a run directory of `moco demo`. The list of cells goes module by module, so a test cell
of the demo can have neighbours of its own module among the labelled ones. Here each eighth of the
list is tested by the labels of the others, and the 72 cells (a module) beside it on either side
have no vote. Prints the ROC AUC (%) over all 2,624 cells.
"""

import sys
from pathlib import Path

import torch
from torch import Tensor, nn

from moco.build import build_contrast
from moco.data.images import Images
from moco.demo_data import ELPV_BLOCK, solar_cells
from moco.evaluation.features import extract_features
from moco.evaluation.knn import knn_class_scores
from moco.evaluation.linear import linear_class_scores
from moco.evaluation.scores import roc_auc
from moco.loading import load_with_recipe
from moco.recipe import Recipe

FOLDS, MODULE_CELLS, NEIGHBOURS = 8, 72, 20


def all_cells() -> tuple[Images, Tensor]:
    """Return every cell of the demo, in the package's order, and whether it is defective."""
    data = solar_cells()
    cells, labels = data.train.images, torch.zeros(len(data.train.images), dtype=torch.long)
    labels[data.train.image_ids], labels[data.test.image_ids] = data.train_labels, data.test_labels
    return cells, labels


def scores(rows: Tensor, labels: Tensor) -> dict[str, float]:
    """Return the ROC AUC of kNN and of the linear probe, each cell voted on by unseen modules."""
    place = torch.arange(len(labels))
    votes = {"kNN": torch.zeros(len(labels)), "linear probe": torch.zeros(len(labels))}
    for part in place.chunk(FOLDS):
        far = (place < part[0] - MODULE_CELLS) | (place > part[-1] + MODULE_CELLS)
        known, asked = (rows[far], labels[far]), rows[part]
        votes["kNN"][part] = knn_class_scores(*known, asked, classes=2, neighbours=NEIGHBOURS)[:, 1]
        votes["linear probe"][part] = linear_class_scores(
            *known, asked, classes=2, validation=(place[far] // (2 * ELPV_BLOCK)) % 4 == 1
        )[:, 1]
    return {name: roc_auc(vote, labels == 1) for name, vote in votes.items()}


def show(name: str, network: nn.Module | None, recipe: Recipe) -> None:
    """Print one line of the table."""
    cells, labels = all_cells()
    rows = extract_features(network, cells, recipe.views, device=torch.device("cpu")).rows
    figures = ", ".join(f"{kind} {100 * of:.1f}" for kind, of in scores(rows, labels).items())
    print(f"{name}: {figures}", flush=True)


def main(runs: list[Path]) -> None:
    """Print raw pixels once, then each run's encoder before and after training."""
    for number, run in enumerate(runs):
        trained, recipe = load_with_recipe(run)
        if number == 0:
            show("raw pixels", None, recipe)
        # only a memory bank would care how many images there are
        untrained = build_contrast(recipe, images=1, seed=number).encoder.backbone
        show(f"untrained, seed {number}", untrained, recipe)
        show(f"trained, {run}", trained, recipe)


if __name__ == "__main__":
    if len(sys.argv) < 2:
        sys.exit("usage: python benchmarks/solar_unseen_modules.py RUN [RUN ...]")
    main([Path(argument) for argument in sys.argv[1:]])
