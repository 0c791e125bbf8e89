"""kNN equals an independent brute-force float64 computation on real features, for every setting."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from real_features import ARCHIVE, cifar10_pixels, digits, untrained_features

from moco.evaluation.feature_set import FeatureSet
from moco.evaluation.knn import NEIGHBOURS, TEMPERATURES, knn, knn_class_scores

Pair = tuple[FeatureSet, FeatureSet]
Votes = dict[tuple[int, float], np.ndarray]


@pytest.fixture(scope="module", params=["digits", "pixels", "untrained"])
def pair(request: pytest.FixtureRequest) -> Pair:
    if request.param == "digits":
        return digits()
    if not ARCHIVE.exists():
        pytest.skip(f"no CIFAR-10 files at {ARCHIVE}")
    train, test = cifar10_pixels(200, 100)
    assert (len(train), len(test)) == (2000, 1000)
    if request.param == "pixels":
        return train, test
    with_rows = (replace(half, rows=untrained_features(half.rows)) for half in (train, test))
    return next(with_rows), next(with_rows)


def by_brute_force(train: FeatureSet, test: FeatureSet) -> Votes:
    """Return the votes [T, Y] of each setting, in float64 and with nothing of the package."""
    known, asked = (half.rows.numpy().astype(np.float64) for half in (train, test))
    cosines = asked @ known.T
    cosines /= np.linalg.norm(asked, axis=1)[:, None] * np.linalg.norm(known, axis=1)[None]
    labels = train.labels.numpy()
    votes = {}
    order = np.argsort(-cosines.round(12), axis=1, kind="stable")
    for count in NEIGHBOURS:
        chosen = order[:, :count]
        for temperature in TEMPERATURES:
            weights = np.exp(np.take_along_axis(cosines, chosen, axis=1) / temperature)
            of_class = [
                np.where(labels[chosen] == number, weights, 0).sum(axis=1) for number in range(10)
            ]
            votes[count, temperature] = np.stack(of_class, axis=1)
    return votes


@pytest.fixture(scope="module")
def expected(pair: Pair) -> Votes:
    return by_brute_force(*pair)


def test_every_value_of_the_sweep_is_exact(pair: Pair, expected: Votes) -> None:
    train, test = pair
    result = knn(train, test, measure="top1", choose=False)
    assert (result.neighbours, result.temperatures) == (NEIGHBOURS, TEMPERATURES)
    for count, row in zip(NEIGHBOURS, result.sweep, strict=True):
        for temperature, value in zip(TEMPERATURES, row, strict=True):
            answers = expected[count, temperature].argmax(axis=1)
            assert value == pytest.approx(float((answers == test.labels.numpy()).mean()), abs=1e-7)


@pytest.mark.parametrize("temperature", [0.02, 0.07, 0.5])
def test_every_vote_is_exact(pair: Pair, expected: Votes, temperature: float) -> None:
    train, test = pair
    for count in NEIGHBOURS:
        found = knn_class_scores(
            train.rows,
            train.labels,
            test.rows,
            classes=10,
            neighbours=count,
            temperature=temperature,
        )
        votes = expected[count, temperature]
        votes = votes / votes.sum(axis=1, keepdims=True)
        np.testing.assert_allclose(found.numpy(), votes, rtol=0, atol=2e-5)
        assert np.array_equal(found.argmax(dim=1).numpy(), votes.argmax(axis=1))
