"""The search does not depend on its chunks, ties go to lower rows, and what is chosen is fair."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from real_features import digits
from torch import Tensor

from moco.errors import DataError
from moco.evaluation import knn as knn_module
from moco.evaluation.feature_set import FeatureSet
from moco.evaluation.knn import knn, knn_memory
from moco.evaluation.neighbours import Chunks, Nearest, choose_chunks, nearest_rows

TRAIN, TEST = digits()
PARTS = [Chunks(797, 797, 1000), Chunks(64, 64, 64), Chunks(300, 7, 33), Chunks(1, 1, 1000)]


def found(train: Tensor, test: Tensor, count: int, chunks: Chunks) -> Nearest:
    blocks = list(nearest_rows(train, test, (count,), chunks=chunks))
    assert [block.first for block in blocks] == list(range(0, len(test), chunks.block))
    return Nearest(
        0, torch.cat([one.similarities for one in blocks]), torch.cat([one.rows for one in blocks])
    )


@pytest.mark.parametrize("chunks", PARTS[1:])
def test_chunks_change_no_neighbour(chunks: Chunks) -> None:
    doubled = torch.cat([TRAIN.rows, TRAIN.rows.flip(0)])  # each row has an equal one far away
    test = TEST.rows[:90]
    whole, parts = (found(doubled, test, 41, which) for which in (PARTS[0], chunks))
    assert torch.equal(whole.rows, parts.rows)
    torch.testing.assert_close(whole.similarities, parts.similarities, rtol=0, atol=1e-6)


@pytest.mark.parametrize("chunks", PARTS)
@pytest.mark.parametrize("row", [torch.ones(5), torch.zeros(5), torch.full((5,), 1e-30)])
def test_of_equal_rows_the_lowest_are_nearest(chunks: Chunks, row: Tensor) -> None:
    nearest = found(row.expand(150, 5), row.expand(3, 5), 70, chunks)
    assert torch.equal(nearest.rows, torch.arange(70).expand(3, 70))
    assert bool(nearest.similarities.isfinite().all())


@pytest.mark.parametrize("chunks", PARTS)
def test_a_row_that_is_left_out_is_never_its_own_neighbour(chunks: Chunks) -> None:
    own = torch.arange(20, 80)
    blocks = nearest_rows(TRAIN.rows, TRAIN.rows[own], (1, 9), chunks=chunks, own=own)
    rows = torch.cat([block.rows for block in blocks])
    assert not (rows == own[:, None]).any()
    among = found(TRAIN.rows, TRAIN.rows[own], 10, chunks).rows
    assert torch.equal(among[:, 0], own)
    assert torch.equal(rows, among[:, 1:])


def test_rows_that_float32_cannot_tell_apart_are_told_apart() -> None:
    draw = torch.Generator().manual_seed(0)
    rows = torch.ones(30, 8) + 1e-4 * torch.rand(30, 8, generator=draw)
    known = rows.double().numpy()
    known /= np.linalg.norm(known, axis=1, keepdims=True)
    order = np.argsort(-(known[:1] @ known.T), axis=1)
    assert np.array_equal(found(rows, rows[:1], 7, Chunks(1, 1, 9)).rows, order[:, :7])


def test_memory_mapped_half_precision_rows_serve(tmp_path: Path) -> None:
    np.save(tmp_path / "rows.npy", TRAIN.rows.half().numpy())  # digits are 0 to 16: nothing is lost
    rows = torch.from_numpy(np.load(tmp_path / "rows.npy", mmap_mode="c"))
    mapped = knn(replace(TRAIN, rows=rows), TEST)
    assert mapped.sweep == knn(TRAIN, TEST).sweep


def test_memory_is_kept_to_where_it_can_be() -> None:
    for memory in (1 << 26, 1 << 28, 1 << 30, 1 << 34):
        chunks = choose_chunks(1_000_000, 50_000, 2048, 200, memory=memory)
        assert chunks.memory(2048, 200) <= memory
    assert chunks.block == 50_000  # enough for all: train rows are read once
    least = choose_chunks(1_000_000, 50_000, 2048, 200, memory=1)
    assert least == Chunks(64, 64, 64)
    assert knn_memory(TRAIN, TEST) > choose_chunks(1000, 797, 64, 200).memory(64, 200)


def test_headline_best_and_chosen_are_of_the_sweep() -> None:
    result = knn(TRAIN, TEST, neighbours=(1, 5, 5000), temperatures=(0.1,))
    assert result.neighbours == (1, 5, 200, 1000)
    assert result.temperatures == (0.07, 0.1)
    assert (result.headline.neighbours, result.headline.temperature) == (200, 0.07)
    assert result.headline.value == result.sweep[2][0] == result.scores["top1"]
    assert result.best.value == max(max(row) for row in result.sweep)
    assert result.chosen is not None
    assert any(result.chosen.value in row for row in result.sweep)
    assert result.votes.shape == (797, 10)


def test_the_chosen_setting_does_not_depend_on_test_labels() -> None:
    one = knn(TRAIN, TEST).chosen
    other = knn(TRAIN, replace(TEST, labels=TEST.labels.flip(0))).chosen
    assert one is not None
    assert other is not None
    assert (one.neighbours, one.temperature) == (other.neighbours, other.temperature)
    assert one.value > 0.9 > other.value


def test_choosing_leaves_each_row_out(monkeypatch: pytest.MonkeyPatch) -> None:
    """Labels by chance: with its own vote each row would be right with one neighbour."""
    draw = torch.Generator().manual_seed(0)
    blind = replace(TRAIN, labels=torch.randint(10, (1000,), generator=draw))
    seen = []
    inner = knn_module._left_out
    monkeypatch.setattr(
        knn_module, "_left_out", lambda *given: seen.append(inner(*given)) or seen[-1]
    )
    knn(blind, replace(TEST, labels=torch.arange(797) % 10))
    assert max(seen[0]) < 0.2


def test_several_labels_and_numbers_vote_too() -> None:
    several = torch.stack([TRAIN.labels % 2 == 0, TRAIN.labels > 4, TRAIN.labels == 3], dim=1)
    asked = torch.stack([TEST.labels % 2 == 0, TEST.labels > 4, TEST.labels == 3], dim=1)
    names = ("even", "large", "three")
    train, test = (
        replace(features, labels=labels, classes=names)
        for features, labels in ((TRAIN, several), (TEST, asked))
    )
    result = knn(train, test)
    assert result.measure == "mean_average_precision"
    assert result.headline.value > 0.9
    one = knn_module.knn_class_scores(TRAIN.rows, TRAIN.labels, TEST.rows, classes=10)
    expected = torch.stack(
        [one[:, 0::2].sum(dim=1), one[:, 5:].sum(dim=1), one[:, 3]], dim=1
    )  # a label's share is that of the classes that have it
    torch.testing.assert_close(result.votes, expected, rtol=1e-4, atol=1e-5)
    train, test = (
        replace(features, labels=features.labels.float(), classes=()) for features in (TRAIN, TEST)
    )
    numbers = knn(train, test)
    assert numbers.measure == "r2"
    torch.testing.assert_close(numbers.votes[:, 0], one @ torch.arange(10.0), rtol=1e-4, atol=1e-4)
    assert numbers.scores["r2"] == numbers.headline.value > 0.6


@pytest.mark.parametrize(
    ("labels", "classes", "told"),
    [
        (torch.full((797,), 2.5), (), "are all 2.5; evaluation needs numbers that differ"),
        (torch.full((797,), torch.nan), (), "not all finite"),
        (torch.arange(797), tuple("0123456789"), "that are numbers and test of one class"),
    ],
)
def test_numbers_that_make_no_score_are_refused(
    labels: Tensor, classes: tuple[str, ...], told: str
) -> None:
    train = replace(TRAIN, labels=TRAIN.labels.float(), classes=())
    with pytest.raises(DataError, match=told):
        knn(train, FeatureSet(TEST.rows, labels, classes, title="test"))


def test_a_class_that_no_test_image_has_among_several_is_named() -> None:
    labels = torch.stack([TRAIN.labels == 1, TRAIN.labels > 99], dim=1)
    train = replace(TRAIN, labels=labels, classes=("one", "none"))
    with pytest.raises(DataError, match="train has no image of class none"):
        knn(train, train)
