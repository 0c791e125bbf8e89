from __future__ import annotations

import math

import pytest
import torch
from sklearn.metrics import balanced_accuracy_score, roc_auc_score

from moco.errors import UsageError
from moco.evaluation.compare import (
    Measure,
    compare_votes,
    fitting_measure,
    measured,
    suitable_measure,
)


def votes_of(strength: float, labels: torch.Tensor, seed: int) -> torch.Tensor:
    noise = torch.randn(len(labels), generator=torch.Generator().manual_seed(seed))
    positive = (strength * labels + noise).sigmoid()
    return torch.stack([1 - positive, positive], dim=1)


def test_the_measure_suits_the_labels() -> None:
    assert suitable_measure(torch.tensor([0, 0, 1]), 2) == "roc_auc"
    assert suitable_measure(torch.tensor([0, 1, 2]), 3) == "top1"
    assert suitable_measure(torch.tensor([0, 0, 1, 2]), 3) == "balanced_accuracy"


@pytest.mark.parametrize(
    ("labels", "classes", "fitting", "other"),
    [
        (torch.tensor([0, 1, 2]), 3, "macro_f1", "roc_auc"),
        (torch.tensor([0, 1, 1]), 2, "roc_auc", "r2"),
        (torch.ones(3, 4).bool(), 4, "mean_average_precision", "top1"),
        (torch.rand(3), 0, "r2", "mean_average_precision"),
    ],
)
def test_a_measure_that_the_labels_do_not_have_is_refused(
    labels: torch.Tensor, classes: int, fitting: str, other: str
) -> None:
    assert fitting_measure(fitting, labels, classes) == fitting
    assert fitting_measure(None, labels, classes) == suitable_measure(labels, classes)
    with pytest.raises(UsageError, match=f"measure {other} does not fit these labels .*{fitting}"):
        fitting_measure(other, labels, classes)


def test_measures_agree_with_scikit_learn() -> None:
    labels = torch.arange(90) % 3 * (torch.arange(90) % 2)
    votes = torch.rand(90, 3, generator=torch.Generator().manual_seed(1))
    answers = votes.argmax(dim=1)
    expected = balanced_accuracy_score(labels, answers)
    assert measured("balanced_accuracy", votes, labels) == pytest.approx(expected)
    assert measured("top1", votes, labels) == pytest.approx(
        float((answers == labels).float().mean())
    )
    two = (labels > 0).long()
    assert measured("roc_auc", votes[:, :2], two) == pytest.approx(roc_auc_score(two, votes[:, 1]))


def test_a_real_lead_is_sure_and_no_lead_is_not() -> None:
    labels = (torch.arange(400) % 4 == 0).long()
    votes = {
        "strong": votes_of(3.0, labels, 0),
        "weak": votes_of(0.5, labels, 1),
        "equal": votes_of(3.0, labels, 2),
    }
    scores, leads = compare_votes("roc_auc", votes, labels, "strong")
    assert scores["strong"].low < scores["strong"].value < scores["strong"].high
    assert leads["weak"].low > 0
    assert leads["equal"].low < 0 < leads["equal"].high
    assert leads["weak"].value == pytest.approx(scores["strong"].value - scores["weak"].value)


@pytest.mark.parametrize(
    ("measure", "votes", "labels"),
    [
        (
            "mean_average_precision",
            torch.tensor([[0.9, 0.4], [0.8, 0.3], [0.7, 0.2]]),
            torch.tensor([[True, False], [False, False], [False, True]]),
        ),
        ("r2", torch.tensor([[1.0], [2.0], [2.0]]), torch.tensor([1.0, 1.0, 2.0])),
    ],
)
def test_draws_without_a_score_are_drawn_again(
    measure: Measure, votes: torch.Tensor, labels: torch.Tensor
) -> None:
    scores, _ = compare_votes(measure, {"few": votes}, labels, "few")
    assert scores["few"].low < scores["few"].value <= scores["few"].high


def test_numbers_that_are_all_equal_have_no_interval() -> None:
    scores, _ = compare_votes("r2", {"few": torch.rand(9, 1)}, torch.ones(9), "few")
    assert all(math.isnan(end) for end in (scores["few"].value, scores["few"].low))


def test_differences_are_paired() -> None:
    """A rival that differs in a few answers has a narrow difference, not two wide intervals."""
    labels = (torch.arange(200) % 2).long()
    one = votes_of(1.0, labels, 0)
    other = one.clone()
    other[:4] = 0.5
    scores, leads = compare_votes("roc_auc", {"one": one, "other": other}, labels, "one")
    width = leads["other"].high - leads["other"].low
    assert width < 0.5 * (scores["one"].high - scores["one"].low)
