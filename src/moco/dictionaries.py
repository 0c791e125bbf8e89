"""Where keys are kept: the dictionary that queries are compared with (MoCo v1, section 3).

`Queue` is MoCo's. `InBatch` and `MemoryBank` are the rival mechanisms' (section 3.2, Fig. 2);
MoCo v3 went back to the batch. Letters: N rows of this process's batch, B of all processes, M
negatives, K queue size, C embedding size.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple, Protocol

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from moco.distributed import gather_rows
from moco.info_nce import NO_IMAGE, NO_KEY


class Found(NamedTuple):
    """What a dictionary offers to a batch of queries."""

    positives: Tensor
    """[N, C], row i is the key of query i's image."""
    negatives: Tensor
    """[M, C]"""
    negative_ids: Tensor | None
    """[M] image ids; `NO_IMAGE` for rows that every query counts, `NO_KEY` for none. None: every
    query counts them all."""


class Dictionary(Protocol):
    """What `Contrast` asks of a dictionary."""

    def look_up(self, keys: Tensor, image_ids: Tensor, seed: Sequence[int]) -> Found:
        """Return what the batch is compared with; changes nothing.

        Args:
            keys: [N, C], the keys of this batch.
            image_ids: [N].
            seed: decides what is drawn, where something is: the same in all processes.
        """
        ...

    def store(self, keys: Tensor, image_ids: Tensor, taken: Tensor) -> None:
        """Take in the batch's keys [N, C] and their image ids [N], after the optimizer's step.

        Args:
            taken: boolean scalar on the device; where it does not hold, nothing changes.
        """
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
        filled_only: leave the random vectors of the start out; the papers' code counts them.
        key_precision: the type that keys are kept in, torch.bfloat16 in half the memory of float32.
    """

    keys: Tensor
    image_ids: Tensor
    next_slot: Tensor

    def __init__(
        self,
        size: int,
        dim: int,
        *,
        exclude_same_image: bool = False,
        filled_only: bool = False,
        key_precision: torch.dtype = torch.float32,
    ) -> None:
        super().__init__()
        if size < 1:
            raise ValueError(f"queue size must be at least 1, got {size}")
        self.exclude_same_image, self.filled_only = exclude_same_image, filled_only
        keys = F.normalize(torch.randn(size, dim), dim=1)
        self.register_buffer("keys", keys.to(key_precision))
        self.register_buffer("image_ids", torch.full((size,), NO_KEY if filled_only else NO_IMAGE))
        self.register_buffer("next_slot", torch.zeros((), dtype=torch.long))

    def look_up(self, keys: Tensor, image_ids: Tensor, seed: Sequence[int]) -> Found:
        """Return the batch's own keys as positives and the whole queue as negatives."""
        if self.exclude_same_image:
            return Found(keys, self.keys, self.image_ids)
        ids = self.image_ids.clamp(max=NO_IMAGE) if self.filled_only else None
        return Found(keys, self.keys, ids)

    @torch.no_grad()
    def store(self, keys: Tensor, image_ids: Tensor, taken: Tensor) -> None:
        """Put the keys of all processes over the oldest ones, in rank order."""
        keys, image_ids = gather_rows(keys.detach()), gather_rows(image_ids)
        size = len(self.keys)
        slots = (self.next_slot + torch.arange(len(keys), device=keys.device)) % size
        slots, newest = slots[-size:], slice(-size, None)  # of a larger batch the newest alone
        new_keys = keys[newest].to(self.keys.dtype)
        self.keys[slots] = torch.where(taken, new_keys, self.keys[slots])
        self.image_ids[slots] = torch.where(taken, image_ids[newest], self.image_ids[slots])
        self.next_slot.copy_((self.next_slot + taken * len(keys)) % size)


class InBatch(nn.Module):
    """The keys of the current batch, of all processes, and nothing else: end-to-end, and MoCo v3.

    A query's negatives are the other images' keys, B - 1 of them. Gradients reach the keys where
    they carry any, in whichever process they were made.
    """

    def look_up(self, keys: Tensor, image_ids: Tensor, seed: Sequence[int]) -> Found:
        """Return the batch's own keys as positives and those of all processes as negatives."""
        return Found(keys, gather_rows(keys), gather_rows(image_ids))

    def store(self, keys: Tensor, image_ids: Tensor, taken: Tensor) -> None:
        """Keep nothing."""


class MemoryBank(nn.Module):
    """One vector for each image of the data set (Wu et al., arXiv:1805.01978): the paper's rival.

    The positive is the image's own stored vector, which an older encoder left there; the negatives
    are drawn from the others, one draw for the batch. It starts as random unit vectors. In the
    state dict.

    Args:
        images: how many there are; image ids are 0 to images - 1.
        dim: C.
        negatives: K, how many vectors are drawn, with replacement.
        bank_momentum: share of the OLD vector that is kept when its image was seen again, from 0
            to below 1.
    """

    vectors: Tensor

    def __init__(self, images: int, dim: int, *, negatives: int, bank_momentum: float) -> None:
        super().__init__()
        if images < 1 or negatives < 1:
            raise ValueError(f"need images and negatives from 1, got {images} and {negatives}")
        if not 0 <= bank_momentum < 1:
            raise ValueError(f"bank_momentum must be from 0 to below 1, got {bank_momentum}")
        self.negatives, self.bank_momentum = negatives, bank_momentum
        self.register_buffer("vectors", F.normalize(torch.randn(images, dim), dim=1))

    def look_up(self, keys: Tensor, image_ids: Tensor, seed: Sequence[int]) -> Found:
        """Return each image's stored vector, and the vectors of images drawn by `seed`."""
        draw = np.random.default_rng(tuple(seed)).integers(len(self.vectors), size=self.negatives)
        drawn = torch.from_numpy(draw).to(image_ids.device)
        return Found(self.vectors[image_ids], self.vectors[drawn], drawn)

    @torch.no_grad()
    def store(self, keys: Tensor, image_ids: Tensor, taken: Tensor) -> None:
        """Move the images' vectors towards the keys of all processes, unit length again."""
        keys, image_ids = gather_rows(keys.detach()), gather_rows(image_ids)
        before = self.vectors[image_ids]
        moved = torch.lerp(keys.to(before.dtype), before, self.bank_momentum)
        self.vectors[image_ids] = torch.where(taken, F.normalize(moved, dim=1), before)
