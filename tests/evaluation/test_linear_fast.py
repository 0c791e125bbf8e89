"""The linear probe on cached features: scikit-learn's answer, and no test label in any choice."""

from __future__ import annotations

import math
from dataclasses import replace

import numpy as np
import pytest
import torch
from real_features import ARCHIVE, cifar10_pixels, digits, untrained_features
from sklearn.linear_model import LogisticRegression, Ridge
from torch import Tensor

from moco.errors import DataError, UsageError
from moco.evaluate import FeatureSet, linear
from moco.evaluation.linear_fast import FIXED_PENALTY, PENALTIES, held_out_rows
from moco.evaluation.number_scores import r2

COARSE = (10.0, 1.0, 0.1, 0.01)


def standardized(train: Tensor, test: Tensor) -> tuple[np.ndarray, np.ndarray]:
    """Return both, each feature of mean 0 and deviation 1 over the train rows, by numpy."""
    known, asked = train.double().numpy(), test.double().numpy()
    mean, std = known.mean(axis=0), known.std(axis=0, ddof=1)
    std[std < 1e-6] = 1e-6
    return (known - mean) / std, (asked - mean) / std


def by_scikit_learn(train: FeatureSet, test: FeatureSet, penalty: float) -> np.ndarray:
    """Return the classes that scikit-learn's solution of the same problem names."""
    known, asked = standardized(train.rows, test.rows)
    strength = len(train.classes) / (penalty * len(train))
    model = LogisticRegression(C=strength, tol=1e-8, max_iter=10_000)
    return np.asarray(model.fit(known, train.labels.numpy()).predict(asked))


def in_points(answers: np.ndarray, labels: Tensor) -> float:
    return 100 * float((answers == labels.numpy()).mean())


def test_real_digits_score_as_by_scikit_learn() -> None:
    train, test = digits()
    found = linear(train, test)
    assert found.measure == "top1"
    assert 1e-5 < found.penalty < 1  # it was chosen, and not at an end
    expected = in_points(by_scikit_learn(train, test, found.penalty), test.labels)
    assert 100 * found.value == pytest.approx(expected, abs=0.2)
    assert expected > 88


@pytest.mark.parametrize("penalty", [0.3, 0.01])
def test_real_photographs_score_as_by_scikit_learn(penalty: float) -> None:
    if not ARCHIVE.exists():
        pytest.skip("no CIFAR-10 beside this checkout")
    train, test = (
        replace(part, rows=untrained_features(part.rows)) for part in cifar10_pixels(100, 60)
    )
    found = linear(train, test, penalties=(penalty,))
    expected = in_points(by_scikit_learn(train, test, penalty), test.labels)
    assert 100 * found.value == pytest.approx(expected, abs=0.2)
    assert expected > 20


def test_labels_of_several_classes_are_regressions_of_their_own() -> None:
    train, test = digits()
    columns = torch.tensor([[digit % 2, digit > 4, digit in (3, 8)] for digit in range(10)]).bool()
    names = ("odd", "large", "round")
    train, test = (
        replace(part, labels=columns[part.labels], classes=names) for part in (train, test)
    )
    penalty = 0.02
    found = linear(train, test, penalties=(penalty,))
    assert found.measure == "mean_average_precision"
    known, asked = standardized(train.rows, test.rows)
    for number in range(3):
        model = LogisticRegression(C=1 / (penalty * len(train)), tol=1e-8, max_iter=10_000)
        model.fit(known, train.labels[:, number].numpy())
        expected = torch.from_numpy(model.predict_proba(asked)[:, 1]).float()
        torch.testing.assert_close(found.votes[:, number], expected, rtol=0, atol=2e-3)
    chosen = linear(train, test)
    assert chosen.value > 0.9
    assert chosen.low < chosen.value < chosen.high


