"""Momentum Contrast, the paper on a page. Start reading here.

MoCo v1: arXiv:1911.05722, Algorithm 1, Eq. 1 and Eq. 2; v2 (arXiv:2003.04297) is the same step with
another head, temperature and views. Letters: N images of this process's batch, C embedding size.

    queries = encoder(view_a)                      with gradient
    keys    = key_encoder(view_b)                  without, beside other images (shuffled)
    loss    = info_nce(queries, keys, queue)       then backward and the optimizer's step, outside
    advance:  key_encoder <- m * key_encoder + (1 - m) * encoder;  queue <- keys

The official code moves the key encoder at the start of the next forward; moving it after the
optimizer's step gives the same sequence of values, and leaves `forward` free of effects on keys.
"""

from __future__ import annotations

import copy
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from moco.dictionaries import Dictionary
from moco.distributed import deal_rows, shuffled_order, world_size
from moco.info_nce import PretextScores, info_nce, pretext_scores


class Contrasted(NamedTuple):
    """What one forward pass gives: N rows, or 2N when the loss is symmetric."""

    loss: Tensor
    """Scalar, carries the gradient to the encoder."""
    keys: Tensor
    """[N or 2N, C] unit length, without gradient: hand them to `advance`."""
    queries: Tensor
    """[N or 2N, C] unit length, detached: row i was matched with key i."""


class Contrast(nn.Module):
    """Trains `encoder` to tell each image's key from the keys of other images.

    Args:
        encoder: f_q, from a view [N, 3, H, W] to an embedding [N, C].
        dictionary: holds the keys that queries are compared with; an `nn.Module` when it has state.
        temperature: tau of Eq. 1.
        symmetric: contrast each view with the keys of the other and add the two losses.
        shuffle_keys: permute the key batch, so that batch norm in groups (or processes) leaks
            nothing (section 3.3). It changes nothing where one group holds the whole batch.
        shuffle_seed: with the step, decides the permutation, alike in all processes.
    """

    def __init__(
        self,
        encoder: nn.Module,
        dictionary: Dictionary,
        *,
        temperature: float,
        symmetric: bool = False,
        shuffle_keys: bool = True,
        shuffle_seed: int = 0,
    ) -> None:
        super().__init__()
        self.encoder, self.dictionary = encoder, dictionary
        self.key_encoder = copy.deepcopy(encoder).requires_grad_(
            False
        )  # starts as a copy, head too
        self.temperature, self.symmetric = temperature, symmetric
        self.shuffle_keys, self.shuffle_seed = shuffle_keys, shuffle_seed

    def forward(self, view_a: Tensor, view_b: Tensor, image_ids: Tensor, step: int) -> Contrasted:
        """Return the loss and the new keys for two views [N, 3, H, W] of images with ids [N].

        Changes no weight and no stored key: see `advance`. Batch norm's running statistics move in
        both encoders, as in any training forward.
        """
        a_to_b = self.match(view_a, view_b, image_ids, (self.shuffle_seed, step, 0))
        if not self.symmetric:
            return a_to_b
        b_to_a = self.match(view_b, view_a, image_ids, (self.shuffle_seed, step, 1))
        return Contrasted(
            b_to_a.loss + a_to_b.loss,
            torch.cat([b_to_a.keys, a_to_b.keys]),  # keys of view a, then of view b
            torch.cat([b_to_a.queries, a_to_b.queries]),
        )

    def match(
        self, query_view: Tensor, key_view: Tensor, image_ids: Tensor, shuffle: tuple[int, int, int]
    ) -> Contrasted:
        """Tell each query's own key from the dictionary's keys of other images (Eq. 1)."""
        queries = F.normalize(self.encoder(query_view), dim=1)
        keys = self.encode_keys(key_view, shuffle)
        found = self.dictionary.look_up(keys, image_ids)
        loss = info_nce(
            queries,
            found.positives,
            found.negatives,
            self.temperature,
            query_ids=image_ids,
            negative_ids=found.negative_ids,
        )
        return Contrasted(loss, keys, queries.detach())

    @torch.no_grad()
    def encode_keys(self, view: Tensor, shuffle: tuple[int, int, int]) -> Tensor:
        """Encode a view to unit keys [N, C], beside other images than the query (section 3.3)."""
        if not self.shuffle_keys:
            return F.normalize(self.key_encoder(view), dim=1)
        order = shuffled_order(len(view) * world_size(), shuffle)
        keys = self.key_encoder(deal_rows(view, order))
        return F.normalize(deal_rows(keys, order.argsort()), dim=1)

    def scores(self, contrasted: Contrasted, image_ids: Tensor) -> PretextScores:
        """Return how well the queries found their keys; call it before `advance` stores them."""
        queries, keys = contrasted.queries, contrasted.keys
        query_ids = image_ids.repeat(len(queries) // len(image_ids))
        found = self.dictionary.look_up(keys, query_ids)
        return pretext_scores(
            queries,
            found.positives,
            found.negatives,
            query_ids=query_ids,
            negative_ids=found.negative_ids,
        )

    @torch.no_grad()
    def advance(self, keys: Tensor, image_ids: Tensor, key_momentum: float) -> None:
        """After the optimizer's step: key weights follow the query's (Eq. 2), keys are stored.

        Only parameters are averaged; the key encoder keeps its own batch-norm statistics.

        Args:
            keys: as `forward` returned them.
            image_ids: [N], as given to `forward`.
            key_momentum: m, the share of the old key weights that is kept, 0 to 1.
        """
        pairs = zip(self.key_encoder.parameters(), self.encoder.parameters(), strict=True)
        for key_weight, query_weight in pairs:
            key_weight.lerp_(query_weight, 1.0 - key_momentum)
        for keys_of_one_view in keys.chunk(len(keys) // len(image_ids)):
            self.dictionary.store(keys_of_one_view, image_ids)
