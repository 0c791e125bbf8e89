"""transformers' names of a ResNet's and a ViT's tensors, from ours."""

from __future__ import annotations

import re

import torch
from torch import Tensor

STEM = {"conv1": "embedder.embedder.convolution", "bn1": "embedder.embedder.normalization"}
VIT_NAMES = {
    "cls_token": "embeddings.cls_token",
    "pos_embed": "embeddings.position_embeddings",
    "patch_embed.proj": "embeddings.patch_embeddings.projection",
    "norm": "layernorm",
    "norm1": "layernorm_before",
    "norm2": "layernorm_after",
    "attn.proj": "attention.output.dense",
    "mlp.fc1": "intermediate.dense",
    "mlp.fc2": "output.dense",
}
"""But for queries, keys and values, which we have in one tensor."""


def resnet_names(state: dict[str, Tensor]) -> dict[str, Tensor]:
    """Return a ResNet's tensors as transformers calls them."""
    return {_resnet_name(name): value for name, value in state.items()}


def vit_names(state: dict[str, Tensor]) -> dict[str, Tensor]:
    """Return a ViT's tensors as transformers calls them.

    Its pooler, which we have not, is the identity: what it gives is then the class token, too.
    """
    renamed: dict[str, Tensor] = {}
    for name, value in state.items():
        block = re.fullmatch(r"blocks\.(\d+)\.(.+)\.(weight|bias)", name)
        if block is None:
            stem, _, kind = name.rpartition(".")
            whole = VIT_NAMES[name] if name in VIT_NAMES else f"{VIT_NAMES[stem]}.{kind}"
            renamed[whole] = value
            continue
        number, part, kind = block.groups()
        layer = f"encoder.layer.{number}"
        if part == "attn.qkv":
            for third, place in zip(value.chunk(3), ("query", "key", "value"), strict=True):
                renamed[f"{layer}.attention.attention.{place}.{kind}"] = third.clone()
        else:
            renamed[f"{layer}.{VIT_NAMES[part]}.{kind}"] = value
    width = state["cls_token"].shape[-1]
    renamed["pooler.dense.weight"], renamed["pooler.dense.bias"] = (
        torch.eye(width),
        torch.zeros(width),
    )
    return renamed


def _resnet_name(name: str) -> str:
    stem, _, kind = name.rpartition(".")
    if stem in STEM:
        return f"{STEM[stem]}.{kind}"
    found = re.fullmatch(r"layer([1-4])\.(\d+)\.(conv|bn|downsample\.)(\d)", stem)
    if found is None:
        raise ValueError(f"'{name}' is no tensor of a plain ResNet")
    stage, block, layer, number = found.groups()
    before = f"encoder.stages.{int(stage) - 1}.layers.{block}"
    if layer == "downsample.":
        return f"{before}.shortcut.{('convolution', 'normalization')[int(number)]}.{kind}"
    part = "convolution" if layer == "conv" else "normalization"
    return f"{before}.layer.{int(number) - 1}.{part}.{kind}"
