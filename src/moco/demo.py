"""The demo: pre-train, then compare with raw pixels and with no training at all."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import cast

import torch
from torch import Tensor, nn

from moco.build import build_contrast
from moco.data.batches import Batches, to_device
from moco.demo_data import DemoData
from moco.evaluation.compare import Interval, Measure, compare_votes, suitable_measure
from moco.evaluation.features import Features, extract_features
from moco.evaluation.knn import knn_class_scores
from moco.evaluation.linear import linear_class_scores
from moco.loading import load
from moco.plan import Plan

NEIGHBOURS = 20
STATISTICS_STEPS = 60
"""Batches after which batch norm's running statistics are those of the images (0.9^60 is 0.2 %)."""
RIVALS = ("raw pixels", "untrained", "untrained with statistics", "trained")
"""What the trained encoder, the last of them, is compared with. An untrained network's batch norm
expects mean 0 and deviation 1, which fit no image; with the statistics of the images it is a
stronger rival, though its weights are the same."""


@dataclass(frozen=True)
class Compared:
    """One way of using features, for all rivals."""

    method: str
    """knn or linear."""
    measure: Measure
    scores: dict[str, Interval]
    """Of each rival."""
    leads: dict[str, Interval]
    """How far the trained encoder lies above each of the others, on the same test images."""


@dataclass(frozen=True)
class RivalFeatures:
    """What one rival sees in the images."""

    train: Features
    test: Features


def rival_features(
    plan: Plan, data: DemoData, note: Callable[[str], None]
) -> dict[str, RivalFeatures]:
    """Return the features of raw pixels, the untrained encoder and the trained one."""
    pixels, untrained, with_statistics, trained = RIVALS
    networks: dict[str, nn.Module | None] = {
        pixels: None,
        untrained: untrained_backbone(plan, statistics_steps=0),
        with_statistics: untrained_backbone(plan, statistics_steps=STATISTICS_STEPS),
        trained: load(plan.run),
    }
    found = {}
    for name, network in networks.items():
        note(f"features: {name}")
        if network is not None:
            network.to(plan.device)
        train = extract_features(network, data.train, plan.recipe.views, device=plan.device)
        test = train
        if data.test is not None:
            test = extract_features(network, data.test, plan.recipe.views, device=plan.device)
        found[name] = RivalFeatures(train, test)
    return found


@torch.no_grad()
def untrained_backbone(plan: Plan, *, statistics_steps: int) -> nn.Module:
    """Return the backbone as it was before training.

    Args:
        statistics_steps: batches that batch norm's running statistics see first; no weight moves.
    """
    encoder = build_contrast(
        plan.recipe, images=len(plan.images), seed=plan.seed, device=plan.device
    ).encoder.train()
    views = plan.recipe.views
    batches = Batches(plan.images, views, batch_size=plan.recipe.batch_size, seed=plan.seed)
    for step in range(statistics_steps):
        view_a, _, _ = to_device(batches[step], views, plan.device)
        encoder(view_a)
    return cast(nn.Module, encoder.eval().backbone)


def compare(
    rivals: dict[str, RivalFeatures], data: DemoData, note: Callable[[str], None]
) -> list[Compared]:
    """Return how the rivals do by nearest neighbours and by a linear probe.

    Nothing without labels, or where no image of a class can be read.
    """
    classes = len(data.classes)
    votes: dict[str, dict[str, Tensor]] = {"knn": {}, "linear": {}}
    first = next(iter(rivals.values()))
    if data.test is None:
        return []
    train_labels = data.train_labels[first.train.image_ids]
    test_labels = data.test_labels[first.test.image_ids]
    for name, labels in (("training", train_labels), ("test", test_labels)):
        counts = labels.bincount(minlength=classes)
        if int(counts.min()) == 0:
            note(f"nothing is compared: no {name} image of {data.classes[int(counts.argmin())]}")
            return []
    for name, features in rivals.items():
        note(f"kNN and linear probe: {name}")
        votes["knn"][name] = knn_class_scores(
            features.train.rows,
            train_labels,
            features.test.rows,
            classes=classes,
            neighbours=NEIGHBOURS,
        )
        votes["linear"][name] = linear_class_scores(
            features.train.rows,
            train_labels,
            features.test.rows,
            classes=classes,
            validation=data.validation[features.train.image_ids],
        )
    measure = suitable_measure(test_labels, classes)
    compared = []
    for method, of_rivals in votes.items():
        scores, leads = compare_votes(measure, of_rivals, test_labels, RIVALS[-1])
        compared.append(Compared(method, measure, scores, leads))
    return compared


def verdict(compared: list[Compared]) -> str:
    """Return in words whether the trained encoder is better, and whether the images say so."""
    sentences = []
    for row in compared:
        method = {"knn": "kNN", "linear": "linear probe"}[row.method]
        better = [name for name, lead in row.leads.items() if lead.low > 0]
        worse = [name for name, lead in row.leads.items() if lead.high < 0]
        unsure = [name for name in row.leads if name not in better + worse]
        parts = [f"better than {_listed(better)}"] if better else []
        parts += [f"worse than {_listed(worse)}"] if worse else []
        parts += [f"too close to {_listed(unsure)} for so few test images"] if unsure else []
        sentences.append(f"In the {method} the trained encoder is {', '.join(parts)}.")
    return " ".join(sentences).replace("the kNN", "kNN")


def _listed(names: list[str]) -> str:
    *first, last = names
    return f"{', '.join(first)} and {last}" if first else last


def flat_figures(compared: list[Compared]) -> dict[str, object]:
    """Return the comparison as `--json` has it: scores from 0 to 1 under flat keys."""
    figures: dict[str, object] = {}
    for row in compared:
        named = {
            f"{row.method}_{_key(name)}_{row.measure}": row.scores[name] for name in row.scores
        }
        named |= {f"{row.method}_lead_over_{_key(name)}": row.leads[name] for name in row.leads}
        for key, figure in named.items():
            figures |= {key: figure.value, f"{key}_low": figure.low, f"{key}_high": figure.high}
    return figures


def _key(name: str) -> str:
    return name.replace(",", "").replace(" ", "_")


def nearest(asked: Tensor, among: Tensor, count: int) -> Tensor:
    """Return the rows of `among` [N, D] nearest by cosine to each of `asked` [T, D], [T, count]."""
    cosines = nn.functional.normalize(asked, dim=1) @ nn.functional.normalize(among, dim=1).T
    return cosines.topk(min(count, len(among)), dim=1).indices
