"""What the official MoCo files call the parts of a contrast, and in which order they list them.

v1 and v2 (`main_moco.py`) save module.encoder_q, module.encoder_k and the queue; v3 saves
module.base_encoder, module.momentum_encoder and module.predictor. Backbones keep torchvision's and
timm's names, as ours do; the head stands where the classifier was: fc, in a ViT head.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from moco.encoders import build_encoder, build_predictor, feature_count
from moco.errors import UsageError
from moco.recipe import Recipe
from moco.vision_transformer import MOCO_V3_VITS

QUEUE, QUEUE_NEXT = "module.queue", "module.queue_ptr"
PREFIXES = {
    "queue": ("module.encoder_q.", "module.encoder_k."),
    "in_batch": ("module.base_encoder.", "module.momentum_encoder."),
}
"""Of the query and the key encoder, by mechanism: v1 and v2, then v3."""
PREDICTOR = "module.predictor."
VIT_PREFIX = "moco_v3_"
"""What our names of v3's ViTs have before the official ones."""


@dataclass(frozen=True)
class Named:
    """A tensor of a contrast's state dict, and what the official file calls it."""

    own: str
    official: str
    shape: tuple[int, ...]
    dtype: torch.dtype
    is_weight: bool
    """Whether the official optimizer counts it; all parameters, trained or not."""
    is_trained: bool
    """Whether ours does."""


def official_tensors(recipe: Recipe) -> list[Named]:
    """Return what an official file of this recipe holds beside the queue, in its own order.

    Raises:
        UsageError: The official code has no such method, so its files have no place for this one.
    """
    if recipe.mechanism not in PREFIXES:
        raise UsageError(
            f"mechanism {recipe.mechanism} has no official checkpoint layout; only queue (v1, v2) "
            "and in_batch (v3) have one"
        )
    if recipe.mechanism == "queue" and recipe.encoder.predictor != "none":
        raise UsageError(
            "a queue with a predictor has no official checkpoint layout; encoder.predictor none "
            "has one"
        )
    with torch.device("meta"):  # names and shapes without memory
        encoder = build_encoder(recipe.encoder, recipe.views)
        predictor = build_predictor(recipe.encoder, feature_count(encoder.backbone))
    head = "head." if recipe.encoder.backbone in MOCO_V3_VITS else "fc."
    query, key = PREFIXES[recipe.mechanism]
    found: list[Named] = []
    for own, official in (("encoder.", query), ("key_encoder.", key)):
        trained = own == "encoder."
        found += _named(encoder.backbone, f"{own}backbone.", official, trained=trained)
        found += _named(encoder.head, f"{own}head.", official + head, trained=trained)
    if predictor is not None:
        found += _named(predictor, "predictor.", PREDICTOR, trained=True)
    return found


def _named(module: nn.Module, own: str, official: str, *, trained: bool) -> Iterator[Named]:
    weights: dict[str, nn.Parameter] = dict(module.named_parameters())
    state: dict[str, Tensor] = module.state_dict()
    for name, value in state.items():
        weight = weights.get(name)
        yield Named(
            own + name,
            official + name,
            tuple(value.shape),
            value.dtype,
            weight is not None,
            trained and weight is not None and weight.requires_grad,
        )


def official_weights(tensors: Sequence[Named]) -> list[Named]:
    """Return what the official optimizer numbers from 0: frozen weights and key weights too."""
    return [named for named in tensors if named.is_weight]


def trained_weights(tensors: Sequence[Named]) -> list[Named]:
    """Return what our optimizer numbers from 0."""
    return [named for named in tensors if named.is_trained]


def official_arch(recipe: Recipe) -> str:
    """Return the official scripts' --arch."""
    return recipe.encoder.backbone.removeprefix(VIT_PREFIX)
