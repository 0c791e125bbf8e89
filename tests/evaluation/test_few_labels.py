from __future__ import annotations

import math
from dataclasses import replace
from statistics import mean, stdev
from typing import Any

import pytest
import torch
from sklearn.datasets import load_digits
from torch import Tensor

from moco.errors import DataError, UsageError
from moco.evaluation import few_labels as module
from moco.evaluation.feature_set import FeatureSet
from moco.evaluation.few_labels import (
    FIXED_PENALTY,
    chosen_penalty,
    few_labels,
    t_interval,
)

FEW_PENALTIES = (10.0, 0.1, 0.01)


@pytest.fixture(autouse=True)
def fewer_penalties(monkeypatch: pytest.MonkeyPatch) -> None:
    """Try three, to be done soon."""
    monkeypatch.setattr(module, "PENALTIES", FEW_PENALTIES)


def digits(classes: int = 10) -> tuple[FeatureSet, FeatureSet]:
    """Return 1,000 train and 797 test rows of scikit-learn's digits."""
    pixels, labels = load_digits(return_X_y=True)
    rows, numbers = torch.from_numpy(pixels).float(), torch.from_numpy(labels) % classes
    names = tuple(str(number) for number in range(classes))
    paths = tuple(f"{label}/{row}" for row, label in enumerate(numbers.tolist()))
    return (
        FeatureSet(rows[:1000], numbers[:1000], names, paths[:1000]),
        FeatureSet(rows[1000:], numbers[1000:], names, paths[1000:]),
    )


def test_more_labels_are_better_and_draws_agree_more() -> None:
    train, test = digits()
    found = few_labels(train, test, per_class=(1, 10), shares=(1.0,), draws=3)
    one, ten = (level for level in found.levels if "per" in level.title)
    (every,) = (level for level in found.levels if level.title == "all labels")
    assert (found.classifier, found.measure) == ("linear", "top1")
    assert (one.labels, ten.labels, every.labels) == (10, 100, 1000)
    assert 0.3 < one.mean < ten.mean - 0.1
    assert ten.mean < every.mean
    assert every.mean > 0.88
    assert one.spread > ten.spread > every.spread == 0.0
    assert len(one.scores) == len(ten.scores) == 3
    assert len(every.scores) == 1


def test_intervals_are_over_draws_and_of_one_draw_over_test_images() -> None:
    train, test = digits()
    five, every = few_labels(train, test, shares=(0.05, 1.0), draws=3).levels
    half = 4.3027 * stdev(five.scores) / math.sqrt(3)
    assert five.interval_over == "draws"
    middle = mean(five.scores)
    assert (five.low, five.high) == pytest.approx((middle - half, middle + half))
    assert every.interval_over == "test images"
    assert every.low is not None
    assert every.high is not None
    assert every.low < every.mean < every.high
    assert every.high - every.low < 0.06
    assert t_interval([0.5]) == (None, None)


def seen_by_the_probe(monkeypatch: pytest.MonkeyPatch) -> list[Any]:
    """Return a list that fills with (train rows, train labels, asked rows, penalty) of each fit."""
    fits: list[Any] = []
    plain = module.linear_class_scores

    def spy(rows: Tensor, labels: Tensor, asked: Tensor, **more: Any) -> Tensor:
        fits.append((rows, labels, asked, more["penalties"]))
        return plain(rows, labels, asked, **more)

    monkeypatch.setattr(module, "linear_class_scores", spy)
    return fits


