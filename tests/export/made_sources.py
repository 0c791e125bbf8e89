"""Backbones to export that nobody trained: every weight and statistic is random and telling."""

from __future__ import annotations

import copy
import functools
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from made_runs import made_run
from torch import nn

from moco.encoders import Encoder, build_backbone, build_encoder
from moco.export.source import ExportSource
from moco.recipes import MOCO_V2
from moco.specs import EncoderSpec, ViewsSpec

SMALL = ViewsSpec(image_size=32, evaluation_size=32, evaluation_resize=36)
CIFAR = replace(
    MOCO_V2,
    name="mine",
    encoder=EncoderSpec(backbone="resnet18", stage_blocks=(1, 1, 1, 1)),
    views=SMALL,
)


def views_of(channels: int = 3, side: int = 32) -> ViewsSpec:
    return ViewsSpec(
        image_size=side,
        evaluation_size=side,
        evaluation_resize=side + side // 8,
        channels=channels,
        mean=tuple(0.4 + 0.01 * number for number in range(channels)),
        std=tuple(0.2 + 0.01 * number for number in range(channels)),
    )


def tell_apart(network: nn.Module, seed: int = 0) -> nn.Module:
    """Make every tensor of batch norm and layer norm another: swapped ones then show."""
    draw = torch.Generator().manual_seed(seed)
    for layer in network.modules():
        if isinstance(layer, nn.BatchNorm2d | nn.LayerNorm):
            shape = layer.weight.shape
            layer.weight.data.copy_(0.7 + 0.6 * torch.rand(shape, generator=draw))
            layer.bias.data.copy_(0.2 * torch.randn(shape, generator=draw))
        if isinstance(layer, nn.BatchNorm2d):
            layer.running_mean.copy_(0.2 * torch.randn(shape, generator=draw))
            layer.running_var.copy_(0.5 + torch.rand(shape, generator=draw))
            layer.num_batches_tracked.fill_(7)
    return network.eval()


@functools.cache
def made_source(backbone: str, views: ViewsSpec = SMALL, **fields: Any) -> ExportSource:
    """Return a source, the same one each time: tests change a copy."""
    spec = EncoderSpec(backbone=backbone, **fields)
    with torch.random.fork_rng():
        torch.manual_seed(1)
        network = build_backbone(spec, views.image_size, views.channels)
    return ExportSource("RUN", tell_apart(network), spec, views)


def changed(source: ExportSource, how: str) -> ExportSource:
    """Return a source whose backbone is wrong in one way."""
    network: Any = copy.deepcopy(source.backbone)
    match how:
        case "two statistics of a layer swapped":
            norm = network.layer1[0].bn1
            mean, var = norm.running_mean.clone(), norm.running_var.clone()
            norm.running_mean.copy_(var)
            norm.running_var.copy_(mean.abs())
        case "statistics of two layers swapped":
            one, two = network.layer2[0].bn1, network.layer2[0].bn2
            mean = one.running_mean.clone()
            one.running_mean.copy_(two.running_mean)
            two.running_mean.copy_(mean)
        case "colours in reverse":
            first = network.conv1 if hasattr(network, "conv1") else network.patch_embed.proj
            first.weight.data.copy_(first.weight.data.flip(1))
        case "norms of two blocks swapped":
            one, two = network.blocks[0].norm1, network.blocks[0].norm2
            one.weight, two.weight = two.weight, one.weight
        case "nothing loaded":
            with torch.random.fork_rng():
                torch.manual_seed(2)
                spec, views = source.encoder, source.views
                network = build_backbone(spec, views.image_size, views.channels)
    return replace(source, backbone=network.eval())


def telling_run(path: Path) -> Path:
    """Return a run whose backbone is as telling."""
    with torch.random.fork_rng():
        torch.manual_seed(3)
        encoder: Encoder = build_encoder(CIFAR.encoder, CIFAR.views)
    tell_apart(encoder.backbone)
    return made_run(path, 0, CIFAR, encoder=encoder)