def test_numbers_are_by_least_squares() -> None:
    train, test = digits()
    draw = torch.Generator().manual_seed(1)
    direction = torch.randn(64, generator=draw)
    train, test = (
        replace(
            part,
            labels=1000 + 3 * part.rows @ direction + 40 * torch.randn(len(part), generator=draw),
            classes=(),
        )
        for part in (train, test)
    )
    penalty = 0.1
    found = linear(train, test, penalties=(penalty,))
    assert found.measure == "r2"
    known, asked = standardized(train.rows, test.rows)
    numbers = train.labels.double().numpy()
    model = Ridge(alpha=penalty * len(train) / 2, tol=1e-10)
    scale = numbers.std()
    model.fit(known, (numbers - numbers.mean()) / scale)
    expected = torch.from_numpy(model.predict(asked) * scale + numbers.mean()).float()
    torch.testing.assert_close(found.votes[:, 0], expected, rtol=1e-5, atol=0.01)
    assert found.value == pytest.approx(r2(expected, test.labels), abs=1e-4)
    assert linear(train, test).value > 0.5


def noisy(rows: int = 120, features: int = 40, seed: int = 0) -> FeatureSet:
    """Return rows of three classes, most of whose features say nothing."""
    draw = torch.Generator().manual_seed(seed)
    labels = torch.arange(rows) % 3
    values = torch.randn(rows, features, generator=draw)
    values[:, :3] += 1.2 * torch.nn.functional.one_hot(labels, 3)
    return FeatureSet(values, labels, ("a", "b", "c"), title="noisy")


def test_no_test_label_chooses_anything() -> None:
    """Test rows that a tiny penalty fits, and ones that a large one does, change no choice."""
    train = noisy()
    plain = linear(train, noisy(seed=1))
    assert len(plain.tried) > 3
    known = replace(train, title="the train rows again")  # the weakest penalty fits them best
    lies = replace(noisy(seed=1), labels=(noisy(seed=1).labels + 1) % 3)  # the strongest is best
    for test in (known, lies):
        found = linear(train, test)
        assert (found.penalty, found.tried) == (plain.penalty, plain.tried)
    assert torch.equal(linear(train, lies).votes, plain.votes)
    smallest = [
        min(PENALTIES, key=lambda penalty: _loss(train, test, penalty)) for test in (known, lies)
    ]
    assert smallest[0] < plain.penalty < smallest[1]  # so that a leak would show


def _loss(train: FeatureSet, test: FeatureSet, penalty: float) -> float:
    votes = linear(train, test, penalties=(penalty,)).votes.double()
    return float(torch.nn.functional.nll_loss(votes.clamp(min=1e-30).log(), test.labels))


def test_test_rows_lend_nothing_to_each_other_or_to_the_classifier() -> None:
    train, test = noisy(), noisy(30, seed=1)
    alone = linear(train, test)
    strange = replace(test, rows=torch.cat([test.rows[:15], 1000 * test.rows[15:] + 7]))
    beside = linear(train, strange)
    assert (beside.penalty, beside.tried) == (alone.penalty, alone.tried)
    torch.testing.assert_close(beside.votes[:15], alone.votes[:15], rtol=0, atol=1e-6)


def test_the_penalty_of_least_held_out_loss_is_taken() -> None:
    found = linear(noisy(), noisy(seed=1))
    assert found.penalty == min(found.tried, key=lambda tried: tried.loss).penalty
    assert [tried.penalty for tried in found.tried] == list(PENALTIES[: len(found.tried)])
    best = [tried.penalty for tried in found.tried].index(found.penalty)
    assert len(found.tried) == best + 3  # two that were worse ended it
    assert found.held_out == 24


