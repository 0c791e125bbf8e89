"""Each figure against its definition, in float64 with numpy."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import nn

from moco.dictionaries import Queue
from moco.info_nce import NO_IMAGE
from moco.probe import found_first, view_difference
from moco.signal_figures import (
    keys_of,
    leak_similarity,
    mean_cosine,
    relative_distance,
    sampled_weights,
)


def made(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def unit(*shape: int, seed: int = 0) -> torch.Tensor:
    return nn.functional.normalize(made(*shape, seed=seed), dim=1)


def test_relative_distance_is_that_of_one_long_vector() -> None:
    weights, others = [made(3, 4), made(5, seed=1)], [made(3, 4, seed=2), made(5, seed=3)]
    own = np.concatenate([weight.double().numpy().ravel() for weight in weights])
    other = np.concatenate([weight.double().numpy().ravel() for weight in others])
    expected = np.linalg.norm(own - other) / np.linalg.norm(own)
    assert relative_distance(weights, others) == pytest.approx(expected, rel=1e-6)
    assert relative_distance(weights, weights) == 0
    assert relative_distance([torch.zeros(2)], [torch.ones(2)]) == 0


def test_sampled_weights_are_copies_of_spread_entries_of_matrices(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    network = nn.Sequential(nn.Linear(8, 16), nn.BatchNorm1d(16), nn.Linear(16, 4))
    monkeypatch.setattr("moco.signal_figures.MOST_SAMPLED", 50)
    first, second = sampled_weights(network)
    assert torch.equal(first, network[0].weight.flatten()[::4])
    assert torch.equal(second, network[2].weight.flatten()[::4])
    kept = first.clone()
    with torch.no_grad():
        network[0].weight.add_(1)
    assert torch.equal(first, kept)


def test_mean_cosine() -> None:
    rows, others = made(6, 5), made(6, 5, seed=1)
    a, b = rows.double().numpy(), others.double().numpy()
    cosines = (a * b).sum(1) / np.linalg.norm(a, axis=1) / np.linalg.norm(b, axis=1)
    assert mean_cosine(rows, others) == pytest.approx(cosines.mean(), abs=1e-12)


def test_keys_of_counts_an_images_stored_keys() -> None:
    stored = torch.tensor([5, 3, 5, 9, 5, 7])
    assert keys_of(torch.tensor([5, 3, 8, 9]), stored) == (3 + 1 + 0 + 1) / 4
    assert keys_of(torch.tensor([5]), stored[:0]) == 0


def test_leak_similarity_is_the_gap_between_own_and_other_groups_without_own_keys() -> None:
    queries, keys = unit(6, 4), unit(6, 4, seed=1)
    group = torch.tensor([0, 0, 0, 1, 1, 1])
    same = group[:, None] == group
    cosines = (queries.double() @ keys.double().T).numpy()
    beside = [cosines[i, j] for i in range(6) for j in range(6) if i != j and i // 3 == j // 3]
    apart = [cosines[i, j] for i in range(6) for j in range(6) if i // 3 != j // 3]
    expected = np.mean(beside) - np.mean(apart)
    assert leak_similarity(queries, keys, same) == pytest.approx(expected, abs=1e-7)
    assert leak_similarity(queries, keys, torch.ones(6, 6, dtype=torch.bool)) == 0


def test_view_difference_is_own_over_other_pairs() -> None:
    view_a, view_b = made(5, 3, 4, 4), made(5, 3, 4, 4, seed=1)
    a, b = (view.double().numpy().reshape(5, -1) for view in (view_a, view_b))
    own = np.mean([((a[i] - b[i]) ** 2).sum() for i in range(5)])
    others = np.mean([((a[i] - b[j]) ** 2).sum() for i in range(5) for j in range(5) if i != j])
    assert view_difference(view_a, view_b) == pytest.approx(own / others, rel=1e-9)
    assert view_difference(view_a, view_a) == pytest.approx(0, abs=1e-12)
    flat = torch.zeros(3, 1, 2, 2)
    assert view_difference(flat, flat) == 0


def test_found_first_is_among_the_queues_real_keys_of_other_images() -> None:
    queries, keys, ids = unit(4, 6), unit(4, 6, seed=1), torch.tensor([2, 4, 6, 8])
    queue = Queue(5, 6)
    queue.keys[:3], queue.image_ids[:3] = unit(3, 6, seed=2), torch.tensor([4, 11, 12])
    queue.keys[3:] = queries[:2]  # slots that hold no key yet would win
    found = []
    for row in range(4):
        own = float(queries[row] @ keys[row])
        real = (queue.image_ids > NO_IMAGE) & (queue.image_ids != ids[row])
        found.append(own > float((queue.keys[real] @ queries[row]).max()))
    assert found_first(queries, keys, ids, queue) == np.mean(found)
    assert 0 < np.mean(found) < 1


def test_found_first_without_a_queue_is_among_the_other_images() -> None:
    keys, ids = unit(4, 6), torch.arange(4)
    assert found_first(keys, keys, ids, None) == 1
    assert found_first(keys.roll(1, 0), keys, ids, None) == 0
    assert found_first(torch.ones(4, 6), torch.ones(4, 6), ids, None) == 0  # all alike: no first
