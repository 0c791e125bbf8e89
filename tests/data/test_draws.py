from __future__ import annotations

from collections import Counter
from itertools import permutations

import numpy as np
import pytest
from scipy import stats

from moco.data.draws import key_of, mix, permuted, uniform_draws


def test_mix_is_splitmix64s_finalizer() -> None:
    """Its first outputs for the seed 1234567, as published with the generator."""
    state, outputs = 1234567, []
    for _ in range(5):
        state = (state + 0x9E3779B97F4A7C15) % 2**64
        outputs.append(int(mix(np.array([state], np.uint64))[0]))
    assert outputs == [
        6457827717110365317,
        3203168211198807973,
        9817491932198370423,
        4593380528125082431,
        16408922859458223821,
    ]


@pytest.mark.parametrize("size", [1, 2, 3, 5, 16, 17, 63, 64, 1000, 65537])
def test_every_image_stands_at_one_place(size: int) -> None:
    for epoch in range(3):
        order = permuted(np.arange(size), size, key_of(7, epoch))
        assert np.array_equal(np.sort(order), np.arange(size))


def test_a_place_is_found_alone_as_among_others() -> None:
    size = 10**12
    places = np.array([0, 1, 5, 10**11, size - 1])
    key = key_of(1, 2)
    together = permuted(places, size, key)
    assert [int(permuted(places[row : row + 1], size, key)[0]) for row in range(5)] == list(
        together
    )
    assert together.min() >= 0
    assert together.max() < size


def test_all_orders_of_few_images_are_about_equally_frequent() -> None:
    counts = Counter(tuple(permuted(np.arange(4), 4, key_of(0, e)).tolist()) for e in range(9600))
    assert set(counts) == set(permutations(range(4)))
    assert stats.chisquare(list(counts.values())).pvalue > 1e-4


@pytest.mark.parametrize("size", [50, 64, 1000])
def test_where_an_image_stands_is_uniform_over_epochs_and_neighbours_part(size: int) -> None:
    orders = np.array([permuted(np.arange(size), size, key_of(3, e)) for e in range(2000)])
    bins = 10
    for place in (0, 7, size - 1):
        counts = np.bincount(orders[:, place] * bins // size, minlength=bins)
        expected = np.bincount(np.arange(size) * bins // size, minlength=bins) * 2000 / size
        assert stats.chisquare(counts, expected).pvalue > 1e-4
    apart = (orders[:, 1:] - orders[:, :-1]) % size
    counts = np.bincount(apart.ravel(), minlength=size)[1:]
    assert counts.max() < 1.25 * counts.mean() + 6 * np.sqrt(counts.mean())
    assert counts.min() > 0.75 * counts.mean() - 6 * np.sqrt(counts.mean())


def test_draws_are_uniform_and_independent_across_images_views_epochs_and_seeds() -> None:
    ids = np.arange(20_000)
    draws = uniform_draws(5, 3, ids, 0, 6)
    assert draws.shape == (20_000, 6)
    assert draws.min() >= 0
    assert draws.max() < 1
    others = [
        uniform_draws(5, 3, ids, 1, 6),
        uniform_draws(5, 4, ids, 0, 6),
        uniform_draws(6, 3, ids, 0, 6),
        uniform_draws(5, 3, ids + 1, 0, 6),
    ]
    for column in range(6):
        assert stats.kstest(draws[:, column], "uniform").pvalue > 1e-4
        for other in others:
            assert abs(np.corrcoef(draws[:, column], other[:, column])[0, 1]) < 0.03
    correlation = np.corrcoef(draws.T) - np.eye(6)
    assert np.abs(correlation).max() < 0.03


def test_a_row_depends_on_its_own_image_alone() -> None:
    together = uniform_draws(1, 2, np.array([9, 4, 7]), 1, 5)
    alone = uniform_draws(1, 2, np.array([4]), 1, 3)
    assert np.array_equal(together[1, :3], alone[0])


def test_keys_tell_their_parts_apart() -> None:
    keys = {int(key_of(*parts)[0]) for parts in ((0,), (0, 0), (0, 1), (1, 0), (1,), (2**63 - 1,))}
    assert len(keys) == 6
