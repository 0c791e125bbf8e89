"""How timm calls a backbone: the name and the arguments with which it builds the same network."""

from __future__ import annotations

from typing import Any

from moco.encoders import WIDER_GROUPS
from moco.export.source import ExportSource
from moco.vision_transformer import MOCO_V3_VITS

VITS = {"moco_v3_vit_small": "vit_small_patch16_224", "moco_v3_vit_base": "vit_base_patch16_224"}
"""Of the same depth and width; heads and image size are arguments."""


def timm_name(source: ExportSource) -> str:
    """Return timm's name of the network, "" where it has none."""
    spec = source.encoder
    if spec.backbone in MOCO_V3_VITS:
        return VITS.get(spec.backbone, "")
    if spec.width != 1.0 or spec.stem != "imagenet":
        return ""
    return WIDER_GROUPS.get(spec.backbone, (spec.backbone, None))[0]


def timm_arguments(source: ExportSource) -> dict[str, Any]:
    """Return what `timm.create_model` must be given besides; without it, weights would fit wrongly.

    timm's ViT-S has 6 attention heads and MoCo v3's 12, of parameters of the same shapes.
    """
    spec, views = source.encoder, source.views
    arguments: dict[str, Any] = {}
    if spec.backbone in VITS:
        if MOCO_V3_VITS[spec.backbone].attention_heads != MOCO_V3_VITS[spec.backbone].width // 64:
            arguments["num_heads"] = MOCO_V3_VITS[spec.backbone].attention_heads
        if views.image_size != 224:
            arguments["img_size"] = views.image_size
    if spec.backbone in WIDER_GROUPS:
        arguments["base_width"] = WIDER_GROUPS[spec.backbone][1]
    if spec.stage_blocks:
        arguments["layers"] = list(spec.stage_blocks)
    if views.channels != 3:
        arguments["in_chans"] = views.channels
    return arguments
