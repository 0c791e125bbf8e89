"""Which network is better, and when the data do not suffice to say so."""

from __future__ import annotations

import itertools

import pytest
import torch
from scipy.stats import binomtest, rankdata
from torch import Tensor

from moco.evaluation.compare import Interval, Measure, measured
from moco.evaluation.comparison import compare_rivals, images_needed, in_words
from moco.evaluation.permutation import holm, permutation_p

CLASSES = 4


def answers(labels: Tensor, right: Tensor) -> Tensor:
    """Return votes that are right where `right` says."""
    said = torch.where(right, labels, (labels + 1) % CLASSES)
    return torch.nn.functional.one_hot(said, CLASSES).float()


def pair(both: int, first: int, second: int, neither: int) -> tuple[tuple[Tensor, Tensor], Tensor]:
    """Return the votes of two rivals by how many images both, one or none gets right."""
    counts = torch.tensor([both, first, second, neither])
    labels = torch.arange(int(counts.sum())) % CLASSES
    kind = torch.arange(4).repeat_interleave(counts)
    return (
        answers(labels, (kind == 0) | (kind == 1)),
        answers(labels, (kind == 0) | (kind == 2)),
    ), labels


@pytest.mark.parametrize(("first", "second"), [(12, 3), (30, 18), (6, 0), (4, 4), (0, 9)])
def test_of_accuracies_it_is_the_exact_sign_test(first: int, second: int) -> None:
    votes, labels = pair(40, first, second, 20)
    exact = binomtest(first, first + second).pvalue
    found = permutation_p("top1", votes, labels)
    assert found == pytest.approx(exact, abs=4 * (exact * (1 - exact) / 2000) ** 0.5 + 5e-4)


@pytest.mark.parametrize("measure", ["r2", "roc_auc", "macro_f1"])
def test_it_is_the_share_of_all_exchanges(measure: Measure) -> None:
    draw = torch.Generator().manual_seed(3)
    rows = 10
    labels = torch.arange(rows) % 2
    votes = [torch.rand(rows, 2, generator=draw) for _ in range(2)]
    if measure == "r2":
        labels = torch.rand(rows, generator=draw)
        votes = [labels[:, None] + 0.5 * (number + 1) * votes[number] for number in range(2)]
    if measure == "roc_auc":  # what may be exchanged are places, not scales
        votes = [torch.tensor(rankdata(each, axis=0)) for each in votes]

    def difference(swap: tuple[bool, ...]) -> float:
        swapped = torch.tensor(swap)[:, None]
        one, other = torch.where(swapped, votes[1], votes[0]), torch.where(swapped, *votes)
        return abs(measured(measure, one, labels) - measured(measure, other, labels))

    seen = difference((False,) * rows)
    every = [difference(swap) for swap in itertools.product((False, True), repeat=rows)]
    exact = sum(each >= seen - 1e-12 for each in every) / len(every)
    found = permutation_p(measure, (votes[0], votes[1]), labels)
    assert found == pytest.approx(exact, abs=4 * (exact * (1 - exact) / 2000) ** 0.5 + 5e-4)


def test_scales_of_scores_do_not_count_where_only_order_does() -> None:
    draw = torch.Generator().manual_seed(3)
    labels = torch.arange(60) % 2
    votes = torch.rand(60, 2, generator=draw), torch.rand(60, 2, generator=draw)
    larger = votes[0], votes[1] * 1000 + 7
    assert permutation_p("roc_auc", larger, labels) == permutation_p("roc_auc", votes, labels)
    assert permutation_p("roc_auc", (votes[0], votes[0] * 9), labels) == 1


@pytest.mark.parametrize("share", [0.5, 0.8])
def test_equal_networks_are_seldom_told_apart(share: float) -> None:
    draw = torch.Generator().manual_seed(0)
    labels = torch.arange(80) % CLASSES
    p_values = []
    for _ in range(200):
        votes = [answers(labels, torch.rand(80, generator=draw) < share) for _ in range(2)]
        p_values.append(permutation_p("top1", (votes[0], votes[1]), labels, exchanges=99))
    wrong = sum(p <= 0.05 for p in p_values) / len(p_values)
    assert wrong <= 0.05 + 3 * (0.05 * 0.95 / 200) ** 0.5
    assert 0.3 < sum(p <= 0.5 for p in p_values) / len(p_values) < 0.65  # not afraid of all


