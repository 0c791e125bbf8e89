"""Momentum Contrast, the paper on a page. Start reading here.

MoCo v1: arXiv:1911.05722, Algorithm 1, Eq. 1 and Eq. 2; v2 (arXiv:2003.04297) is the same step with
another head, temperature and views; v3 (arXiv:2104.02057) is symmetric, with a predictor and the
batch as its dictionary. Letters: N images of this process's batch, C embedding size.

    queries = encoder(view_a)                      with gradient
    keys    = key_encoder(view_b)                  without, beside other images (shuffled)
    loss    = info_nce(queries, keys, queue)       then backward and the optimizer's step, outside
    advance:  key_encoder <- m * key_encoder + (1 - m) * encoder;  queue <- keys

A method is two choices: where keys come from, and which dictionary they are compared in.

                     keys_from          dictionary
    MoCo v1, v2      momentum_encoder   Queue
    MoCo v3          momentum_encoder   InBatch
    end-to-end       query_encoder      InBatch
    memory bank      query_itself       MemoryBank

The official code moves the key encoder at the start of the next forward; moving it after the
optimizer's step gives the same sequence of values, and leaves `forward` free of effects on keys.
"""

from __future__ import annotations

import copy
from typing import Literal, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from moco.dictionaries import Dictionary
from moco.distributed import deal_rows, shuffled_order, world_size
from moco.info_nce import PretextScores
from moco.info_nce_paths import score

KeySource = Literal["momentum_encoder", "query_encoder", "query_itself"]
Seed = tuple[int, int, int]
"""Of the run, the step, the term: decides what a term permutes and draws."""


class Contrasted(NamedTuple):
    """What one forward pass gives."""

    loss: Tensor
    """Scalar, carries the gradient to the encoder."""
    keys: Tensor
    """[N, C], or [2N, C] when the loss is symmetric; unit length: hand them to `advance`."""
    scores: PretextScores
    """How well the queries found their keys, without gradient."""


class Contrast(nn.Module):
    """Trains `encoder` to tell each image's key from the keys of other images.

    Args:
        encoder: f_q, from a view [N, channels, H, W] to an embedding [N, C].
        dictionary: holds the keys that queries are compared with; an `nn.Module` when it has state.
        keys_from: momentum_encoder: a slow copy of the encoder; query_encoder: the encoder itself,
            with gradient; query_itself: the query, which a memory bank stores.
        temperature: tau of Eq. 1; a schedule may set the attribute before each step.
        predictor: follows the encoder for queries alone (v3), [N, C] -> [N, C].
        symmetric: contrast each view with the keys of the other and add the two losses.
        shuffle_keys: permute the key batch, so that batch norm in groups (or processes) leaks
            nothing (section 3.3). It changes nothing where one group holds the whole batch.
        seed: with the step, decides permutations and draws, alike in all processes.
    """

    def __init__(
        self,
        encoder: nn.Module,
        dictionary: Dictionary,
        *,
        keys_from: KeySource = "momentum_encoder",
        temperature: float,
        predictor: nn.Module | None = None,
        symmetric: bool = False,
        shuffle_keys: bool = True,
        seed: int = 0,
    ) -> None:
        super().__init__()
        self.encoder, self.dictionary, self.keys_from = encoder, dictionary, keys_from
        if keys_from == "momentum_encoder":  # starts as a copy, head too; it has no predictor
            self.key_encoder = copy.deepcopy(encoder).requires_grad_(False)
        self.predictor = predictor or nn.Identity()
        self.temperature, self.symmetric = temperature, symmetric
        self.shuffle_keys, self.seed = shuffle_keys, seed

    def forward(self, view_a: Tensor, view_b: Tensor, image_ids: Tensor, step: int) -> Contrasted:
        """Return the loss and the new keys for two views [N, channels, H, W] of N images.

        Changes no weight and no stored key: see `advance`. Batch norm's running statistics move in
        both encoders, as in any training forward.
        """
        a_to_b = self.match(view_a, view_b, image_ids, (self.seed, step, 0))
        if not self.symmetric:
            return a_to_b
        b_to_a = self.match(view_b, view_a, image_ids, (self.seed, step, 1))
        return Contrasted(
            b_to_a.loss + a_to_b.loss,
            torch.cat([b_to_a.keys, a_to_b.keys]),  # a queue gets those of view a first
            PretextScores(
                *((a + b) / 2 for a, b in zip(a_to_b.scores, b_to_a.scores, strict=True))
            ),
        )

    def match(
        self, query_view: Tensor, key_view: Tensor, image_ids: Tensor, seed: Seed
    ) -> Contrasted:
        """Tell each query's own key from the dictionary's keys of other images (Eq. 1)."""
        queries = F.normalize(self.predictor(self.encoder(query_view)), dim=1)
        keys = self.encode_keys(key_view, queries, seed)
        positives, negatives, negative_ids = self.dictionary.look_up(keys, image_ids, seed)
        loss, scores = score(
            queries,
            positives,
            negatives,
            self.temperature,
            query_ids=image_ids,
            negative_ids=negative_ids,
        )
        return Contrasted(loss, keys, scores)

    def encode_keys(self, view: Tensor, queries: Tensor, seed: Seed) -> Tensor:
        """Return unit keys [N, C] for a view, from where this method takes them."""
        match self.keys_from:
            case "momentum_encoder":
                with torch.no_grad():
                    return self.encode_shuffled(self.key_encoder, view, seed)
            case "query_encoder":  # gradients reach the keys too
                return self.encode_shuffled(self.encoder, view, seed)
            case "query_itself":
                return queries.detach()

    def encode_shuffled(self, encoder: nn.Module, view: Tensor, seed: Seed) -> Tensor:
        """Encode a view beside other images than the query, so batch norm leaks nothing (3.3)."""
        if not self.shuffle_keys:
            return F.normalize(encoder(view), dim=1)
        order = shuffled_order(len(view) * world_size(), seed)
        keys = encoder(deal_rows(view, order))
        return F.normalize(deal_rows(keys, order.argsort()), dim=1)

    @torch.no_grad()
    def advance(
        self, keys: Tensor, image_ids: Tensor, key_momentum: float, taken: Tensor | None = None
    ) -> None:
        """After the optimizer's step: key weights follow the query's (Eq. 2), keys are stored.

        Only parameters are averaged; the key encoder keeps its own batch-norm statistics.

        Args:
            keys: as `forward` returned them.
            image_ids: [N], as given to `forward`.
            key_momentum: m, the share of the old key weights that is kept, 0 to 1.
            taken: boolean scalar on the device; where it does not hold, nothing changes.
        """
        if taken is None:
            taken = torch.ones((), dtype=torch.bool, device=keys.device)
        if self.keys_from == "momentum_encoder":
            new_share = taken.to(keys.dtype) * (1.0 - key_momentum)
            pairs = zip(self.key_encoder.parameters(), self.encoder.parameters(), strict=True)
            for key_weight, query_weight in pairs:
                key_weight.lerp_(query_weight, new_share.to(key_weight.dtype))
        for keys_of_one_view in keys.chunk(len(keys) // len(image_ids)):
            self.dictionary.store(keys_of_one_view, image_ids, taken)
