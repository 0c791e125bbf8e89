"""Encoders: a backbone, which the user leaves with, and a head, which only the contrast needs.

Letters: N images, D backbone features, C embedding size.
"""

from __future__ import annotations

import difflib
import itertools
import math
import re
from collections.abc import Sequence
from typing import Any, cast

import timm
import torch
from timm.models.resnet import ResNet
from torch import Tensor, nn

from moco.data.views import normalize
from moco.errors import UsageError
from moco.specs import EncoderSpec, ViewsSpec
from moco.vision_transformer import MOCO_V3_VITS, TokenDrop, build_moco_v3_vit

WIDER_GROUPS = {"resnext50_32x8d": ("resnext50_32x4d", 8)}
"""The paper's RX50, which neither timm nor torchvision has: a timm ResNeXt, channels in a group."""


class Encoder(nn.Module):
    """A view [N, channels, H, W] to an embedding [N, C]: f_q of the paper, and f_k as a copy of it.

    It takes pixels as they are stored, uint8, and normalizes them first, so that views travel
    between processes as bytes; a floating-point view counts as normalized already.

    Args:
        backbone: [N, channels, H, W] -> [N, D].
        head: [N, D] -> [N, C].
        views: whose mean and deviation normalize pixels; it also knows how many channels.
        precision: the type that autocast runs both in; None runs them as they are. The embedding
            comes out in float32 either way, so that the loss and the keys are exact.
        layout: how pixels lie in memory; channels last is faster where a device has it.
    """

    def __init__(
        self,
        backbone: nn.Module,
        head: nn.Module,
        views: ViewsSpec | None = None,
        precision: torch.dtype | None = None,
        layout: torch.memory_format = torch.contiguous_format,
    ) -> None:
        super().__init__()
        self.backbone, self.head = backbone, head
        self.views = views or ViewsSpec()
        self.precision, self.layout = precision, layout

    def forward(self, view: Tensor) -> Tensor:
        return self.embed(normalize(view, self.views).contiguous(memory_format=self.layout))

    def embed(self, view: Tensor) -> Tensor:
        """Return the embedding [N, C] of a view that is normalized and lies as the layout says."""
        if self.precision is None:
            return cast(Tensor, self.head(self.backbone(view)))
        with torch.autocast(view.device.type, self.precision):
            embedding = cast(Tensor, self.head(self.backbone(view)))
        return embedding.float()


def build_encoder(spec: EncoderSpec, views: ViewsSpec | None = None) -> Encoder:
    """Return a randomly initialised encoder; weights come from torch's global random state.

    Args:
        views: what its images are like: their channels, their mean and deviation, and their size
            for backbones that are built for one.

    Raises:
        UsageError: timm has no such model, or a setting does not go with the backbone.
    """
    views = views or ViewsSpec()
    backbone = build_backbone(spec, views.image_size, views.channels)
    return Encoder(backbone, build_head(spec, feature_count(backbone)), views)


def feature_count(backbone: nn.Module) -> int:
    """Return D, how many features a timm model without its classifier gives."""
    return int(getattr(backbone, "head_hidden_size", None) or backbone.num_features)  # type: ignore[arg-type]


def build_backbone(spec: EncoderSpec, image_size: int = 224, channels: int = 3) -> nn.Module:
    """Return the backbone without a classifier, [N, channels, H, W] -> [N, D]."""
    if spec.backbone in MOCO_V3_VITS:
        return _build_vit(spec, image_size, channels)
    if spec.freeze_patch_projection:
        raise UsageError(
            f"encoder.freeze_patch_projection needs a ViT of MoCo v3 ({', '.join(MOCO_V3_VITS)}), "
            f"not '{spec.backbone}'"
        )
    backbone = _build_timm_model(spec, channels)
    reshaped = spec.width != 1.0 or bool(spec.stage_blocks)
    if isinstance(backbone, ResNet):
        _set_stem(backbone, spec, channels)
        # timm starts residual branches at zero unless told; the papers' v1 and v2 do not
        _reset_batch_norm(backbone)
        backbone.init_weights(zero_init_last=spec.zero_init_residual)
        if spec.stem == "small":  # the official notebook swaps it in after ResNet's own start
            cast(nn.Conv2d, backbone.conv1).reset_parameters()
    elif reshaped or spec.stem != "imagenet":
        raise UsageError(
            f"encoder.stem, width and stage_blocks need a plain ResNet, not '{spec.backbone}'; "
            "leave them at imagenet, 1 and [], or take another encoder.backbone"
        )
    return backbone


def _build_timm_model(spec: EncoderSpec, channels: int) -> nn.Module:
    _check_group_width(spec)
    options = _resnet_options(spec)
    if channels != 3:
        options["in_chans"] = channels
    name, group_width = WIDER_GROUPS.get(spec.backbone, (spec.backbone, None))
    if group_width is not None:
        options["base_width"] = group_width
    if name not in timm.list_models():
        names = [*WIDER_GROUPS, *timm.list_models(), *MOCO_V3_VITS]
        near = difflib.get_close_matches(name.lower(), names, n=3)
        hint = f"did you mean {', '.join(near)}?" if near else "`timm.list_models()` has the names"
        raise UsageError(f"encoder.backbone: timm has no model '{name}'; {hint}")
    try:
        model: nn.Module = timm.create_model(name, pretrained=False, num_classes=0, **options)
    except (TypeError, ValueError) as error:  # a width that its kind of norm does not divide, too
        raise UsageError(
            "encoder.width and encoder.stage_blocks need a plain ResNet with batch norm, not "
            f"'{spec.backbone}'; leave them at 1 and [], or take another encoder.backbone"
        ) from error
    return model


