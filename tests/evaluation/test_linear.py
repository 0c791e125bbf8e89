from __future__ import annotations

from typing import Any

import pytest
import torch
from sklearn.linear_model import LogisticRegression
from torch import Tensor

from moco.evaluation import linear
from moco.evaluation.linear import PENALTIES, linear_class_scores


def clusters(
    rows: int, *, features: int = 8, classes: int = 3, seed: int = 0, spread: float = 1.0
) -> tuple[Tensor, Tensor]:
    draw = torch.Generator().manual_seed(seed)
    labels = torch.arange(rows) % classes
    centres = torch.randn(classes, features, generator=torch.Generator().manual_seed(9))
    scales = torch.linspace(0.1, 30, features)  # features of very different size
    noise = torch.randn(rows, features, generator=draw)
    return (centres[labels] + spread * noise) * scales + 5, labels


def by_scikit_learn(
    train: Tensor, labels: Tensor, test: Tensor, *, classes: int, penalty: float
) -> Tensor:
    """Return probabilities of the same loss: mean cross-entropy + penalty / 2 * |W|^2 / classes."""
    mean, std = train.double().mean(dim=0), train.double().std(dim=0)
    strength = classes / (penalty * len(train))
    if classes == 2:
        strength *= 2  # one row of weights instead of two opposite ones of half its length
    model = LogisticRegression(C=strength, tol=1e-10, max_iter=10_000)
    model.fit(((train - mean) / std).numpy(), labels.numpy())
    return torch.from_numpy(model.predict_proba(((test - mean) / std).numpy()))


@pytest.mark.parametrize("penalty", PENALTIES[::2])
@pytest.mark.parametrize("classes", [2, 3, 7])
def test_probabilities_are_scikit_learns(classes: int, penalty: float) -> None:
    train, labels = clusters(150, classes=classes)
    test, _ = clusters(40, classes=classes, seed=1)
    found = linear_class_scores(train, labels, test, classes=classes, penalties=(penalty,))
    expected = by_scikit_learn(train, labels, test, classes=classes, penalty=penalty)
    near = 1e-3 if penalty > 1e-4 else 3e-3  # the weakest leaves the loss nearly flat
    torch.testing.assert_close(found.double(), expected, rtol=0, atol=near)


@pytest.mark.parametrize("penalty", [1e-3, 0.1, 10.0])
def test_more_features_than_rows_give_what_the_direct_way_gives(
    penalty: float, monkeypatch: pytest.MonkeyPatch
) -> None:
    train, labels = clusters(40, features=90)
    test, _ = clusters(25, features=90, seed=1)
    train[:, 7] = 3.0  # never moves in training
    train[:, 8] = test[:, 8] = 0.0
    short = linear_class_scores(train, labels, test, classes=3, penalties=(penalty,))
    monkeypatch.setattr(linear, "span", lambda train, test: (train, test))
    direct = linear_class_scores(train, labels, test, classes=3, penalties=(penalty,))
    torch.testing.assert_close(short, direct, rtol=0, atol=1e-3)


def penalties_fitted(monkeypatch: pytest.MonkeyPatch) -> list[tuple[int, float]]:
    """Return a list that fills with (rows, penalty) of each fit."""
    fits: list[tuple[int, float]] = []
    plain = linear.fit

    def spy(rows: Tensor, labels: Tensor, *rest: Any) -> Any:
        fits.append((len(rows), next(value for value in rest if isinstance(value, float))))
        return plain(rows, labels, *rest)

    monkeypatch.setattr(linear, "fit", spy)
    return fits


def test_noise_calls_for_a_stronger_penalty_than_clear_classes(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    fits = penalties_fitted(monkeypatch)
    chosen = []
    for spread in (4.0, 0.05):
        train, labels = clusters(100, spread=spread)
        test, _ = clusters(10, seed=1, spread=spread)
        linear_class_scores(train, labels, test, classes=3)
        *tried, (rows, penalty) = fits
        assert {rows for rows, _ in tried} == {80}  # every fifth row only chooses
        assert {penalty for _, penalty in tried} <= set(PENALTIES)
        assert len(tried) == len(set(tried)) > 1
        assert rows == 100
        chosen.append(penalty)
        fits.clear()
    noisy, clear = chosen
    assert noisy >= 30 * clear


def test_each_test_row_is_scored_as_if_it_were_alone() -> None:
    train, labels = clusters(60, spread=2.0)
    few = (1e-2, 0.1, 1.0)
    test, _ = clusters(30, seed=1, spread=2.0)
    together = linear_class_scores(train, labels, test, classes=3, penalties=few)
    order = torch.randperm(30, generator=torch.Generator().manual_seed(0))
    shuffled = linear_class_scores(train, labels, test[order], classes=3, penalties=few)
    assert torch.equal(shuffled, together[order])
    alone = linear_class_scores(train, labels, test[:1], classes=3, penalties=few)
    torch.testing.assert_close(alone, together[:1], rtol=0, atol=1e-6)
    beside_others = torch.cat([test[:1], test[1:] * 1000 - 7])
    found = linear_class_scores(train, labels, beside_others, classes=3, penalties=few)
    torch.testing.assert_close(found[:1], together[:1], rtol=0, atol=1e-6)


def test_given_validation_rows_choose_the_penalty(monkeypatch: pytest.MonkeyPatch) -> None:
    train, labels = clusters(60, spread=2.0)
    fits = penalties_fitted(monkeypatch)
    validation = torch.arange(60) < 10
    linear_class_scores(train, labels, train[:2], classes=3, validation=validation)
    assert {rows for rows, _ in fits[:-1]} == {50}
    fits.clear()
    validation[:] = False  # nothing to choose by
    linear_class_scores(train, labels, train[:2], classes=3, validation=validation)
    ((rows, penalty),) = fits
    assert rows == 60
    assert penalty in PENALTIES


def test_rows_add_up_to_one_and_learn_the_classes() -> None:
    train, labels = clusters(90, spread=0.3)
    test, test_labels = clusters(30, seed=1, spread=0.3)
    found = linear_class_scores(train, labels, test, classes=3)
    assert found.dtype == torch.float32
    torch.testing.assert_close(found.sum(dim=1), torch.ones(30))
    assert torch.equal(found.argmax(dim=1), test_labels)


def test_a_class_without_train_rows_is_never_the_answer() -> None:
    train, labels = clusters(60)
    found = linear_class_scores(train, labels, train, classes=5)
    assert found.shape == (60, 5)
    assert int(found.argmax(dim=1).max()) < 3


def test_shapes_that_do_not_fit_are_refused() -> None:
    train, labels = clusters(20)
    for rows, their_labels in ((train, labels[:-1]), (train[:0], labels[:0])):
        with pytest.raises(ValueError, match="train rows"):
            linear_class_scores(rows, their_labels, train, classes=3)
