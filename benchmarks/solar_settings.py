"""What other settings would have given in the demo.

    python benchmarks/solar_settings.py RUN EPOCHS [FIELD=VALUE ...]

Pre-trains on the demo's solar cells with these changes to its settings (one thread, seed 0) and
prints the ROC AUC (%) on the demo's split; benchmarks/solar_unseen_modules.py RUN says the rest.
"""

import sys

import torch

from moco.demo import NEIGHBOURS
from moco.demo_data import solar_cells
from moco.evaluation.features import extract_features
from moco.evaluation.knn import knn_class_scores
from moco.evaluation.linear import linear_class_scores
from moco.evaluation.scores import roc_auc
from moco.loading import load
from moco.plan import make_plan
from moco.pretraining import train


def main(run: str, epochs: int, changes: list[str]) -> None:
    """Pre-train and print both scores."""
    torch.set_num_threads(1)
    data = solar_cells()
    plan = make_plan(
        data.train,
        settings=[*data.settings, *changes],
        epochs=epochs,
        run=run,
        device="cpu",
        workers=0,
    )
    backbone = load(train(plan))
    known, asked = (
        extract_features(backbone, images, plan.recipe.views, device=plan.device).rows
        for images in (data.train, data.test)
        if images is not None
    )
    votes = {
        "kNN": knn_class_scores(known, data.train_labels, asked, classes=2, neighbours=NEIGHBOURS),
        "linear probe": linear_class_scores(
            known, data.train_labels, asked, classes=2, validation=data.validation
        ),
    }
    for name, vote in votes.items():
        print(f"{name}: {100 * roc_auc(vote[:, 1], data.test_labels == 1):.1f}")


if __name__ == "__main__":
    if len(sys.argv) < 3:
        sys.exit("usage: python benchmarks/solar_settings.py RUN EPOCHS [FIELD=VALUE ...]")
    main(sys.argv[1], int(sys.argv[2]), sys.argv[3:])
