from __future__ import annotations

from collections import deque

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from moco.dictionaries import Queue
from moco.info_nce import NO_IMAGE


def batch(first_id: int, rows: int) -> tuple[Tensor, Tensor]:
    """Return keys that tell their image id, and the ids."""
    ids = torch.arange(first_id, first_id + rows)
    return torch.stack([ids, -ids], dim=1).float(), ids


def state(queue: Queue) -> dict[str, Tensor]:
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
        queue.store(keys, image_ids)
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
    queue.store(*batch(0, 3))
    queue.store(*batch(3, 4))
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
    queue.store(*batch(0, 5))
    saved = state(queue)
    assert set(saved) == {"keys", "image_ids", "next_slot"}
    restored.load_state_dict(saved)
    for each in (queue, restored):
        each.store(*batch(5, 4))
    assert_same_state(state(queue), state(restored))
    assert queue.image_ids.tolist() == [7, 8, 2, 3, 4, 5, 6]


@pytest.mark.parametrize("exclude_same_image", [False, True])
def test_look_up_offers_own_keys_and_the_whole_queue_and_changes_nothing(
    exclude_same_image: bool,
) -> None:
    queue = Queue(6, 2, exclude_same_image=exclude_same_image)
    queue.store(*batch(20, 4))
    before = state(queue)
    keys, image_ids = batch(22, 3)
    found = queue.look_up(keys, image_ids, (0, 0, 0))
    assert torch.equal(found.positives, keys)
    assert torch.equal(found.negatives, before["keys"])
    known = [20, 21, 22, 23, NO_IMAGE, NO_IMAGE]
    assert found.negative_ids.tolist() == (known if exclude_same_image else [NO_IMAGE] * 6)
    assert_same_state(state(queue), before)


def test_stores_values_without_gradient_in_its_own_type() -> None:
    queue = Queue(4, 2)
    keys, image_ids = batch(0, 3)
    keys = keys.double().requires_grad_()
    queue.store(keys, image_ids)
    with torch.no_grad():
        keys.zero_()  # the queue holds its own copy
    assert queue.keys.dtype == torch.float32
    assert not queue.keys.requires_grad
    assert queue.keys[:3, 1].tolist() == [0, -1, -2]


def test_refuses_to_hold_no_key() -> None:
    with pytest.raises(ValueError, match="queue size must be at least 1, got 0"):
        Queue(0, 2)
