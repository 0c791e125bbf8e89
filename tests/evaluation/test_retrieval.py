"""Recall at k and mAP are those of a brute-force computation, and of cases worked by hand."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch
from real_features import digits
from sklearn.metrics import average_precision_score

from moco.errors import DataError
from moco.evaluation.feature_set import FeatureSet
from moco.evaluation.retrieval import ranked, retrieval

GALLERY, QUERIES = digits()


def by_brute_force(
    gallery: FeatureSet, queries: FeatureSet, depths: tuple[int, ...], *, own: bool
) -> tuple[list[float], float]:
    known = gallery.rows.double().numpy()
    known /= np.linalg.norm(known, axis=1, keepdims=True)
    found, precisions = [], []
    for number, (row, label) in enumerate(
        zip(queries.rows.double().numpy(), queries.labels.numpy(), strict=True)
    ):
        cosines = (known @ (row / np.linalg.norm(row))).round(12)
        relevant = gallery.labels.numpy() == label
        if own:
            cosines, relevant = np.delete(cosines, number), np.delete(relevant, number)
        order = np.argsort(-cosines, kind="stable")
        found.append([relevant[order[:depth]].any() for depth in depths])
        precisions.append(average_precision_score(relevant, cosines))
    return np.mean(found, axis=0).tolist(), float(np.mean(precisions))


def test_two_sources_equal_a_brute_force_computation() -> None:
    recall, precision = by_brute_force(GALLERY, QUERIES, (1, 5, 10), own=False)
    for memory in (1 << 20, 1 << 30):
        result = retrieval(GALLERY, QUERIES, depths=(1, 5, 10), memory=memory)
        assert result.recall == pytest.approx(recall, abs=1e-12)
        assert result.mean_average_precision == pytest.approx(precision, abs=1e-9)
        assert (result.queries, result.without_relevant, result.gallery) == (797, 0, 1000)


def test_one_source_leaves_out_the_query_itself() -> None:
    few = replace(GALLERY, rows=GALLERY.rows[:300], labels=GALLERY.labels[:300])
    result = retrieval(few, depths=(1, 2, 1000))
    recall, precision = by_brute_force(few, few, (1, 2, 299), own=True)
    assert result.depths == (1, 2, 299)
    assert result.recall == pytest.approx(recall, abs=1e-12)
    assert result.mean_average_precision == pytest.approx(precision, abs=1e-9)
    assert result.recall[0] < 1.0


def test_a_query_of_one_source_is_known_by_its_path() -> None:
    paths = tuple(f"{number}.png" for number in range(1000))
    gallery = replace(GALLERY, paths=paths)
    queries = replace(
        GALLERY,
        rows=GALLERY.rows[500:600],
        labels=GALLERY.labels[500:600],
        paths=paths[500:600],
    )
    whole, part = retrieval(gallery), retrieval(gallery, queries, one_source=True)
    assert torch.equal(part.average_precisions, whole.average_precisions[500:600])
    two = retrieval(gallery, queries)  # folders of two sources may hold equal names
    assert two.recall[0] == 1.0 > part.recall[0]
    for strange in (replace(queries, paths=("new", *paths[501:600])), replace(queries, paths=())):
        with pytest.raises(DataError, match="is not among the images of train"):
            retrieval(gallery, strange, one_source=True)


def test_cases_worked_by_hand() -> None:
    cosines = torch.tensor([[0.9, 0.8, 0.7, 0.6], [0.5, 0.5, 0.5, 0.1], [0.1, 0.2, 0.3, 0.4]])
    relevant = torch.tensor([[0, 1, 0, 1], [0, 0, 1, 0], [0, 0, 0, 0]]).bool()
    first, precision = ranked(cosines, relevant)
    assert first.tolist() == [1, 2, 4]
    assert precision[:2].tolist() == pytest.approx([0.5 * (1 / 2 + 2 / 4), 1 / 3])  # a tie of three
    assert bool(precision[2].isnan())


def test_queries_with_nothing_to_find_are_counted_and_left_out() -> None:
    rows = torch.tensor([[1.0, 0.0], [1.0, 0.1], [0.0, 1.0], [1.0, 0.05]])
    features = FeatureSet(rows, torch.tensor([0, 0, 1, 0]), ("a", "b"))
    result = retrieval(features, depths=(1,))
    assert (result.queries, result.without_relevant) == (3, 1)
    assert (result.recall, result.mean_average_precision) == ((1.0,), 1.0)
    assert bool(result.average_precisions[2].isnan())
    alone = replace(features, rows=rows[1:3], labels=features.labels[1:3])
    with pytest.raises(DataError, match="no image of features has another of its class"):
        retrieval(alone)


def test_any_shared_class_of_several_is_relevant() -> None:
    rows = torch.tensor([[1.0, 0.0], [0.9, 0.1], [0.5, 0.5]])
    labels = torch.tensor([[1, 0], [0, 1], [1, 1]]).bool()
    result = retrieval(FeatureSet(rows, labels, ("a", "b")), depths=(1, 2))
    assert result.recall == (pytest.approx(1 / 3), 1.0)  # only the third shares with its nearest
    assert result.average_precisions.tolist() == [0.5, 0.5, 1.0]


def test_what_makes_no_sense_is_refused() -> None:
    with pytest.raises(ValueError, match="depths must be from 1"):
        retrieval(GALLERY, depths=(0,))
    numbers = replace(GALLERY, labels=GALLERY.labels.float(), classes=())
    with pytest.raises(DataError, match="retrieval needs classes"):
        retrieval(numbers)
