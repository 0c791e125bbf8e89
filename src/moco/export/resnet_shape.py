"""What a ResNet is built of, read from the network itself, so that other libraries can build it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal, cast

from timm.models.resnet import BasicBlock, Bottleneck, ResNet
from torch import nn

IMAGENET_WIDTHS = (64, 128, 256, 512)


@dataclass(frozen=True)
class ResNetShape:
    """A ResNet or ResNeXt of plain convolutions, batch norm and ReLU, strides on the 3x3 layers."""

    block: Literal["basic", "bottleneck"]
    blocks: tuple[int, ...]
    """How many in each stage."""
    widths: tuple[int, ...]
    """Of each stage: channels that come out of a basic block, a fourth of a bottleneck's."""
    stem_width: int
    groups: int
    """Of the 3x3 convolutions."""
    group_width: int
    """Channels in a group per 64 of the stage's width, as timm and torchvision count."""
    stem: Literal["imagenet", "strided", "small"]
    channels: int
    """Of the images."""

    @property
    def expansion(self) -> int:
        """How many times a stage's width come out of it."""
        return 1 if self.block == "basic" else 4

    @property
    def outputs(self) -> tuple[int, ...]:
        """Channels that come out of each stage."""
        return tuple(width * self.expansion for width in self.widths)

    @property
    def has_paper_widths(self) -> bool:
        """Whether stem and stages are as wide as every library has them."""
        return self.widths == IMAGENET_WIDTHS and self.stem_width == 64


def resnet_shape(backbone: nn.Module) -> ResNetShape | None:
    """Return what a backbone is built of, None where it is no plain ResNet."""
    if type(backbone) is not ResNet:
        return None
    net: Any = backbone
    stem = _stem(net)
    stages = [list(getattr(net, f"layer{number}")) for number in (1, 2, 3, 4)]
    first = stages[0][0]
    kind = type(first)
    plain = all(_is_plain(block, kind) for stage in stages for block in stage)
    if stem is None or kind not in (BasicBlock, Bottleneck) or not plain or not _pools(net):
        return None
    is_basic = kind is BasicBlock
    widths = tuple(_outputs(stage[0]) // (1 if is_basic else 4) for stage in stages)
    groups = int(first.conv2.groups)
    return ResNetShape(
        block="basic" if is_basic else "bottleneck",
        blocks=tuple(len(stage) for stage in stages),
        widths=widths,
        stem_width=net.conv1.out_channels,
        groups=groups,
        group_width=64 if is_basic else first.conv2.out_channels * 64 // (widths[0] * groups),
        stem=stem,
        channels=net.conv1.in_channels,
    )


def _stem(net: Any) -> Literal["imagenet", "strided", "small"] | None:
    convolution, pool = net.conv1, net.maxpool
    if type(convolution) is not nn.Conv2d or not _is_norm(net.bn1):
        return None
    pools = type(pool) is nn.MaxPool2d and (pool.kernel_size, pool.stride, pool.padding) == (
        3,
        2,
        1,
    )
    if not pools and type(pool) is not nn.Identity:
        return None
    match convolution.kernel_size[0], convolution.stride[0], convolution.padding[0], pools:
        case 7, 2, 3, True:
            return "imagenet"
        case 3, 2, 1, True:
            return "strided"
        case 3, 1, 1, False:
            return "small"
    return None


def _is_plain(block: Any, kind: Any) -> bool:
    if type(block) is not kind:
        return False
    extras: Sequence[object] = (block.se, block.drop_path)
    layers = [block.conv1, block.conv2, *([block.conv3] if kind is Bottleneck else [])]
    return (
        all(type(extra) in (type(None), nn.Identity) for extra in extras)
        and type(block.aa) is nn.Identity
        and type(block.act1) is nn.ReLU
        and block.dilation == 1
        and all(type(layer) is nn.Conv2d and layer.bias is None for layer in layers)
        and all(_is_norm(getattr(block, f"bn{number + 1}")) for number in range(len(layers)))
        and _shortcut_is_plain(block.downsample)
    )


def _shortcut_is_plain(shortcut: Any) -> bool:
    if shortcut is None:
        return True
    layers = list(shortcut)
    return (
        len(layers) == 2
        and type(layers[0]) is nn.Conv2d
        and layers[0].kernel_size == (1, 1)
        and _is_norm(layers[1])
    )


def _is_norm(layer: Any) -> bool:
    """Say whether it is batch norm as every library builds it."""
    return type(layer) is nn.BatchNorm2d and layer.eps == 1e-5 and layer.affine


def _pools(net: Any) -> bool:
    kind = getattr(net.global_pool, "pool_type", "")
    return kind == "avg" and type(net.fc) is nn.Identity


def _outputs(block: Any) -> int:
    last = block.conv2 if isinstance(block, BasicBlock) else block.conv3
    return cast(int, last.out_channels)
