"""Detectron2's names of a ResNet's tensors, from ours, and a network that has them.

The network stands in where Detectron2 is not installed: it shows that the names mean what they say.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any, cast

import torch.nn.functional as F
from torch import Tensor, nn

from moco.export.resnet_shape import ResNetShape
from moco.export.torchvision_format import stem_numbers

RULES = (
    (r"^conv1\.", "stem.conv1."),
    (r"^bn1\.", "stem.conv1.norm."),
    (r"\.downsample\.0\.", ".shortcut."),
    (r"\.downsample\.1\.", ".shortcut.norm."),
    (r"\.bn([1-3])\.", r".conv\1.norm."),
)
"""Each anchored, so that none touches what another wrote."""


def detectron2_names(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Return the tensors as Detectron2's ResNet calls them, without a prefix."""
    return {_renamed(name): value for name, value in state.items()}


def _renamed(name: str) -> str:
    name = re.sub(r"^layer([1-4])\.", lambda found: f"res{int(found[1]) + 1}.", name)
    for pattern, replacement in RULES:
        name = re.sub(pattern, replacement, name)
    return name


class NormedConv(nn.Conv2d):
    """A convolution with batch norm inside, as Detectron2 has it."""

    def __init__(
        self, inputs: int, outputs: int, kernel: int, stride: int, groups: int = 1
    ) -> None:
        super().__init__(inputs, outputs, kernel, stride, kernel // 2, groups=groups, bias=False)
        self.norm = nn.BatchNorm2d(outputs)

    def forward(self, input: Tensor) -> Tensor:
        return cast(Tensor, self.norm(super().forward(input)))


class NamedBlock(nn.Module):
    """A residual block, basic or bottleneck, with strides on its first 3x3 convolution."""

    shortcut: nn.Module | None

    def __init__(self, shape: ResNetShape, inputs: int, width: int, stride: int) -> None:
        super().__init__()
        outputs = width * shape.expansion
        if shape.block == "basic":
            self.conv1 = NormedConv(inputs, width, 3, stride)
            self.conv2 = NormedConv(width, width, 3, 1)
        else:
            inner = width * shape.group_width // 64 * shape.groups
            self.conv1 = NormedConv(inputs, inner, 1, 1)
            self.conv2 = NormedConv(inner, inner, 3, stride, shape.groups)
            self.conv3 = NormedConv(inner, outputs, 1, 1)
        is_other = inputs != outputs or stride != 1
        self.shortcut = NormedConv(inputs, outputs, 1, stride) if is_other else None

    def forward(self, maps: Tensor) -> Tensor:
        layers = [self.conv1, self.conv2, *([self.conv3] if hasattr(self, "conv3") else [])]
        out = maps
        for number, layer in enumerate(layers):
            out = layer(out)
            if number < len(layers) - 1:
                out = F.relu(out)
        return F.relu(out + (maps if self.shortcut is None else self.shortcut(maps)))


class NamedResNet(nn.Module):
    """A ResNet of a shape whose modules are called as Detectron2's; random weights.

    [N, channels, H, W] -> [N, D].
    """

    def __init__(self, shape: ResNetShape) -> None:
        super().__init__()
        kernel, stride, _ = stem_numbers(shape)
        self.stem = nn.Module()
        stem: Any = self.stem
        stem.conv1 = NormedConv(shape.channels, shape.stem_width, kernel, stride)
        inputs = shape.stem_width
        for stage, (width, count) in enumerate(zip(shape.widths, shape.blocks, strict=True)):
            blocks = nn.Sequential()
            for number in range(count):
                stride = 2 if stage > 0 and number == 0 else 1
                blocks.append(NamedBlock(shape, inputs, width, stride))
                inputs = width * shape.expansion
            self.add_module(f"res{stage + 2}", blocks)

    def forward(self, images: Tensor) -> Tensor:
        stem: Any = self.stem
        maps = F.max_pool2d(F.relu(stem.conv1(images)), 3, 2, 1)
        for number in (2, 3, 4, 5):
            maps = getattr(self, f"res{number}")(maps)
        return maps.mean(dim=(2, 3))


def expected_shapes(shape: ResNetShape) -> dict[str, tuple[int, ...]]:
    """Return the names and shapes that Detectron2's ResNet has, without a prefix."""
    return {name: tuple(value.shape) for name, value in NamedResNet(shape).state_dict().items()}