def _check_group_width(spec: EncoderSpec) -> None:
    """Refuse a width that leaves a ResNeXt, such as 32x8d, part of a channel in its groups."""
    groups = re.search(r"_\d+x(\d+)d$", spec.backbone)
    if groups and spec.width * int(groups[1]) % 1:
        raise UsageError(
            f"encoder.width {spec.width:g} leaves no whole number of channels in a group of "
            f"'{spec.backbone}'; take a multiple of 1/{groups[1]}"
        )


def _resnet_options(spec: EncoderSpec) -> dict[str, Any]:
    """Return what makes timm's ResNet `width` times as wide: a true multiple of every layer."""
    options: dict[str, Any] = {}
    if spec.stage_blocks:
        options["layers"] = spec.stage_blocks
    if spec.width != 1.0:
        options["channels"] = tuple(
            round(channels * spec.width) for channels in (64, 128, 256, 512)
        )
        # timm's plain stem is always 64 wide; the deep one is 2 * stem_width, and is replaced below
        options["stem_type"], options["stem_width"] = "deep", max(1, round(32 * spec.width))
    return options


def _set_stem(backbone: ResNet, spec: EncoderSpec, channels: int) -> None:
    if spec.stem == "imagenet" and spec.width == 1.0:
        return  # as timm built it
    first_norm: Any = backbone.bn1
    width = getattr(first_norm, "num_features", None) or first_norm.num_channels
    match spec.stem:
        case "imagenet":
            stem = nn.Conv2d(channels, width, 7, stride=2, padding=3, bias=False)
        case "strided":
            stem = nn.Conv2d(channels, width, 3, stride=2, padding=1, bias=False)
        case "small":
            stem = nn.Conv2d(channels, width, 3, stride=1, padding=1, bias=False)
            setattr(backbone, "maxpool", nn.Identity())  # noqa: B010  typed more narrowly there
    setattr(backbone, "conv1", stem)  # noqa: B010


def _reset_batch_norm(backbone: nn.Module) -> None:
    for layer in backbone.modules():
        if isinstance(layer, nn.BatchNorm2d):
            layer.reset_parameters()


def _build_vit(spec: EncoderSpec, image_size: int, channels: int) -> nn.Module:
    if spec.stem != "imagenet" or spec.width != 1.0 or spec.stage_blocks:
        raise UsageError(
            f"encoder.stem, width and stage_blocks need a plain ResNet, not '{spec.backbone}'; "
            "leave them at imagenet, 1 and []"
        )
    try:
        return build_moco_v3_vit(
            spec.backbone,
            image_size=image_size,
            channels=channels,
            freeze_patch_projection=spec.freeze_patch_projection,
        )
    except ValueError as error:
        raise UsageError(str(error)) from error


def drop_tokens(backbone: nn.Module, spec: EncoderSpec) -> None:
    """Let training forwards leave out the share of patches that the spec says.

    It is no part of `build_backbone`, since a backbone that was loaded or is fine-tuned sees all.

    Raises:
        UsageError: The backbone is none of MoCo v3's ViTs.
    """
    if not spec.token_drop:
        return
    if spec.backbone not in MOCO_V3_VITS:
        raise UsageError(
            f"encoder.token_drop needs a ViT of MoCo v3 ({', '.join(MOCO_V3_VITS)}), not "
            f"'{spec.backbone}'; set it to 0"
        )
    setattr(backbone, "patch_drop", TokenDrop(spec.token_drop))  # noqa: B010  typed more narrowly


def build_head(spec: EncoderSpec, features: int) -> nn.Module:
    """Return the projection head [N, D] -> [N, C]."""
    width = spec.head_width or features
    match spec.head:
        case "linear":
            return nn.Linear(features, spec.dim)
        case "mlp":
            return nn.Sequential(
                nn.Linear(features, width), nn.ReLU(inplace=True), nn.Linear(width, spec.dim)
            )
        case "mlp_bn":
            widths = [features, *[width] * (spec.head_layers - 1), spec.dim]
            return batch_norm_mlp(widths, last_batch_norm=True)


def build_predictor(spec: EncoderSpec, features: int) -> nn.Module | None:
    """Return what follows the head for queries alone, [N, C] -> [N, C], None for nothing (v3)."""
    if spec.predictor == "none":
        return None
    widths = [spec.dim, spec.head_width or features, spec.dim]
    return batch_norm_mlp(widths, last_batch_norm=spec.predictor == "mlp_bn")


def batch_norm_mlp(widths: Sequence[int], *, last_batch_norm: bool) -> nn.Sequential:
    """Return v3's MLP: layers without bias, batch norm and ReLU between, plain batch norm last."""
    layers: list[nn.Module] = []
    for place, (before, after) in enumerate(itertools.pairwise(widths)):
        layers.append(nn.Linear(before, after, bias=False))
        if place < len(widths) - 2:
            layers += [nn.BatchNorm1d(after), nn.ReLU(inplace=True)]
        elif last_batch_norm:  # it only centres and scales: what it would add, the loss undoes
            layers.append(nn.BatchNorm1d(after, affine=False))
    return nn.Sequential(*layers)


def parameter_count(module: nn.Module) -> int:
    """Return how many parameters `module` has."""
    return sum(math.prod(cast(Sequence[int], weight.shape)) for weight in module.parameters())
