"""From a file's weights to networks that give features, and what other commands ask of them."""

from __future__ import annotations

from typing import NoReturn

from torch import Tensor, nn

from moco.encoders import Encoder, build_backbone, build_head, feature_count
from moco.errors import UsageError
from moco.foreign.weights import ForeignWeights
from moco.recipe import Recipe


class NoHead(nn.Module):
    """Stands where a file has no projection head: whoever asks for its embeddings is told."""

    def forward(self, rows: Tensor) -> NoReturn:
        """Refuse.

        Raises:
            UsageError: Always.
        """
        raise UsageError("the file holds no projection head; ask for its backbone's features")


def encoder_of(weights: ForeignWeights) -> Encoder:
    """Return the query encoder with its weights, in eval mode."""
    spec, views = weights.encoder, weights.views
    backbone = build_backbone(spec, views.image_size, views.channels)
    backbone.load_state_dict(weights.backbone, strict=True)
    head: nn.Module = NoHead()
    if weights.head:
        head = build_head(spec, feature_count(backbone))
        head.load_state_dict(weights.head, strict=True)
    return Encoder(backbone, head, views).eval()


def recipe_of(weights: ForeignWeights) -> Recipe:
    """Return a recipe that has the file's encoder and views; the rest of it says nothing."""
    return Recipe(
        name=weights.kind,
        source=weights.about,
        encoder=weights.encoder,
        views=weights.views,
        mechanism="in_batch" if weights.encoder.predictor != "none" else "queue",
    )
