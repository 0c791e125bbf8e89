from __future__ import annotations

import time
import tracemalloc

import numpy as np
import pytest

from moco.data.order import Order

SIZES = np.array([5, 1, 9, 0, 7, 3, 11])
TOTAL = int(SIZES.sum())
SHARD_OF = np.repeat(np.arange(len(SIZES)), SIZES)


@pytest.mark.parametrize("window", [0, 1, 2, 3, 7, 50])
def test_an_epoch_shows_every_image_once_and_depends_on_seed_and_epoch(window: int) -> None:
    order, again = (Order(SIZES, seed=4, window=window) for _ in range(2))
    places = np.arange(TOTAL)
    seen = []
    for epoch in (3, 0, 1):
        ids = order.images_at(epoch, places)
        assert np.array_equal(np.sort(ids), places)
        assert not np.array_equal(ids, places)
        seen.append(ids.tolist())
    assert len({tuple(ids) for ids in seen}) == 3
    assert again.images_at(1, places).tolist() == seen[2]
    other = Order(SIZES, seed=5, window=window)
    assert other.images_at(1, places).tolist() != seen[2]


@pytest.mark.parametrize("window", [0, 2])
def test_any_places_are_found_alone_and_in_any_order(window: int) -> None:
    order = Order(SIZES, seed=0, window=window)
    whole = order.images_at(2, np.arange(TOTAL))
    for places in (np.array([TOTAL - 1]), np.array([30, 2, 17, 2]), np.arange(9, 20)):
        assert np.array_equal(
            Order(SIZES, seed=0, window=window).images_at(2, places), whole[places]
        )


def test_a_window_holds_the_images_of_its_shards_only_and_mixes_them() -> None:
    order = Order(SIZES, seed=0, window=2)
    for epoch in range(5):
        ids = order.images_at(epoch, np.arange(TOTAL))
        windows = order.windows_of(epoch)
        assert sorted(windows.shards) == list(range(7))
        for number, (first, end) in enumerate(
            zip(windows.window_starts[:-1], windows.window_starts[1:], strict=True)
        ):
            shards = windows.shards[2 * number : 2 * number + 2]
            assert set(SHARD_OF[ids[first:end]]) <= set(shards)
            assert end - first == SIZES[shards].sum()
    shards_in_turn = SHARD_OF[ids]
    changes = int((shards_in_turn[1:] != shards_in_turn[:-1]).sum())
    assert changes > len(SIZES)  # not shard after shard


def test_shards_and_the_images_of_a_window_lie_otherwise_in_each_epoch_seed_and_window() -> None:
    sizes = np.full(20, 6)

    def windows(seed: int, epoch: int) -> tuple[list[int], list[tuple[int, ...]]]:
        """Return the order of shards, and how the 12 images of each window are mixed."""
        order = Order(sizes, seed=seed, window=2)
        shards = order.windows_of(epoch).shards
        ids = order.images_at(epoch, np.arange(120))
        place_of = np.argsort(shards)[ids // 6] * 6 + ids % 6
        return shards.tolist(), [tuple(mixed) for mixed in (place_of.reshape(10, 12) % 12).tolist()]

    orders = [windows(seed, epoch) for seed, epoch in ((0, 0), (0, 1), (1, 0), (1, 1))]
    assert len({tuple(shards) for shards, _ in orders}) == 4
    assert len({mixed for _, mixes in orders for mixed in mixes}) == 40  # no window as another
    order = Order(sizes, seed=0, window=2)
    for epoch in (1, 0, 1):  # what is kept of an epoch is of no use in the next
        assert order.windows_of(epoch).shards.tolist() == windows(0, epoch)[0]


def test_shards_to_fetch_are_those_of_this_window_and_the_next() -> None:
    order = Order(SIZES, seed=0, window=2)
    windows = order.windows_of(0)
    assert order.shards_after(0, 0).tolist() == windows.shards[:4].tolist()
    last = order.shards_after(0, TOTAL - 1)
    assert last.tolist() == windows.shards[6:].tolist()
    assert len(Order(SIZES, seed=0).shards_after(0, 0)) == 0


def test_a_billion_images_start_anywhere_at_once_in_no_memory() -> None:
    tracemalloc.start()
    began = time.process_time()
    order = Order(np.array([10**9]), seed=0)
    ids = order.images_at(399, np.arange(10**9 - 256, 10**9))
    seconds = time.process_time() - began
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert len(set(ids.tolist())) == 256
    assert seconds < 0.5
    assert peak < 1_000_000


def test_a_billion_images_in_shards_cost_memory_by_the_shard() -> None:
    sizes = np.full(100_000, 10_000)
    order = Order(sizes, seed=0, window=64)
    began = time.process_time()
    ids = order.images_at(7, np.arange(640_000 * 3 - 100, 640_000 * 3 + 156))
    assert time.process_time() - began < 1.0
    assert len(set(ids.tolist())) == 256
    assert len(set((ids // 10_000).tolist())) > 64
