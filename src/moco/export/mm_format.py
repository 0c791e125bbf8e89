"""`--to mmdet` and `--to mmpretrain`: state dicts for OpenMMLab's `init_cfg`."""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from moco.checkpoint_reading import read_train_state
from moco.encoders import build_backbone
from moco.export.check import Check, compare_features, compare_names, forward_of, without_library
from moco.export.detectron2_format import depth_of
from moco.export.formats import Format
from moco.export.pickles import write_state_dict
from moco.export.resnet_shape import ResNetShape, resnet_shape
from moco.export.source import ExportSource
from moco.export.timm_names import VITS
from moco.vision_transformer import MOCO_V3_VITS, PATCH_SIZE

FILE = "backbone.pth"
PREFIX = "backbone."
VIT_PARTS = {
    "patch_embed.proj": "patch_embed.projection",
    "norm": "ln1",
    "norm1": "ln1",
    "norm2": "ln2",
    "attn.qkv": "attn.qkv",
    "attn.proj": "attn.proj",
    "mlp.fc1": "ffn.layers.0.0",
    "mlp.fc2": "ffn.layers.1",
}
"""mmpretrain's names of a ViT's parts; its ResNets have torchvision's, as ours have."""


def detection_refusal(source: ExportSource) -> str:
    """Say why MMDetection has no such network, "" where it has."""
    shape = resnet_shape(source.backbone)
    if shape is not None and _is_wide_and_grouped(shape):
        return "MMDetection's ResNeXts have one width"
    if shape is None or not depth_of(shape):
        return f"MMDetection's ResNets are not built as '{source.encoder.backbone}' is here"
    if shape.stem != "imagenet":
        return f"MMDetection's ResNets have no {shape.stem} stem"
    return ""


def pretrain_refusal(source: ExportSource) -> str:
    """Say why MMPreTrain has no such network, "" where it has."""
    if source.encoder.backbone in VITS:
        return ""
    shape = resnet_shape(source.backbone)
    if shape is not None and _is_wide_and_grouped(shape):
        return "MMPreTrain's ResNeXts have one width"
    if shape is None or not depth_of(shape):
        return f"MMPreTrain's networks are not built as '{source.encoder.backbone}' is here"
    if shape.stem == "strided":
        return "MMPreTrain's ResNets have no strided stem"
    return ""


def _is_wide_and_grouped(shape: ResNetShape) -> bool:
    return not shape.has_paper_widths and (shape.groups > 1 or shape.group_width != 64)


def write(source: ExportSource, folder: Path) -> None:
    """Write the state dict."""
    names = {f"{PREFIX}{mm_name(name)}": value for name, value in source.state.items()}
    write_state_dict(folder / FILE, {"meta": {}, "state_dict": names})


def mm_name(name: str) -> str:
    """Return what OpenMMLab calls a tensor of a backbone, without a prefix."""
    found = re.fullmatch(r"(blocks\.(\d+)\.)?(.+)\.(weight|bias)", name)
    if found is None or found[3] not in VIT_PARTS:
        return name
    _, number, part, kind = found.groups()
    return f"{'' if number is None else f'layers.{number}.'}{VIT_PARTS[part]}.{kind}"


def own_name(name: str) -> str:
    """Return what we call a tensor that OpenMMLab calls so."""
    found = re.fullmatch(r"(layers\.(\d+)\.)?(.+)\.(weight|bias)", name)
    if found is None:
        return name
    _, number, part, kind = found.groups()
    inside = {"ln1": "norm1", "ln2": "norm2"} if number is not None else {"ln1": "norm"}
    known = {mm: own for own, mm in VIT_PARTS.items() if mm not in ("ln1", "ln2")} | inside
    if part not in known:
        return name
    return f"{'' if number is None else f'blocks.{number}.'}{known[part]}.{kind}"