def test_nothing_but_the_few_labels_is_looked_at(monkeypatch: pytest.MonkeyPatch) -> None:
    """Other train labels wrong, all test labels wrong: the same penalties and votes."""
    train, test = digits()
    fits = seen_by_the_probe(monkeypatch)
    before = few_labels(train, test, per_class=(5,), draws=2, measure="top1")
    kept = torch.zeros(1000, dtype=torch.bool)
    for split in module.draw_splits(
        train.labels, train.paths, train.classes, [module.Amount(per_class=5)], draws=2, seed=0
    ):
        kept[split.rows] = True
    sizes = {len(rows) for rows, *_ in fits}
    assert sizes == {40, 50}  # four fifths as it chooses, all at the end
    of_test = [asked for *_, asked, _ in fits if len(asked) == len(test)]
    assert len(of_test) == 2  # one look at the test rows for each draw
    for rows, _, asked, _ in fits:
        if len(asked) != len(test):
            assert not (rows[:, None] == asked[None]).all(dim=2).any()
    changed = replace(train, rows=torch.where(kept[:, None], train.rows, 99.0))
    order = torch.randperm(len(test), generator=torch.Generator().manual_seed(0))
    shuffled = replace(test, labels=test.labels[order])
    after = few_labels(changed, shuffled, per_class=(5,), draws=2, measure="top1")
    assert after.levels[0].settings == before.levels[0].settings
    assert after.levels[0].scores != before.levels[0].scores
    assert after.levels[0].mean < 0.2


def test_with_one_label_of_a_class_the_penalty_is_fixed_and_said() -> None:
    train, test = digits()
    one, five = few_labels(train, test, per_class=(1, 5), draws=2).levels
    assert not one.chosen
    assert set(one.settings) == {FIXED_PENALTY}
    assert five.chosen
    assert set(five.settings) <= set(FEW_PENALTIES)


@pytest.mark.parametrize(("rows", "fits"), [(999, 5), (1000, 1)])
def test_each_fifth_chooses_in_turn_and_one_fifth_of_many(
    rows: int, fits: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen = seen_by_the_probe(monkeypatch)
    draw = torch.Generator().manual_seed(0)
    labels = torch.arange(rows) % 3
    features = torch.randn(rows, 4, generator=draw) + labels[:, None]
    penalty, chosen = chosen_penalty(features, labels, torch.arange(rows) // 3, 3)
    tried = [penalties for *_, penalties in seen]
    assert chosen
    assert penalty in FEW_PENALTIES
    assert tried.count((FEW_PENALTIES[0],)) == fits
    asked = torch.cat([asked for *_, asked, penalties in seen if penalties == (FEW_PENALTIES[0],)])
    assert len(asked) == (rows if fits == 5 else 201)


def test_noise_calls_for_a_stronger_penalty() -> None:
    draw = torch.Generator().manual_seed(0)
    labels = torch.arange(90) % 3
    means = torch.eye(3)[labels] @ torch.randn(3, 40, generator=draw)
    noise = torch.randn(90, 40, generator=draw)
    clear, _ = chosen_penalty(means + 0.1 * noise, labels, torch.arange(90) // 3, 3)
    noisy, _ = chosen_penalty(means + 5 * noise, labels, torch.arange(90) // 3, 3)
    assert noisy >= 10 * clear


def test_the_measure_suits_the_labels_or_is_the_one_asked_for() -> None:
    train, test = digits(2)
    assert few_labels(train, test, per_class=(5,), draws=2).measure == "roc_auc"
    asked = few_labels(train, test, per_class=(5,), draws=2, measure="balanced_accuracy")
    assert asked.measure == "balanced_accuracy"
    with pytest.raises(UsageError, match="roc_auc does not fit these labels"):
        few_labels(*digits(), per_class=(5,), draws=2, measure="roc_auc")


def test_shares_are_what_is_asked_for_by_default() -> None:
    train, test = digits()
    found = few_labels(train, test, draws=1)
    assert [level.title for level in found.levels] == ["1 %", "10 %", "all labels"]
    assert [level.labels for level in found.levels] == [10, 100, 1000]
    only = few_labels(train, test, per_class=(2,), draws=1)
    assert [level.title for level in only.levels] == ["2 per class"]


def test_sets_that_do_not_go_together_are_refused() -> None:
    train, test = digits()
    with pytest.raises(DataError, match="features an image"):
        few_labels(train, replace(test, rows=test.rows[:, :9]))
