"""Official checkpoints as their scripts write them, of random networks that tests compare with."""

from __future__ import annotations

import copy
from collections.abc import Mapping
from functools import partial
from pathlib import Path
from typing import Any

import torch
import torchvision
from timm.models.vision_transformer import VisionTransformer
from torch import Tensor, nn

from moco.vision_transformer import ConvStem, sin_cos_positions


def stirred(network: nn.Module) -> nn.Module:
    """Give each tensor its own numbers, so that two that are swapped are noticed."""
    for name, value in network.state_dict().items():
        if "running_mean" in name:
            value.normal_(0, 0.1)
        elif "running_var" in name:
            value.uniform_(0.5, 1.5)
        elif value.ndim == 1:
            value.add_(torch.rand_like(value) * 0.2)
    return network.eval()


def torchvision_resnet(name: str = "resnet18") -> nn.Module:
    """Return a ResNet whose features, [N, D], stand in for a trained one's."""
    network = torchvision.models.get_model(name, weights=None)
    network.fc = nn.Identity()
    return stirred(network)


def mlp(widths: list[int], *, last_batch_norm: bool) -> nn.Sequential:
    """Return v3's MLP as its builder makes it."""
    layers: list[nn.Module] = []
    for place in range(len(widths) - 1):
        layers.append(nn.Linear(widths[place], widths[place + 1], bias=False))
        if place < len(widths) - 2:
            layers += [nn.BatchNorm1d(widths[place + 1]), nn.ReLU(inplace=True)]
        elif last_batch_norm:
            layers.append(nn.BatchNorm1d(widths[-1], affine=False))
    return nn.Sequential(*layers)


def moco_v3_transformer(width: int, depth: int = 12, *, conv: bool = False) -> VisionTransformer:
    """Return the official ViT (12 heads), as timm's parts make it."""
    network = VisionTransformer(
        patch_size=16,
        embed_dim=width,
        depth=depth,
        num_heads=12,
        mlp_ratio=4,
        qkv_bias=True,
        num_classes=0,
        norm_layer=partial(nn.LayerNorm, eps=1e-6),
    )
    if conv:
        network.patch_embed = ConvStem(224, 3, width)
    network.pos_embed.data.copy_(sin_cos_positions(14, 14, width))
    for name, value in network.state_dict().items():
        if "norm" in name or "running" in name:
            value.add_(torch.rand_like(value) * 0.2)
    return network.eval()


def under(prefix: str, network: nn.Module) -> dict[str, Tensor]:
    """Return a network's tensors under a prefix."""
    return {prefix + name: value for name, value in network.state_dict().items()}


def moved(network: nn.Module) -> nn.Module:
    """Return a copy with other numbers, as a key encoder is of its query encoder."""
    other = copy.deepcopy(network)
    for value in other.state_dict().values():
        if value.is_floating_point():
            value.mul_(0.9)
    return other


def official_queue_state(
    backbone: nn.Module, head: nn.Module, queue_size: int = 64, dim: int = 128
) -> dict[str, Tensor]:
    """Return the state dict of official v1 or v2: query and key encoder, and the queue."""
    state: dict[str, Tensor] = {}
    for name, of in (
        ("encoder_q", (backbone, head)),
        ("encoder_k", (moved(backbone), moved(head))),
    ):
        state |= under(f"module.{name}.", of[0]) | under(f"module.{name}.fc.", of[1])
    queue = nn.functional.normalize(torch.randn(dim, queue_size), dim=0)
    return {**state, "module.queue": queue, "module.queue_ptr": torch.tensor([queue_size // 2])}


def official_v3_state(
    backbone: nn.Module, head: nn.Module, predictor: nn.Module, *, of_head: str
) -> dict[str, Tensor]:
    """Return the state dict of official v3."""
    state = under("module.predictor.", predictor)
    for name, of in (
        ("base_encoder", (backbone, head)),
        ("momentum_encoder", (moved(backbone), moved(head))),
    ):
        state |= under(f"module.{name}.", of[0]) | under(f"module.{name}.{of_head}.", of[1])
    return state


def notebook_network() -> nn.Sequential:
    """Return the encoder of the CIFAR-10 notebook, its head last."""
    layers = list(torchvision.models.resnet18(num_classes=128).children())
    layers[0] = nn.Conv2d(3, 64, 3, stride=1, padding=1, bias=False)
    del layers[3]  # max-pool
    network = nn.Sequential(*layers[:-1], nn.Flatten(1), layers[-1])
    stirred(network)
    return network


def notebook_state(network: nn.Module) -> dict[str, Tensor]:
    """Return the state dict of the CIFAR-10 notebook."""
    state = under("encoder_q.net.", network) | under("encoder_k.net.", moved(network))
    return state | {"queue": torch.randn(128, 64), "queue_ptr": torch.tensor([0])}


def save(path: Path, state: Mapping[str, Any], *, old: bool = False, **beside: Any) -> Path:
    """Write a checkpoint as an official script does.

    Args:
        old: in the layout of torch before 1.6, which the released files of 2020 have.
    """
    content = {"epoch": 200, "arch": "resnet50", "state_dict": dict(state), **beside}
    torch.save(content, path, _use_new_zipfile_serialization=not old)
    return path