def expected_names(source: ExportSource) -> dict[str, tuple[int, ...]]:
    """Return the names and shapes of the library's own backbone, without a prefix."""
    if source.encoder.backbone not in VITS:
        return {name: tuple(value.shape) for name, value in source.state.items()}
    shape = MOCO_V3_VITS[source.encoder.backbone]
    width, views = shape.width, source.views
    patches = (views.image_size // PATCH_SIZE) ** 2
    expected: dict[str, tuple[int, ...]] = {
        "cls_token": (1, 1, width),
        "pos_embed": (1, patches + 1, width),
        "patch_embed.projection.weight": (width, views.channels, PATCH_SIZE, PATCH_SIZE),
        "patch_embed.projection.bias": (width,),
        "ln1.weight": (width,),
        "ln1.bias": (width,),
    }
    layers = {
        "attn.qkv": (3 * width, width),
        "attn.proj": (width, width),
        "ffn.layers.0.0": (4 * width, width),
        "ffn.layers.1": (width, 4 * width),
    }
    for number in range(shape.depth):
        for norm in ("ln1", "ln2"):
            expected[f"layers.{number}.{norm}.weight"] = (width,)
            expected[f"layers.{number}.{norm}.bias"] = (width,)
        for name, size in layers.items():
            expected[f"layers.{number}.{name}.weight"] = size
            expected[f"layers.{number}.{name}.bias"] = size[:1]
    return expected


def check(source: ExportSource, folder: Path) -> Check:
    """Compare what is written with the library's names, and features under our names again."""
    content: Mapping[str, Any] = read_train_state(folder / FILE, of_modules=True)
    state: dict[str, Tensor] = {
        name.removeprefix(PREFIX): value for name, value in content["state_dict"].items()
    }
    shapes = {name: tuple(value.shape) for name, value in state.items()}
    keys = compare_names(shapes, expected_names(source), "OpenMMLab")
    with torch.random.fork_rng(devices=[]):
        views = source.views
        network = build_backbone(source.encoder, views.image_size, views.channels)
    network.load_state_dict({own_name(name): value for name, value in state.items()})
    return without_library(keys, compare_features(source, forward_of(network), "OpenMMLab"))


def _backbone_lines(source: ExportSource, *, detects: bool) -> list[str]:
    """Return the backbone of a configuration."""
    shape = resnet_shape(source.backbone)
    loaded = f'dict(type="Pretrained", checkpoint="{FILE}", prefix="{PREFIX}")'
    channels = source.views.channels
    given = {"in_channels": channels} if channels != 3 else {}
    if shape is None:
        vit = MOCO_V3_VITS[source.encoder.backbone]
        arch = {
            "embed_dims": vit.width,
            "num_layers": vit.depth,
            "num_heads": vit.attention_heads,
            "feedforward_channels": 4 * vit.width,
        }
        kind, size = "VisionTransformer", source.views.image_size
        told: dict[str, Any] = {"arch": arch, "img_size": size, "patch_size": PATCH_SIZE, **given}
    else:
        kind, told = "ResNet", {"depth": depth_of(shape), **given}
        if shape.stem == "small":
            kind = "ResNet_CIFAR"
        if not shape.has_paper_widths:
            told |= {"stem_channels": shape.stem_width, "base_channels": shape.widths[0]}
        if shape.groups > 1 or shape.group_width != 64:
            width = "base_width" if detects else "width_per_group"
            kind, told = "ResNeXt", {**told, "groups": shape.groups, width: shape.group_width}
        if detects:
            told |= {"out_indices": (0, 1, 2, 3), "norm_cfg": {"type": "SyncBN"}}
            told["norm_eval"] = False
    lines = [f'    type="{kind}",', *(f"    {name}={value!r}," for name, value in told.items())]
    return ["backbone = dict(", *lines, f"    init_cfg={loaded},", ")"]


def detection_snippet(source: ExportSource) -> str:
    """Return a detector's configuration: its backbone."""
    mean, std = (
        [round(255 * value, 6) for value in of] for of in (source.views.mean, source.views.std)
    )
    lines = [
        *_backbone_lines(source, detects=True),
        "model = dict(",
        "    backbone=backbone,",
        f"    data_preprocessor=dict(mean={mean}, std={std}, bgr_to_rgb=True),",
        ")",
    ]
    return "\n".join(lines)


def pretrain_snippet(source: ExportSource) -> str:
    """Return Python that builds the backbone and loads it."""
    lines = [
        "from mmpretrain.registry import MODELS",
        "from mmpretrain.utils import register_all_modules",
        "",
        "register_all_modules()",
        *_backbone_lines(source, detects=False),
        "model = MODELS.build(backbone)",
        "model.init_weights()",
    ]
    return "\n".join(lines)


MMDET = Format("mmdet", "mmdet", detection_refusal, write, check, detection_snippet)
MMPRETRAIN = Format("mmpretrain", "mmpretrain", pretrain_refusal, write, check, pretrain_snippet)