def test_held_out_rows_are_one_in_five_of_each_class() -> None:
    labels = torch.tensor([0] * 50 + [1] * 11 + [2] * 3)
    train = FeatureSet(torch.randn(64, 4), labels, ("a", "b", "c"))
    held_out = held_out_rows(train, seed=0)
    assert labels[held_out].bincount().tolist() == [10, 2, 1]
    assert torch.equal(held_out, held_out_rows(train, seed=0))
    assert not torch.equal(held_out, held_out_rows(train, seed=1))
    numbers = replace(train, labels=torch.rand(64), classes=())
    assert int(held_out_rows(numbers, seed=0).sum()) == 12


@pytest.mark.parametrize(
    "labels", [[0, 1, 2], [0, 1, 2, 2, 2, 2], [0, 0, 1, 1]], ids=["one of each", "two", "four"]
)
def test_too_few_rows_fix_the_penalty(labels: list[int]) -> None:
    names = ("a", "b", "c")[: max(labels) + 1]
    train = replace(noisy(len(labels)), labels=torch.tensor(labels), classes=names)
    test = replace(noisy(30, seed=1), labels=torch.arange(30) % len(names), classes=names)
    found = linear(train, test)
    assert (found.penalty, found.tried, found.held_out) == (FIXED_PENALTY, (), 0)


def test_the_only_row_of_a_class_is_fitted_and_the_others_choose() -> None:
    train = replace(noisy(31), labels=torch.tensor([0, 1] * 15 + [2]))
    for seed in range(20):
        assert not held_out_rows(train, seed)[-1]
    found = linear(train, noisy(30, seed=1))
    assert (found.held_out, len(found.tried) > 2) == (6, True)


def test_a_rare_label_of_several_is_on_both_sides() -> None:
    labels = torch.zeros(100, 3, dtype=torch.bool)
    labels[:70, 0] = True
    labels[[3, 40], 1] = True  # beside the frequent one
    labels[[50, 90, 95, 99], 2] = True  # beside it, and alone
    train = FeatureSet(torch.randn(100, 4), labels, ("often", "twice", "seldom"))
    for seed in range(20):
        held_out = held_out_rows(train, seed)
        assert labels[held_out].sum(dim=0).tolist()[1:] == [1, 1]
        assert int(held_out.sum()) == 1 + 1 + 67 // 5 + 27 // 5


@pytest.mark.parametrize("standardized", [True, False])
@pytest.mark.parametrize("features", [40, 200])
def test_a_feature_that_never_moves_in_training_says_nothing(
    features: int, standardized: bool
) -> None:
    train, test = noisy(60, features), noisy(30, features, seed=1)
    train.rows[:, 5] = 3.0
    if standardized:
        train.rows[::2, 5] += 3e-7  # float32 rounds so
    votes = []
    for moves in (3.0, 4e6):
        test.rows[:, 5] = moves
        found = linear(train, test, penalties=COARSE, standardized=standardized)
        assert found.value > 0.4
        votes.append(found.votes)
    torch.testing.assert_close(votes[1], votes[0], rtol=0, atol=1e-6)


@pytest.mark.parametrize("standardized", [True, False])
@pytest.mark.parametrize("features", [40, 200])
def test_the_unit_of_features_and_their_mean_change_nothing(
    features: int, standardized: bool
) -> None:
    train, test = (noisy(60, features, seed=seed) for seed in (0, 1))
    plain = linear(train, test, penalties=COARSE, standardized=standardized)
    for scale, shift in ((1e-9, 0.0), (1e9, 0.0), (1.0, 100.0)):
        moved = [replace(part, rows=part.rows * scale + shift) for part in (train, test)]
        found = linear(*moved, penalties=COARSE, standardized=standardized)
        assert found.penalty == plain.penalty
        torch.testing.assert_close(found.votes, plain.votes, rtol=0, atol=1e-3)


@pytest.mark.parametrize("standardized", [True, False])
@pytest.mark.parametrize("features", [40, 200])
def test_features_that_say_nothing_at_all_answer_by_the_classes_shares(
    features: int, standardized: bool
) -> None:
    train, test = (
        replace(noisy(60, features), rows=torch.full((60, features), 2.5)) for _ in range(2)
    )
    found = linear(train, test, standardized=standardized)
    torch.testing.assert_close(found.votes, torch.full((60, 3), 1 / 3))


