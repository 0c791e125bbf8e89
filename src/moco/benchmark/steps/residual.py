"""The recipe's encoder out of torchvision's ResNet, as the papers' own code builds it."""

from __future__ import annotations

from typing import Any, cast

import torch
from torch import Tensor, nn
from torchvision.models.resnet import BasicBlock, Bottleneck, ResNet

from moco.encoders import Encoder
from moco.errors import UsageError
from moco.recipe import Recipe

BLOCKS: dict[str, tuple[type[BasicBlock | Bottleneck], list[int]]] = {
    "resnet18": (BasicBlock, [2, 2, 2, 2]),
    "resnet34": (BasicBlock, [3, 4, 6, 3]),
    "resnet50": (Bottleneck, [3, 4, 6, 3]),
    "resnet101": (Bottleneck, [3, 4, 23, 3]),
    "resnet152": (Bottleneck, [3, 8, 36, 3]),
}
PLANES = (64, 128, 256, 512)


def check_comparable(recipe: Recipe) -> None:
    """Refuse recipes that the official MoCo v1 and v2 step is not for.

    Raises:
        UsageError: The first thing that it has not.
    """
    encoder, spec = recipe.encoder, recipe.optimizer
    for found, fits in (
        (f"mechanism {recipe.mechanism}", recipe.mechanism == "queue"),
        (f"encoder.backbone {encoder.backbone}", encoder.backbone in BLOCKS),
        (f"encoder.head {encoder.head}", encoder.head in ("linear", "mlp")),
        (f"encoder.predictor {encoder.predictor}", encoder.predictor == "none"),
        (f"optimizer.algorithm {spec.algorithm}", spec.algorithm == "sgd"),
        ("dictionary.exclude_same_image true", not recipe.dictionary.exclude_same_image),
        ("dictionary.filled_only true", not recipe.dictionary.filled_only),
    ):
        if not fits:
            raise UsageError(
                f"the official step has no {found}; choose a recipe of MoCo v1 or v2 with a plain "
                "ResNet, such as cifar10-resnet18 or moco-v2"
            )
    stored = recipe.batch_size * (2 if recipe.symmetric else 1)
    if recipe.dictionary.size % stored:
        raise UsageError(
            f"the official queue takes whole batches: set --queue to a multiple of {stored}, "
            f"not {recipe.dictionary.size}"
        )


def residual_backbone(recipe: Recipe) -> Any:
    """Return torchvision's network [N, channels, S, S] -> [N, D] of the recipe's form."""
    spec, channels = recipe.encoder, recipe.views.channels
    block, layers = BLOCKS[spec.backbone]
    layers = list(spec.stage_blocks) or layers
    network: Any = ResNet(block, layers, num_classes=1)
    stem = round(64 * spec.width)
    if spec.width != 1.0:
        network.inplanes = stem
        for number, (planes, blocks) in enumerate(zip(PLANES, layers, strict=True), start=1):
            stage = network._make_layer(
                block, round(planes * spec.width), blocks, stride=1 if number == 1 else 2
            )
            setattr(network, f"layer{number}", stage)
    if spec.stem == "imagenet":
        network.conv1 = nn.Conv2d(channels, stem, 7, stride=2, padding=3, bias=False)
    else:
        stride = 1 if spec.stem == "small" else 2
        network.conv1 = nn.Conv2d(channels, stem, 3, stride=stride, padding=1, bias=False)
    if spec.stem == "small":
        network.maxpool = nn.Identity()
    network.bn1 = nn.BatchNorm2d(stem)
    network.fc = nn.Identity()
    return network


def plain_head(like: nn.Module) -> nn.Module:
    """Return a new head of the same form as one of ours: a layer, or two with ReLU between."""
    if isinstance(like, nn.Linear):
        return nn.Linear(like.in_features, like.out_features)
    first, last = cast(nn.Linear, like[0]), cast(nn.Linear, like[2])  # type: ignore[index]
    return nn.Sequential(
        nn.Linear(first.in_features, first.out_features),
        nn.ReLU(),
        nn.Linear(last.in_features, last.out_features),
    )


class PlainEncoder(nn.Module):
    """A network and its head, nothing else.

    Args:
        groups: slices of the batch that it encodes one after the other, each as one process of
            several would.
    """

    def __init__(self, backbone: nn.Module, head: nn.Module, groups: int = 1) -> None:
        super().__init__()
        self.backbone, self.head, self.groups = backbone, head, groups

    def forward(self, view: Tensor) -> Tensor:
        parts = [self.head(self.backbone(part)) for part in view.chunk(self.groups)]
        return parts[0] if self.groups == 1 else torch.cat(parts)


def plain_encoder(recipe: Recipe, ours: Encoder, groups: int = 1) -> PlainEncoder:
    """Return the recipe's encoder of torchvision's parts, with the weights of ours."""
    encoder = PlainEncoder(residual_backbone(recipe), plain_head(ours.head), groups)
    encoder.backbone.load_state_dict(ours.backbone.state_dict())
    encoder.head.load_state_dict(ours.head.state_dict())
    return encoder
