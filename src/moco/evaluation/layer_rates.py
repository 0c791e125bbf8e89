"""Layer-wise learning rates: layers near the pixels are general already and move least.

Groups go by depth: of a ResNet the stem, its four stages and the classifier; of a ViT the patch
embedding, each block, and the classifier with the last norm. Other backbones of timm are grouped as
timm groups them. Letters: G groups.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any, cast

from timm.models import group_parameters
from timm.models.resnet import ResNet
from timm.models.vision_transformer import VisionTransformer
from torch import nn

from moco.encoders import Encoder


@dataclass(frozen=True)
class LayerGroup:
    """Layers of one depth."""

    title: str
    names: tuple[str, ...]
    """Of their parameters, as the encoder names them."""
    rate: float
    """Share of the classifier's learning rate."""


def layer_groups(encoder: Encoder, decay: float) -> list[LayerGroup]:
    """Return the groups from the pixels to the classifier; the rate is decay^(G - 1 - place)."""
    backbone = encoder.backbone
    grouped: dict[str, list[str]] = {}
    for name, title in _titles(backbone):
        grouped.setdefault(title, []).append(f"backbone.{name}")
    head = [f"head.{name}" for name, _ in encoder.head.named_parameters()]
    grouped["head"] = [*grouped.pop("head", []), *head]
    last = len(grouped) - 1
    return [
        LayerGroup(title, tuple(names), decay ** (last - place))
        for place, (title, names) in enumerate(grouped.items())
    ]


def _titles(backbone: nn.Module) -> list[tuple[str, str]]:
    """Return each parameter's name and its group's title, groups in the order of depth."""
    names = [name for name, _ in backbone.named_parameters()]
    if isinstance(backbone, ResNet):
        stage = re.compile(r"(layer\d+)\.")
        found = [(name, _first(stage, name) or "stem") for name in names]
        return sorted(found, key=lambda pair: (pair[1] != "stem", pair[1]))
    if isinstance(backbone, VisionTransformer):
        block = re.compile(r"(blocks\.\d+)\.")
        found = [
            (name, _first(block, name) or ("head" if name.startswith("norm.") else "patch_embed"))
            for name in names
        ]
        return sorted(found, key=lambda pair: _block_place(pair[1]))
    matcher = cast(Any, backbone).group_matcher(coarse=True)
    depths = group_parameters(backbone, matcher, reverse=True)
    return sorted(((name, f"group {depths[name]}") for name in names), key=lambda p: depths[p[0]])


def _first(pattern: re.Pattern[str], name: str) -> str:
    found = pattern.match(name)
    return found[1] if found else ""


def _block_place(title: str) -> int:
    return int(title.partition(".")[2]) if title.startswith("blocks.") else -(title != "head")


def parameter_groups(
    encoder: Encoder, groups: Sequence[LayerGroup], weight_decay: float
) -> list[dict[str, Any]]:
    """Return what AdamW takes: each group's weights, and apart those that no decay is for.

    Biases, norms, class tokens and positions are not decayed: pulling them to 0 makes nothing
    simpler. `rate` is each one's share of the learning rate.
    """
    weights = dict(encoder.named_parameters())
    listed: Iterable[str] = getattr(encoder.backbone, "no_weight_decay", set)()
    kept = {f"backbone.{name}" for name in listed}
    found = []
    for group in groups:
        plain = [name for name in group.names if weights[name].ndim <= 1 or name in kept]
        decayed = [name for name in group.names if name not in plain]
        for names, decay in ((decayed, weight_decay), (plain, 0.0)):
            if names:
                params = [weights[name] for name in names]
                found.append({"params": params, "weight_decay": decay, "rate": group.rate})
    return found
