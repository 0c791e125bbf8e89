from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from sklearn.neighbors import KNeighborsClassifier
from torch import Tensor

from moco.evaluation import knn, neighbours
from moco.evaluation.knn import knn_class_scores


def clusters(rows: int, *, seed: int = 0) -> tuple[Tensor, Tensor]:
    draw = torch.Generator().manual_seed(seed)
    labels = torch.randint(3, (rows,), generator=draw)
    centres = torch.randn(3, 6, generator=torch.Generator().manual_seed(9))
    noise = torch.randn(rows, 6, generator=draw)
    lengths = torch.rand(rows, 1, generator=draw) * 5 + 0.1  # the cosine must not see them
    return (centres[labels] + noise) * lengths, labels


TRAIN, LABELS = clusters(80)
TEST, _ = clusters(30, seed=1)


def by_loops(neighbours: int, temperature: float) -> list[list[float]]:
    """Return the votes with one loop a letter of the formula in ALGORITHM.md, section 9."""
    rows = []
    for test in TEST.tolist():
        near = []
        for train, label in zip(TRAIN.tolist(), LABELS.tolist(), strict=True):
            dot = sum(a * b for a, b in zip(test, train, strict=True))
            near.append((dot / (math.hypot(*test) * math.hypot(*train)), label))
        votes = [0.0] * 3
        for cosine, label in sorted(near, reverse=True)[:neighbours]:
            votes[label] += math.exp(cosine / temperature)
        rows.append([vote / sum(votes) for vote in votes])
    return rows


@pytest.mark.parametrize(("neighbours", "temperature"), [(1, 0.07), (5, 0.07), (20, 0.5), (80, 1)])
def test_votes_are_those_of_plain_loops(neighbours: int, temperature: float) -> None:
    found = knn_class_scores(
        TRAIN, LABELS, TEST, classes=3, neighbours=neighbours, temperature=temperature
    )
    expected = torch.tensor(by_loops(neighbours, temperature))
    torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-6)
    torch.testing.assert_close(found.sum(dim=1), torch.ones(30))


@pytest.mark.parametrize("temperature", [0.07, 0.3])
def test_votes_are_scikit_learns_with_the_same_weights(temperature: float) -> None:
    def weights(distances: np.ndarray) -> np.ndarray:
        return np.exp((1 - distances) / temperature)

    theirs = KNeighborsClassifier(15, weights=weights, algorithm="brute", metric="cosine")
    theirs.fit(TRAIN.double().numpy(), LABELS.numpy())
    expected = torch.from_numpy(theirs.predict_proba(TEST.double().numpy())).float()
    found = knn_class_scores(TRAIN, LABELS, TEST, classes=3, neighbours=15, temperature=temperature)
    torch.testing.assert_close(found, expected, rtol=1e-3, atol=1e-5)


@pytest.mark.parametrize("chunk", [1, 7, 29, 30, 1000])
def test_chunks_change_nothing(chunk: int, monkeypatch: pytest.MonkeyPatch) -> None:
    whole = knn_class_scores(TRAIN, LABELS, TEST, classes=3, neighbours=9)
    monkeypatch.setattr(neighbours, "CHUNK_ROWS", chunk)
    monkeypatch.setattr(neighbours, "TILE_ROWS", chunk)
    monkeypatch.setattr(knn, "VOTE_ROWS", chunk)
    parts = knn_class_scores(TRAIN, LABELS, TEST, classes=3, neighbours=9)
    torch.testing.assert_close(parts, whole, rtol=1e-5, atol=1e-7)


def test_the_length_of_features_does_not_matter() -> None:
    one = knn_class_scores(TRAIN, LABELS, TEST, classes=3)
    scaled = knn_class_scores(TRAIN * 100, LABELS, TEST * 0.01, classes=3)
    torch.testing.assert_close(one, scaled, rtol=1e-4, atol=1e-6)


def test_more_neighbours_than_rows_means_all_rows() -> None:
    all_rows = knn_class_scores(TRAIN, LABELS, TEST, classes=3, neighbours=80)
    assert torch.equal(all_rows, knn_class_scores(TRAIN, LABELS, TEST, classes=3, neighbours=200))


def test_a_cold_vote_is_the_nearest_rows_and_does_not_overflow() -> None:
    cold = knn_class_scores(TRAIN, LABELS, TEST, classes=3, temperature=1e-6)
    nearest = knn_class_scores(TRAIN, LABELS, TEST, classes=3, neighbours=1)
    assert bool(cold.isfinite().all())
    torch.testing.assert_close(cold, nearest, rtol=0, atol=1e-3)


def test_classes_without_train_rows_get_no_vote() -> None:
    votes = knn_class_scores(TRAIN, LABELS, TEST, classes=5)
    assert votes.shape == (30, 5)
    assert not votes[:, 3:].any()


def test_half_precision_features_and_one_test_row_will_do() -> None:
    votes = knn_class_scores(TRAIN.bfloat16(), LABELS, TEST[:1].bfloat16(), classes=3)
    assert votes.dtype == torch.float32
    assert votes.shape == (1, 3)


@pytest.mark.parametrize(
    ("rows", "labels", "options"),
    [
        (TRAIN, LABELS, {"neighbours": 0}),
        (TRAIN, LABELS, {"temperature": 0.0}),
        (TRAIN, LABELS, {"temperature": -1.0}),
        (TRAIN, LABELS, {"temperature": float("nan")}),
        (TRAIN, LABELS[:-1], {}),
        (TRAIN[:0], LABELS[:0], {}),
    ],
)
def test_what_makes_no_sense_is_refused(
    rows: Tensor, labels: Tensor, options: dict[str, float]
) -> None:
    with pytest.raises(ValueError, match=r"neighbours|train rows"):
        knn_class_scores(rows, labels, TEST, classes=3, **options)  # type: ignore[arg-type]


def test_where_all_neighbours_are_of_one_class_the_vote_is_just_one() -> None:
    rows = torch.randn(64, 5, generator=torch.Generator().manual_seed(1))
    labels = (torch.arange(64) >= 62).long()
    for count in (3, 7, 20):
        votes = knn_class_scores(
            rows, labels, rows[:40], classes=2, neighbours=count, temperature=0.13
        )
        alone = votes[votes[:, 1] == 0, 0]
        assert len(alone) > 5
        assert bool((alone == 1).all())  # or which image comes first would be noise
