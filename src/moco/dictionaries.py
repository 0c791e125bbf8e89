"""Where keys are kept: the dictionary that queries are compared with (MoCo v1, section 3.2).

Letters: N rows of this process's batch, M negatives, K queue size, C embedding size.
"""

from __future__ import annotations

from typing import NamedTuple, Protocol

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from moco.distributed import gather_rows

NO_IMAGE = -1
"""The id of a row that came from no image: a negative for every query."""


class Found(NamedTuple):
    """What a dictionary offers to a batch of queries."""

    positives: Tensor
    """[N, C], row i is the key of query i's image."""
    negatives: Tensor
    """[M, C]"""
    negative_ids: Tensor
    """[M] image ids, `NO_IMAGE` for rows that every query may count."""


class Dictionary(Protocol):
    """What `Contrast` asks of a dictionary."""

    def look_up(self, keys: Tensor, image_ids: Tensor) -> Found:
        """Return what the batch is compared with; changes nothing."""
        ...

    def store(self, keys: Tensor, image_ids: Tensor) -> None:
        """Take in the batch's keys [N, C] and their image ids [N], after the optimizer's step."""
        ...


class Queue(nn.Module):
    """The newest `size` keys of all processes: first in, first out, a true ring.

    Any size goes with any batch: slots wrap, no key is dropped. It starts full of random unit
    vectors that belong to no image. Keys, image ids and the next slot are buffers, so they are in
    the state dict.

    Args:
        size: K, how many keys it holds.
        dim: C.
        exclude_same_image: leave older keys of the query's own image out of its negatives. The
            papers' code counts them; with a queue not much smaller than the data set they matter.
    """

    keys: Tensor
    image_ids: Tensor
    next_slot: Tensor

    def __init__(self, size: int, dim: int, *, exclude_same_image: bool = False) -> None:
        super().__init__()
        if size < 1:
            raise ValueError(f"queue size must be at least 1, got {size}")
        self.exclude_same_image = exclude_same_image
        self.register_buffer("keys", F.normalize(torch.randn(size, dim), dim=1))
        self.register_buffer("image_ids", torch.full((size,), NO_IMAGE))
        self.register_buffer("next_slot", torch.zeros((), dtype=torch.long))

    def look_up(self, keys: Tensor, image_ids: Tensor) -> Found:
        """Return the batch's own keys as positives and the whole queue as negatives."""
        if self.exclude_same_image:
            return Found(keys, self.keys, self.image_ids)
        return Found(keys, self.keys, torch.full_like(self.image_ids, NO_IMAGE))

    @torch.no_grad()
    def store(self, keys: Tensor, image_ids: Tensor) -> None:
        """Put the keys of all processes over the oldest ones, in rank order."""
        keys, image_ids = gather_rows(keys.detach()), gather_rows(image_ids)
        size = len(self.keys)
        slots = (self.next_slot + torch.arange(len(keys), device=keys.device)) % size
        newest = slice(-size, None)  # a batch larger than the queue leaves only its newest keys
        self.keys[slots[newest]] = keys[newest].to(self.keys.dtype)
        self.image_ids[slots[newest]] = image_ids[newest]
        self.next_slot.copy_((self.next_slot + len(keys)) % size)
