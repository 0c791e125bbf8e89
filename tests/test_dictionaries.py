from __future__ import annotations

from collections import deque

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from moco.dictionaries import InBatch, MemoryBank, Queue
from moco.info_nce import NO_IMAGE, NO_KEY, info_nce
from moco.info_nce_paths import score

TAKEN = torch.tensor(True)


def batch(first_id: int, rows: int) -> tuple[Tensor, Tensor]:
    """Return keys that tell their image id, and the ids."""
    ids = torch.arange(first_id, first_id + rows)
    return torch.stack([ids, -ids], dim=1).float(), ids


def state(queue: torch.nn.Module) -> dict[str, Tensor]:
    return {name: value.clone() for name, value in queue.state_dict().items()}


def assert_same_state(one: dict[str, Tensor], other: dict[str, Tensor]) -> None:
    torch.testing.assert_close(one, other, rtol=0, atol=0)


@settings(deadline=None, derandomize=True, max_examples=150, database=None)
@given(st.integers(1, 12), st.lists(st.integers(1, 30), max_size=8))
def test_holds_what_a_plain_first_in_first_out_list_holds(size: int, batches: list[int]) -> None:
    queue = Queue(size, 2)
    plain = deque(
        zip(queue.keys.tolist(), queue.image_ids.tolist(), strict=True), maxlen=size
    )  # drops its oldest
    stored = 0
    for rows in batches:
        keys, image_ids = batch(stored, rows)
        queue.store(keys, image_ids, TAKEN)
        plain.extend(zip(keys.tolist(), image_ids.tolist(), strict=True))
        stored += rows
        oldest_first = [(slot + int(queue.next_slot)) % size for slot in range(size)]
        held = zip(
            queue.keys[oldest_first].tolist(), queue.image_ids[oldest_first].tolist(), strict=True
        )
        assert list(held) == list(plain)
        assert int(queue.next_slot) == stored % size


def test_wraps_in_the_middle_of_a_batch_and_drops_no_key() -> None:
    queue = Queue(5, 2)
    queue.store(*batch(0, 3), TAKEN)
    queue.store(*batch(3, 4), TAKEN)
    assert queue.image_ids.tolist() == [5, 6, 2, 3, 4]
    assert queue.keys[:, 0].tolist() == [5, 6, 2, 3, 4]
    assert int(queue.next_slot) == 2


def test_starts_full_of_unit_vectors_from_no_image() -> None:
    torch.manual_seed(0)
    queue = Queue(40, 16)
    assert queue.keys.shape == (40, 16)
    torch.testing.assert_close(queue.keys.norm(dim=1), torch.ones(40))
    assert torch.pdist(queue.keys).min() > 0.1  # no two alike
    assert queue.image_ids.tolist() == [NO_IMAGE] * 40
    assert int(queue.next_slot) == 0


def test_goes_on_identically_from_its_state_dict() -> None:
    queue, restored = Queue(7, 2), Queue(7, 2)
    queue.store(*batch(0, 5), TAKEN)
    saved = state(queue)
    assert set(saved) == {"keys", "image_ids", "next_slot"}
    restored.load_state_dict(saved)
    for each in (queue, restored):
        each.store(*batch(5, 4), TAKEN)
    assert_same_state(state(queue), state(restored))
    assert queue.image_ids.tolist() == [7, 8, 2, 3, 4, 5, 6]


@pytest.mark.parametrize("exclude_same_image", [False, True])
def test_look_up_offers_own_keys_and_the_whole_queue_and_changes_nothing(
    exclude_same_image: bool,
) -> None:
    queue = Queue(6, 2, exclude_same_image=exclude_same_image)
    queue.store(*batch(20, 4), TAKEN)
    before = state(queue)
    keys, image_ids = batch(22, 3)
    found = queue.look_up(keys, image_ids, (0, 0, 0))
    assert torch.equal(found.positives, keys)
    assert torch.equal(found.negatives, before["keys"])
    known = [20, 21, 22, 23, NO_IMAGE, NO_IMAGE]
    if exclude_same_image:
        assert found.negative_ids.tolist() == known
    else:
        assert found.negative_ids is None
    assert_same_state(state(queue), before)


@pytest.mark.parametrize("size", [4, 40])
def test_a_step_that_is_not_taken_stores_nothing(size: int) -> None:
    not_taken = torch.tensor(False)
    queue, bank = Queue(size, 2), MemoryBank(9, 2, negatives=3, bank_momentum=0.5)
    keys, image_ids = batch(0, 6)
    for dictionary in (queue, bank):
        before = state(dictionary)
        dictionary.store(keys * torch.nan, image_ids, not_taken)
        assert_same_state(state(dictionary), before)
        dictionary.store(keys, image_ids, TAKEN)
        for name, value in state(dictionary).items():
            assert not torch.equal(value, before[name])