def test_holm_counts_all_tests() -> None:
    assert holm({"a": 0.01, "b": 0.04, "c": 0.03}) == pytest.approx(
        {"a": 0.03, "b": 0.06, "c": 0.06}
    )
    assert holm({"a": 0.6, "b": 0.7}) == pytest.approx({"a": 1.0, "b": 1.0})
    assert holm({}) == {}


def test_words_say_whether_the_data_suffice() -> None:
    votes, labels = pair(60, 24, 4, 12)
    compared = compare_rivals("top1", {"ours": votes[0], "theirs": votes[1]}, labels)
    (lead,) = compared.leads
    assert lead.is_shown
    assert lead.difference.value == pytest.approx(0.2)
    assert compared.scores["ours"].value == pytest.approx(0.84)
    first, last = in_words(compared)
    assert first.startswith("ours is better than theirs by 20.0 points of top-1 (95 % interval ")
    assert first.endswith(": the data suffice to say so")
    assert last == "best: ours, and the data suffice to say so"
    turned = compare_rivals("top1", {"theirs": votes[1], "ours": votes[0]}, labels)
    assert in_words(turned)[0].startswith("theirs is worse than ours by 20.0 points")
    assert in_words(turned)[1] == "highest top-1: ours"
    low, high = turned.leads[0].difference.low, turned.leads[0].difference.high
    assert low < turned.leads[0].difference.value < high < 0
    assert f"interval {-100 * high:.1f} to {-100 * low:.1f}" in in_words(turned)[0]


def test_words_say_how_many_images_would_tell() -> None:
    votes, labels = pair(60, 7, 4, 12)
    compared = compare_rivals("top1", {"ours": votes[0], "theirs": votes[1]}, labels)
    (lead,) = compared.leads
    assert not lead.is_shown
    half = (lead.difference.high - lead.difference.low) / 2
    needed = len(labels) * (half / lead.difference.value) ** 2
    assert lead.images_needed == pytest.approx(needed, rel=0.1)
    assert lead.images_needed is not None
    assert lead.images_needed >= needed
    first, last = in_words(compared)
    assert "but the data do not suffice to say so (p = " in first
    assert first.endswith(f"about {lead.images_needed:,} test images would tell")
    assert last == "highest top-1: ours"


def test_a_test_alone_and_an_interval_alone_do_not_suffice() -> None:
    votes, labels = pair(40, 6, 0, 20)
    rivals = {"ours": votes[0], **{f"rival {number}": votes[1] for number in range(4)}}
    alone = compare_rivals("top1", {"ours": votes[0], "rival": votes[1]}, labels)
    many = compare_rivals("top1", rivals, labels)
    assert alone.leads[0].is_shown
    assert all(lead.difference == alone.leads[0].difference for lead in many.leads)
    assert not any(lead.is_shown for lead in many.leads)  # four tests ask for more
    assert [lead.p for lead in many.leads] == [4 * alone.leads[0].p] * 4


def test_the_best_of_three_is_shown_only_against_both() -> None:
    (ours, far), labels = pair(60, 24, 4, 12)
    near = answers(labels, torch.arange(len(labels)) < 83)
    compared = compare_rivals("top1", {"ours": ours, "far": far, "near": near}, labels)
    assert [lead.is_shown for lead in compared.leads] == [True, False]
    assert in_words(compared)[-1] == "highest top-1: ours"


def test_equal_networks_and_one_network() -> None:
    votes, labels = pair(40, 0, 0, 20)
    compared = compare_rivals("top1", {"a": votes[0], "b": votes[1]}, labels)
    assert in_words(compared) == ["a and b have the same top-1", "highest top-1: a"]
    assert compared.leads[0].p == 1
    assert in_words(compare_rivals("top1", {"a": votes[0]}, labels)) == []
    with pytest.raises(ValueError, match="no votes of 'c'"):
        compare_rivals("top1", {"a": votes[0]}, labels, reference="c")


@pytest.mark.parametrize(
    ("lead", "images", "needed"),
    [
        (Interval(0.1, -0.1, 0.3), 100, 400),
        (Interval(-0.1, -0.35, 0.15), 123, 770),
        (Interval(0.1, 0.05, 0.15), 100, None),
        (Interval(0.0, -0.1, 0.1), 100, None),
    ],
)
def test_images_needed(lead: Interval, images: int, needed: int | None) -> None:
    assert images_needed(lead, images) == needed