def test_a_single_row_of_several_labels_is_learnt_of() -> None:
    labels = torch.ones(4, 2, dtype=torch.bool)
    train, test = (
        FeatureSet(torch.randn(rows, 5), labels[:rows], ("a", "b"), title="one") for rows in (1, 4)
    )
    found = linear(train, test)
    assert (found.penalty, found.tried) == (FIXED_PENALTY, ())
    assert bool((found.votes > 0.5).all())


def test_what_standardizing_is_for() -> None:
    train, test = noisy(), noisy(seed=1)
    scales = torch.cat([torch.full((3,), 1e-3), torch.full((37,), 1e3)])
    scaled = [replace(part, rows=part.rows * scales) for part in (train, test)]
    plain, found = linear(train, test, penalties=COARSE), linear(*scaled, penalties=COARSE)
    torch.testing.assert_close(found.votes, plain.votes, rtol=0, atol=1e-3)
    raw = linear(*scaled, penalties=(0.1,), standardized=False)
    assert raw.value < plain.value - 0.1
    assert (found.standardized, raw.standardized) == (True, False)


def test_without_standardizing_it_is_still_scikit_learns() -> None:
    train, test = digits()
    found = linear(train, test, penalties=(0.01,), standardized=False)
    variance = float(train.rows.double().var(dim=0).mean())
    model = LogisticRegression(C=10 / (0.01 * variance * len(train)), tol=1e-6, max_iter=10_000)
    model.fit(train.rows.double().numpy(), train.labels.numpy())
    answers = np.asarray(model.predict(test.rows.double().numpy()))
    assert 100 * found.value == pytest.approx(in_points(answers, test.labels), abs=0.2)


def test_scores_and_interval_are_of_the_votes() -> None:
    found = linear(noisy(), noisy(seed=1), penalties=(0.1,))
    labels = noisy(seed=1).labels
    assert found.value == float((found.votes.argmax(dim=1) == labels).float().mean())
    assert found.scores["top1"] == found.value
    assert found.low < found.value < found.high
    torch.testing.assert_close(found.votes.sum(dim=1), torch.ones(len(labels)))
    balanced = linear(noisy(), noisy(seed=1), penalties=(0.1,), measure="balanced_accuracy")
    assert balanced.value == found.scores["balanced_accuracy"]


def test_sets_that_do_not_go_together_are_refused() -> None:
    train, test = noisy(), noisy(seed=1)
    broken = replace(test, rows=test.rows.clone())
    broken.rows[3, 2] = torch.nan
    with pytest.raises(DataError, match="not finite"):
        linear(train, broken)
    with pytest.raises(DataError, match="different models"):
        linear(replace(train, encoder="a"), replace(test, encoder="b"))
    for penalties in ((1.0, 0.0), (), (1.0, math.nan), (math.inf,)):
        with pytest.raises(ValueError, match="above 0"):
            linear(train, test, penalties=penalties)
    with pytest.raises(UsageError, match="measure r2 does not fit these labels"):
        linear(train, test, measure="r2")


def test_penalties_are_tried_from_the_strongest_on_in_whatever_order_they_come() -> None:
    train, test = noisy(), noisy(seed=1)
    found = linear(train, test, penalties=(0.01, 10.0, 0.1, 1.0))
    assert [tried.penalty for tried in found.tried] == list(COARSE)
    assert found.penalty == linear(train, test, penalties=COARSE).penalty


def test_the_end_of_the_penalties_is_told() -> None:
    train, test = noisy(), noisy(seed=1)
    ends = [
        linear(train, test, penalties=penalties).at_end
        for penalties in ((100.0, 10.0), (0.1, 1e-4), COARSE, (0.1,))
    ]
    assert ends == ["weakest", "strongest", "", ""]
