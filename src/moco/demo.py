"""The demo: pre-train, then compare with raw pixels and with no training at all."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from torch import Tensor, nn

from moco.build import build_contrast
from moco.demo_data import DemoData
from moco.evaluate.compare import Interval, Measure, compare_votes, suitable_measure
from moco.evaluate.features import Features, extract_features
from moco.evaluate.knn import knn_class_scores
from moco.evaluate.linear import linear_class_scores
from moco.loading import load
from moco.plan import Plan

NEIGHBOURS = 20
RIVALS = ("raw pixels", "untrained", "trained")


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
    untrained = build_contrast(plan.recipe, images=len(plan.images), seed=plan.seed).encoder
    networks: dict[str, nn.Module | None] = {
        "raw pixels": None,
        "untrained": untrained.backbone,  # type: ignore[dict-item]
        "trained": load(plan.run),
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


def compare(
    rivals: dict[str, RivalFeatures], data: DemoData, note: Callable[[str], None]
) -> list[Compared]:
    """Return how the rivals do by nearest neighbours and by a linear probe."""
    classes = len(data.classes)
    votes: dict[str, dict[str, Tensor]] = {"knn": {}, "linear": {}}
    first = next(iter(rivals.values()))
    train_labels = data.train_labels[first.train.image_ids]
    test_labels = data.test_labels[first.test.image_ids]
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
        scores, leads = compare_votes(measure, of_rivals, test_labels, "trained")
        compared.append(Compared(method, measure, scores, leads))
    return compared


def verdict(compared: list[Compared]) -> str:
    """Return in words whether the trained encoder is better, and whether the images say so."""
    words_of = {"knn": "kNN", "linear": "linear probe"}
    all_leads = [
        (words_of[row.method], name, lead) for row in compared for name, lead in row.leads.items()
    ]
    sure = [f"{name} ({method})" for method, name, lead in all_leads if lead.low > 0]
    if len(sure) == len(all_leads):
        return (
            "The trained encoder is better than raw pixels and than the untrained encoder, in kNN "
            "and in the linear probe; every interval of the difference lies above 0."
        )
    worse = [f"{name} ({method})" for method, name, lead in all_leads if lead.high < 0]
    unsure = [
        f"{name} ({method})" for method, name, lead in all_leads if lead.low <= 0 <= lead.high
    ]
    words = []
    if sure:
        words.append(f"Better than {', '.join(sure)}.")
    if unsure:
        words.append(
            f"Against {', '.join(unsure)} these test images are too few to tell: the interval of "
            "the difference contains 0."
        )
    if worse:
        words.append(f"Worse than {', '.join(worse)}.")
    return " ".join(words)


def flat_figures(compared: list[Compared]) -> dict[str, object]:
    """Return the comparison as `--json` has it: scores from 0 to 1 under flat keys."""
    figures: dict[str, object] = {}
    for row in compared:
        for name, score in row.scores.items():
            key = f"{row.method}_{name.replace(' ', '_')}_{row.measure}"
            figures[key], figures[f"{key}_low"], figures[f"{key}_high"] = (
                score.value,
                score.low,
                score.high,
            )
        for name, lead in row.leads.items():
            key = f"{row.method}_lead_over_{name.replace(' ', '_')}"
            figures[key], figures[f"{key}_low"], figures[f"{key}_high"] = (
                lead.value,
                lead.low,
                lead.high,
            )
    return figures


def nearest(asked: Tensor, among: Tensor, count: int) -> Tensor:
    """Return the rows of `among` [N, D] nearest by cosine to each of `asked` [T, D], [T, count]."""
    cosines = nn.functional.normalize(asked, dim=1) @ nn.functional.normalize(among, dim=1).T
    return cosines.topk(min(count, len(among)), dim=1).indices
