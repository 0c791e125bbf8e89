"""A few fixed images, encoded again and again as training encodes them: what signals are read of.

Letters: P images, C embedding size. Nothing of the run is changed by it: no weight, no statistic,
no random state.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from moco.batch_norm import GroupedBatchNorm, has_batch_norm
from moco.contrast import Contrast
from moco.dictionaries import Queue
from moco.info_nce import NO_IMAGE
from moco.nonfinite import KeptBuffers

MOST_IMAGES, FEWEST_IMAGES = 64, 32
"""A quarter of the batch between these: reading costs about a fifth of a step, whatever its size.
"""
FEWEST_IN_BATCH = 4
FEWEST_GROUPS = 2
"""Batch-norm groups that the probe is encoded in, where the batch allows it."""


class Encoded(NamedTuple):
    """The probe as the networks encode it now, in training mode; rows have unit length."""

    embeddings: Tensor
    """[P, C] of view a, by the encoder."""
    queries: Tensor
    """[P, C], what keys are compared with: the embeddings, or the predictor's answer to them."""
    keys: Tensor
    """[P, C] of view b, in the batch-norm groups of their queries."""
    shuffled_keys: Tensor | None
    """[P, C], the same keys with other images in their groups; None without batch norm."""


class Probe:
    """Two views of P images, and how they are encoded.

    Args:
        view_a: [N, channels, S, S] of this process's batch, the first P of which are kept.
        view_b: the same images.
        image_ids: [N].
        group_images: how many images a batch-norm group of the run holds.

    Raises:
        ValueError: The batch has fewer than `FEWEST_IN_BATCH` images.
    """

    def __init__(
        self, view_a: Tensor, view_b: Tensor, image_ids: Tensor, *, group_images: int
    ) -> None:
        total = len(image_ids)
        if total < FEWEST_IN_BATCH:
            raise ValueError(f"a probe needs {FEWEST_IN_BATCH} images, got {total}")
        wanted = min(total, max(FEWEST_IMAGES, min(MOST_IMAGES, total // 4)))
        self.group_images = max(2, min(group_images, wanted // FEWEST_GROUPS))
        count = wanted // self.group_images * self.group_images
        self.view_a, self.view_b = view_a[:count].clone(), view_b[:count].clone()
        self.image_ids = image_ids[:count].clone()
        self.size_of_views = view_a.shape[-1]
        self.view_difference = view_difference(self.view_a, self.view_b)

    @torch.no_grad()
    def encode(self, contrast: Contrast, buffers: KeptBuffers) -> Encoded:
        """Encode both views as a step would.

        Args:
            buffers: of the contrast; what moves is put back.
        """
        before = buffers.copies()
        try:
            with small_groups(contrast), untouched_random_state(self.view_a.device):
                embeddings = self._in_groups(contrast.encoder, self.view_a)
                queries = F.normalize(contrast.predictor(embeddings), dim=1)
                keys = F.normalize(self._in_groups(key_network(contrast), self.view_b), dim=1)
                shuffled = self._shuffled_keys(contrast)
        finally:
            buffers.put(before)
        return Encoded(F.normalize(embeddings, dim=1), queries, keys, shuffled)

    @torch.no_grad()
    def encode_keys(self, contrast: Contrast, buffers: KeptBuffers) -> Tensor:
        """Return the keys [P, C] alone."""
        before = buffers.copies()
        try:
            with small_groups(contrast), untouched_random_state(self.view_a.device):
                return F.normalize(self._in_groups(key_network(contrast), self.view_b), dim=1)
        finally:
            buffers.put(before)

    def _shuffled_keys(self, contrast: Contrast) -> Tensor | None:
        """Deal the images of each group over all groups, encode, and put keys where they belong."""
        network = key_network(contrast)
        if not has_batch_norm(network):
            return None
        order = self.dealt_order().to(self.view_b.device)
        keys = self._in_groups(network, self.view_b[order])
        return F.normalize(keys[order.argsort()], dim=1)

    def dealt_order(self) -> Tensor:
        """Return [P]: the images dealt like cards, so that a group gets some of every group's."""
        return torch.arange(len(self.image_ids)).view(-1, self.group_images).T.reshape(-1)

    def _in_groups(self, network: nn.Module, view: Tensor) -> Tensor:
        count = len(view) // self.group_images if has_batch_norm(network) else 1
        parts = view.chunk(count)
        return torch.cat([network(part) for part in parts])

    def same_group(self) -> Tensor:
        """Return [P, P]: whether a query and a key lie in one batch-norm group as they are."""
        group = torch.arange(len(self.image_ids)) // self.group_images
        return group[:, None] == group


def key_network(contrast: Contrast) -> nn.Module:
    """Return what encodes keys: the key encoder, or the encoder where there is none."""
    follows = contrast.keys_from == "momentum_encoder"
    return contrast.key_encoder if follows else contrast.encoder


def found_first(queries: Tensor, keys: Tensor, image_ids: Tensor, dictionary: object) -> float:
    """Return how often a query [P, C] finds its own key first, 0 to 1.

    Among the real keys of other images in a queue; where there is no queue, or none is filled yet,
    among the keys [P, C] of the other images.
    """
    others, other_ids = keys, image_ids
    if isinstance(dictionary, Queue):
        real = dictionary.image_ids > NO_IMAGE
        if bool(real.any()):
            others, other_ids = dictionary.keys[real].to(queries.dtype), dictionary.image_ids[real]
    to_own = (queries * keys).sum(dim=1)
    to_others = queries @ others.T
    to_others = to_others.masked_fill(image_ids[:, None] == other_ids, -torch.inf)
    return float((to_own > to_others.amax(dim=1)).double().mean())


def view_difference(view_a: Tensor, view_b: Tensor) -> float:
    """Return how far the two views of an image differ, 0 (alike) to 1 (as two images' views).

    The mean square of their difference, over its mean for views of different images.
    """
    rows_a, rows_b = (view.flatten(1).double() for view in (view_a.cpu(), view_b.cpu()))
    own = (rows_a - rows_b).square().sum(dim=1)
    squares = rows_a.square().sum(dim=1)[:, None] + rows_b.square().sum(dim=1)
    apart = squares - 2 * rows_a @ rows_b.T
    count = len(rows_a)
    others = (apart.sum() - own.sum()) / max(1, count * (count - 1))
    return float(own.mean() / others) if others > 0 else 0.0


@contextmanager
def small_groups(contrast: Contrast) -> Iterator[None]:
    """Let a batch norm in groups take its input as one group: the probe hands it one at a time."""
    norms = [part for part in contrast.modules() if isinstance(part, GroupedBatchNorm)]
    groups = [norm.groups for norm in norms]
    try:
        for norm in norms:
            norm.groups = 1
        yield
    finally:
        for norm, count in zip(norms, groups, strict=True):
            norm.groups = count


@contextmanager
def untouched_random_state(device: torch.device) -> Iterator[None]:
    """Put the random state back that dropout, or tokens that are left out, draw from."""
    devices = [device] if device.type == "cuda" else []
    with torch.random.fork_rng(devices=devices):
        yield