def test_stores_values_without_gradient_in_its_own_type() -> None:
    queue = Queue(4, 2)
    keys, image_ids = batch(0, 3)
    keys = keys.double().requires_grad_()
    queue.store(keys, image_ids, TAKEN)
    with torch.no_grad():
        keys.zero_()  # the queue holds its own copy
    assert queue.keys.dtype == torch.float32
    assert not queue.keys.requires_grad
    assert queue.keys[:3, 1].tolist() == [0, -1, -2]


def test_bfloat16_keys_are_the_rounded_ones_in_half_the_memory() -> None:
    torch.manual_seed(0)
    wide = Queue(40, 16)
    torch.manual_seed(0)
    queue = Queue(40, 16, key_precision=torch.bfloat16)
    assert queue.keys.nbytes * 2 == wide.keys.nbytes
    keys, ids = F.normalize(torch.randn(7, 16), dim=1), torch.arange(7)
    for each in (queue, wide):
        each.store(keys, ids, TAKEN)
    assert torch.equal(queue.keys, wide.keys.bfloat16())  # the random rows of the start too
    assert not torch.equal(queue.keys.float(), wide.keys)
    assert torch.equal(queue.image_ids, wide.image_ids)
    found = queue.look_up(keys, ids, (0, 0, 0))
    assert torch.equal(found.positives, keys)  # the batch's own are not rounded
    assert found.negatives.data_ptr() == queue.keys.data_ptr()  # nor is a copy made


def test_a_step_against_bfloat16_keys_is_the_definition_on_the_rounded_keys() -> None:
    torch.manual_seed(0)
    queue = Queue(600, 16, key_precision=torch.bfloat16, exclude_same_image=True)
    queue.store(F.normalize(torch.randn(300, 16), dim=1), torch.arange(300), TAKEN)
    queries, keys = F.normalize(torch.randn(2, 8, 16), dim=2)
    ids = torch.arange(295, 303)
    queries.requires_grad_()
    found = queue.look_up(keys, ids, (0, 0, 0))
    loss, _ = score(queries, *found[:2], 0.1, query_ids=ids, negative_ids=found.negative_ids)
    loss.backward()
    exact = queries.detach().double().requires_grad_()
    rounded = queue.keys.double()
    wanted = info_nce(
        exact, keys.double(), rounded, 0.1, query_ids=ids, negative_ids=queue.image_ids
    )
    wanted.backward()
    assert abs(loss.item() - wanted.item()) < 1e-5
    torch.testing.assert_close(queries.grad.double(), exact.grad, rtol=0, atol=1e-6)


def test_refuses_to_hold_no_key() -> None:
    with pytest.raises(ValueError, match="queue size must be at least 1, got 0"):
        Queue(0, 2)


def test_only_filled_slots_count_when_asked() -> None:
    torch.manual_seed(0)
    queue = Queue(6, 4, filled_only=True)
    keys = torch.nn.functional.normalize(torch.randn(4, 4), dim=1)
    queue.store(keys, torch.arange(4), TAKEN)
    queries, ids = keys.flip(0), torch.tensor([10, 11, 12, 13])
    found = queue.look_up(queries, ids, (0, 0, 0))
    assert found.negative_ids.tolist() == [NO_IMAGE] * 4 + [NO_KEY] * 2
    loss = info_nce(
        queries, found.positives, found.negatives, 0.2, query_ids=ids, negative_ids=found[2]
    )
    of_four = info_nce(
        queries, queries, keys, 0.2, query_ids=ids, negative_ids=torch.full((4,), NO_IMAGE)
    )
    torch.testing.assert_close(loss, of_four)
    queue.store(keys, torch.arange(4, 8), TAKEN)  # wraps: now all hold keys
    assert NO_KEY not in queue.look_up(queries, ids, (0, 0, 0)).negative_ids
    assert queue.image_ids.tolist() == [6, 7, 2, 3, 4, 5]


def test_filled_only_goes_with_exclusion() -> None:
    queue = Queue(5, 2, filled_only=True, exclude_same_image=True)
    queue.store(*batch(20, 3), TAKEN)
    found = queue.look_up(*batch(22, 3), (0, 0, 0))
    assert found.negative_ids.tolist() == [20, 21, 22, NO_KEY, NO_KEY]


def test_an_empty_queue_without_its_random_rows_gives_no_negatives() -> None:
    queue = Queue(5, 2, filled_only=True)
    keys, ids = torch.eye(2), torch.arange(2)
    found = queue.look_up(keys, ids, (0, 0, 0))
    loss = info_nce(keys, *found[:2], 0.2, query_ids=ids, negative_ids=found.negative_ids)
    assert loss.item() == 0.0


