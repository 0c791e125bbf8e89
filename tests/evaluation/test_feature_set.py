"""Pairs of feature sets from which no score follows are refused with what is wrong."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
import torch

from moco.errors import DataError
from moco.evaluation.feature_set import CHECKED_NUMBERS, FeatureSet, check_pair, task_of

ROWS = torch.randn(6, 4, generator=torch.Generator().manual_seed(0))
TRAIN = FeatureSet(
    ROWS, torch.tensor([0, 1, 0, 1, 0, 1]), ("cat", "dog"), encoder="a", title="train.npz"
)
TEST = replace(TRAIN, title="test.npz")
BROKEN = ROWS.clone()
BROKEN[[1, 4], 2] = float("nan")
ENDLESS = ROWS.clone()
ENDLESS[3] = float("-inf")


def test_a_fitting_pair_passes() -> None:
    check_pair(TRAIN, TEST)
    check_pair(TRAIN, replace(TEST, encoder=""))  # of which nobody knows the encoder


@pytest.mark.parametrize(
    ("change", "told"),
    [
        ({"rows": BROKEN}, "2 of 6 rows of test.npz are not finite: row 1, row 4; embed"),
        ({"rows": BROKEN, "paths": tuple("abcdef")}, "not finite: b, e;"),
        ({"rows": ENDLESS}, "1 of 6 rows of test.npz are not finite: row 3;"),
        ({"rows": ROWS[:, :3]}, "has 4 features an image and test.npz 3; take both"),
        ({"rows": ROWS[:0], "labels": torch.zeros(0).long()}, "test.npz holds no rows"),
        ({"labels": torch.tensor([0, 1])}, r"has 6 rows and labels \[2\]; give one label"),
        ({"encoder": "b"}, r"different models, layers or views \(a and b\); embed both"),
        ({"classes": ("cat", "fox")}, "different classes: dog, fox; give both the same"),
        ({"classes": ("dog", "cat")}, "different classes: in another order;"),
        ({"labels": torch.zeros(6).long()}, "test.npz has no image of class dog; add some"),
        ({"labels": torch.tensor([0, 1, 2, 0, 1, 2])}, "are 0 to 2, expected 0 to 1"),
    ],
)
def test_what_fits_not_is_named(change: dict[str, Any], told: str) -> None:
    with pytest.raises(DataError, match=told):
        check_pair(TRAIN, replace(TEST, **change))


def test_rows_are_looked_at_a_part_at_a_time_and_named_by_their_number() -> None:
    checked = CHECKED_NUMBERS // 2
    rows = torch.zeros(checked + 20, 2, dtype=torch.float16)
    rows[[7, checked + 3], 1] = float("inf")
    labels = torch.arange(len(rows)) % 2
    with pytest.raises(DataError, match=f"not finite: row 7, row {checked + 3};"):
        check_pair(TRAIN, replace(TEST, rows=rows, labels=labels))


def test_what_is_asked_of_the_images_follows_from_their_labels() -> None:
    several = replace(TRAIN, labels=torch.eye(2).bool().repeat(3, 1))
    numbers = replace(TRAIN, labels=torch.arange(6.0), classes=())
    asked = [task_of(features) for features in (TRAIN, several, numbers)]
    assert asked == ["one_class", "several_classes", "number"]
    for one in (several, numbers):
        check_pair(one, one)
        with pytest.raises(DataError, match="of one class; give both the same kind"):
            check_pair(one, TEST)
    with pytest.raises(DataError, match=r"has 6 rows and labels \[6, 3\]"):
        check_pair(several, replace(several, labels=torch.ones(6, 3).bool()))


def test_one_class_and_an_empty_train_class_are_named() -> None:
    single = {"classes": ("cat",), "labels": torch.zeros(6).long()}
    with pytest.raises(DataError, match=r"train.npz has one class only"):
        check_pair(replace(TRAIN, **single), replace(TEST, **single))
    with pytest.raises(DataError, match=r"train.npz has no image of class cat"):
        check_pair(replace(TRAIN, labels=torch.ones(6).long()), TEST)
