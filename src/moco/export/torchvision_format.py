"""`--to torchvision`: a state dict for torchvision's ResNets, whose names timm's have too."""

from __future__ import annotations

from pathlib import Path
from typing import Any, cast

import torch
import torchvision
from torch import nn
from torchvision.models.resnet import BasicBlock, Bottleneck, ResNet

from moco.checkpoint_reading import read_train_state
from moco.export.check import Check, compare_features, forward_of
from moco.export.formats import Format
from moco.export.pickles import write_state_dict
from moco.export.resnet_shape import ResNetShape, resnet_shape
from moco.export.source import ExportSource

FILE = "backbone.pth"
NAMED: dict[tuple[str, tuple[int, ...], int, int], str] = {
    ("basic", (2, 2, 2, 2), 1, 64): "resnet18",
    ("basic", (3, 4, 6, 3), 1, 64): "resnet34",
    ("bottleneck", (3, 4, 6, 3), 1, 64): "resnet50",
    ("bottleneck", (3, 4, 23, 3), 1, 64): "resnet101",
    ("bottleneck", (3, 8, 36, 3), 1, 64): "resnet152",
    ("bottleneck", (3, 4, 6, 3), 32, 4): "resnext50_32x4d",
    ("bottleneck", (3, 4, 23, 3), 32, 8): "resnext101_32x8d",
    ("bottleneck", (3, 4, 23, 3), 64, 4): "resnext101_64x4d",
    ("bottleneck", (3, 4, 6, 3), 1, 128): "wide_resnet50_2",
    ("bottleneck", (3, 4, 23, 3), 1, 128): "wide_resnet101_2",
}
"""torchvision's names, by block, blocks, groups and their width."""


def refusal(source: ExportSource) -> str:
    """Say why torchvision has no such network, "" where it has."""
    shape = resnet_shape(source.backbone)
    if shape is None:
        return f"torchvision has no network with the parameters of '{source.encoder.backbone}'"
    if not shape.has_paper_widths:
        return "torchvision has no ResNet whose every layer is wider or narrower"
    return ""


def write(source: ExportSource, folder: Path) -> None:
    """Write the state dict."""
    write_state_dict(folder / FILE, source.state)


def check(source: ExportSource, folder: Path) -> Check:
    """Load it into torchvision's network and compare features."""
    network = build_torchvision(_shape(source))
    network.load_state_dict(read_train_state(folder / FILE, of_modules=True))
    return compare_features(source, forward_of(network), library_version())


def library_version() -> str:
    """Return torchvision and its version."""
    return f"torchvision {torchvision.__version__.partition('+')[0]}"


def build_torchvision(shape: ResNetShape) -> nn.Module:
    """Return torchvision's network of a shape with random weights, without its classifier."""
    with torch.random.fork_rng(devices=[]):
        name = torchvision_name(shape)
        network: Any
        if name:
            network = torchvision.models.get_model(name, weights=None)
        else:
            block = BasicBlock if shape.block == "basic" else Bottleneck
            widths = {"groups": shape.groups, "width_per_group": shape.group_width}
            network = ResNet(block, list(shape.blocks), **widths)
        network.fc = nn.Identity()
        if shape.stem != "imagenet" or shape.channels != 3:
            size, stride, padding = stem_numbers(shape)
            network.conv1 = nn.Conv2d(
                shape.channels, 64, size, stride=stride, padding=padding, bias=False
            )
        if shape.stem == "small":
            network.maxpool = nn.Identity()
    return cast(nn.Module, network)


def stem_numbers(shape: ResNetShape) -> tuple[int, int, int]:
    """Return kernel size, stride and padding of the first layer."""
    return {"imagenet": (7, 2, 3), "strided": (3, 2, 1), "small": (3, 1, 1)}[shape.stem]


def building_lines(shape: ResNetShape) -> list[str]:
    """Return Python that builds the same; it needs torch and torchvision imported."""
    name = torchvision_name(shape)
    if name:
        lines = [f"model = torchvision.models.{name}(weights=None)"]
    else:
        block = "BasicBlock" if shape.block == "basic" else "Bottleneck"
        lines = [
            "resnet = torchvision.models.resnet",
            f"model = resnet.ResNet(resnet.{block}, {list(shape.blocks)}, groups={shape.groups}, "
            f"width_per_group={shape.group_width})",
        ]
    lines.append("model.fc = torch.nn.Identity()")
    if shape.stem != "imagenet" or shape.channels != 3:
        size, stride, padding = stem_numbers(shape)
        lines.append(
            f"model.conv1 = torch.nn.Conv2d({shape.channels}, 64, {size}, stride={stride}, "
            f"padding={padding}, bias=False)"
        )
    if shape.stem == "small":
        lines.append("model.maxpool = torch.nn.Identity()")
    return lines


def snippet(source: ExportSource) -> str:
    """Return Python that loads the file."""
    lines = [
        "import torch",
        "import torchvision",
        "",
        *building_lines(_shape(source)),
        f'model.load_state_dict(torch.load("{FILE}", weights_only=True))',
        "model.eval()",
    ]
    return "\n".join(lines)


def _shape(source: ExportSource) -> ResNetShape:
    shape = resnet_shape(source.backbone)
    if shape is None:
        raise TypeError("no plain ResNet")  # a bug: it was to be refused
    return shape


def torchvision_name(shape: ResNetShape) -> str:
    """Return torchvision's name of a network but for its first layer, "" where it has none."""
    if not shape.has_paper_widths:
        return ""
    return NAMED.get((shape.block, shape.blocks, shape.groups, shape.group_width), "")


TORCHVISION = Format("torchvision", "torchvision", refusal, write, check, snippet)