def test_the_batch_is_its_own_dictionary_and_forgets_at_once() -> None:
    dictionary = InBatch()
    keys, image_ids = batch(4, 3)
    keys.requires_grad_()
    found = dictionary.look_up(keys, image_ids, (0, 0, 0))
    assert found.positives is keys
    assert torch.equal(found.negatives, keys)
    assert found.negatives.requires_grad
    assert found.negative_ids.tolist() == [4, 5, 6]
    dictionary.store(keys, image_ids, TAKEN)
    assert not dictionary.state_dict()


def test_a_query_in_the_batch_has_every_key_but_its_own_as_a_negative() -> None:
    keys = torch.nn.functional.normalize(torch.randn(6, 4, dtype=torch.float64), dim=1)
    queries, image_ids = keys.flip(0), torch.arange(6)
    found = InBatch().look_up(keys, image_ids, (0, 0, 0))
    loss = info_nce(queries, *found[:2], 0.5, query_ids=image_ids, negative_ids=found.negative_ids)
    expected = torch.nn.functional.cross_entropy(queries @ keys.T / 0.5, image_ids)
    torch.testing.assert_close(loss, expected)


def test_bank_starts_with_a_unit_vector_for_each_image() -> None:
    torch.manual_seed(0)
    bank = MemoryBank(40, 16, negatives=3, bank_momentum=0.5)
    assert bank.vectors.shape == (40, 16)
    torch.testing.assert_close(bank.vectors.norm(dim=1), torch.ones(40))
    assert torch.pdist(bank.vectors).min() > 0.1  # no two alike
    assert set(bank.state_dict()) == {"vectors"}


def test_bank_offers_the_images_own_vectors_and_drawn_ones_and_changes_nothing() -> None:
    bank = MemoryBank(9, 2, negatives=500, bank_momentum=0.5)
    before = state(bank)
    keys, image_ids = batch(2, 3)
    found = bank.look_up(keys, image_ids, (1, 2, 3))
    assert torch.equal(found.positives, bank.vectors[2:5])
    assert found.negatives.shape == (500, 2)
    assert torch.equal(found.negatives, bank.vectors[found.negative_ids])
    counts = found.negative_ids.bincount(minlength=9)
    assert len(counts) == 9
    assert counts.min() > 25  # each about 56 times, the query's own image too: info_nce skips it
    assert_same_state(state(bank), before)


def test_the_draw_is_decided_by_its_seed_alone() -> None:
    bank = MemoryBank(50, 2, negatives=20, bank_momentum=0.5)
    keys, image_ids = batch(0, 3)
    seeds = [(seed, step, term) for seed in (0, 1) for step in (0, 1) for term in (0, 1)]
    draws = []
    for seed in seeds:
        torch.rand(1)
        draws.append(bank.look_up(keys, image_ids, seed).negative_ids.tolist())
        assert draws[-1] == np.random.default_rng(seed).integers(50, size=20).tolist()
    assert len({tuple(draw) for draw in draws}) == len(seeds)


def test_bank_keeps_its_share_of_the_old_vector() -> None:
    bank = MemoryBank(4, 2, negatives=1, bank_momentum=0.3)
    bank.vectors.copy_(torch.tensor([[1.0, 0], [0, 1], [1, 0], [0, 1]]))
    keys = torch.tensor([[0.0, 1], [1, 0]], requires_grad=True)
    bank.store(keys.double(), torch.tensor([2, 1]), TAKEN)
    length = (0.3**2 + 0.7**2) ** 0.5
    expected = [[1, 0], [0.7 / length, 0.3 / length], [0.3 / length, 0.7 / length], [0, 1]]
    torch.testing.assert_close(bank.vectors, torch.tensor(expected))
    assert bank.vectors.dtype == torch.float32
    assert not bank.vectors.requires_grad


@pytest.mark.parametrize(("images", "negatives"), [(0, 1), (1, 0)])
def test_refuses_a_bank_of_nothing(images: int, negatives: int) -> None:
    with pytest.raises(ValueError, match=f"got {images} and {negatives}"):
        MemoryBank(images, 2, negatives=negatives, bank_momentum=0.5)


@pytest.mark.parametrize("bank_momentum", [-0.1, 1.0])
def test_refuses_a_bank_that_would_not_move(bank_momentum: float) -> None:
    with pytest.raises(ValueError, match="bank_momentum"):
        MemoryBank(3, 2, negatives=1, bank_momentum=bank_momentum)
