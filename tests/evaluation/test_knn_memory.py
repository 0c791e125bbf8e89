"""A search holds no more tensors than it states, and not much less."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch.profiler import ProfilerActivity, profile

from moco.evaluation.feature_set import FeatureSet
from moco.evaluation.knn import knn, knn_memory
from moco.evaluation.neighbours import Chunks, choose_chunks, nearest_rows

MIB = 1 << 20
FEATURES, CUTS = 512, (1, 20, 200)


def most_bytes(work: Callable[[], object]) -> int:
    """Return the most bytes that tensors took at one time, by torch's own account."""
    with profile(activities=[ProfilerActivity.CPU], profile_memory=True) as record:
        work()
    events = record.profiler.kineto_results.events()  # type: ignore[union-attr]
    taken = sorted(
        (event.start_ns(), number, event.nbytes())
        for number, event in enumerate(events)
        if event.name() == "[memory]"
    )
    held = most = 0
    for _, _, size in taken:
        held += size
        most = max(most, held)
    return most


def made(rows: int, seed: int) -> FeatureSet:
    draw = torch.Generator().manual_seed(seed)
    features = torch.randn(rows, FEATURES, generator=draw).half()
    return FeatureSet(features, torch.arange(rows) % 10, tuple("0123456789"))


@pytest.fixture(scope="module")
def pair() -> tuple[FeatureSet, FeatureSet]:
    return made(12_000, 0), made(3_000, 1)


def test_a_search_holds_what_it_states(pair: tuple[FeatureSet, FeatureSet]) -> None:
    """Whole, the train rows would take 23 MiB in float32, and the cosines 137 MiB."""
    train, test = pair
    chunks = choose_chunks(len(train), len(test), FEATURES, CUTS[-1], memory=40 * MIB)
    assert chunks.block < len(test)  # several blocks, chunks and tiles
    assert chunks.chunk < len(train)
    assert chunks.tile < chunks.block

    def search() -> None:
        for _ in nearest_rows(train.rows, test.rows, CUTS, chunks=chunks):
            pass

    stated = chunks.memory(FEATURES, CUTS[-1])
    assert stated <= 40 * MIB
    assert 0.5 * stated < most_bytes(search) <= stated


def test_knn_holds_what_it_states(pair: tuple[FeatureSet, FeatureSet]) -> None:
    train, test = pair
    stated = knn_memory(train, test, memory=40 * MIB)
    most = most_bytes(lambda: knn(train, test, memory=40 * MIB))
    assert 0.5 * stated < most <= stated


def test_rows_that_are_all_equal_take_no_more() -> None:
    """Every row is tied, and float64 looks at all of them."""
    rows = torch.ones(3_000, FEATURES)
    chunks = Chunks(600, 512, 3_000)

    def search() -> None:
        for _ in nearest_rows(rows, rows[:600], CUTS, chunks=chunks):
            pass

    assert most_bytes(search) <= chunks.memory(FEATURES, CUTS[-1])
