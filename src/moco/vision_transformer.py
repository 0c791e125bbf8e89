"""The vision transformers of MoCo v3 (arXiv:2104.02057): timm's layers, and timm's state names.

MoCo v3's own are the 12 heads at every width, the fixed table of positions, how weights start, the
frozen patch projection (section 4.2) and the convolutional stem.

Letters: N images, P patches, D width.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import partial
from typing import Literal, cast

import torch
from timm.layers.patch_embed import PatchEmbed
from timm.models.vision_transformer import VisionTransformer
from torch import Tensor, nn

from moco.errors import UsageError

PATCH_SIZE = 16


@dataclass(frozen=True, kw_only=True)
class VisionTransformerShape:
    """What tells the vision transformers apart; patches are 16 pixels, the MLP is 4 D wide."""

    width: int
    """D, channels of a token and of the features."""
    depth: int
    """How many transformer blocks."""
    attention_heads: int
    """Heads of each block; the parameters have the same shapes for any number."""
    stem: Literal["patch", "conv"]
    """patch: one layer projects each patch; conv: five convolutions, see `ConvStem`."""


MOCO_V3_VITS: dict[str, VisionTransformerShape] = {
    "moco_v3_vit_small": VisionTransformerShape(
        width=384, depth=12, attention_heads=12, stem="patch"
    ),
    "moco_v3_vit_base": VisionTransformerShape(
        width=768, depth=12, attention_heads=12, stem="patch"
    ),
    # the stem costs about as much as the block that is left out
    "moco_v3_vit_conv_small": VisionTransformerShape(
        width=384, depth=11, attention_heads=12, stem="conv"
    ),
    "moco_v3_vit_conv_base": VisionTransformerShape(
        width=768, depth=11, attention_heads=12, stem="conv"
    ),
}


def build_moco_v3_vit(
    name: str,
    *,
    image_size: int = 224,
    channels: int = 3,
    freeze_patch_projection: bool = False,
) -> nn.Module:
    """Return a randomly initialised vision transformer, [N, channels, H, W] -> [N, D].

    The features are the class token after the final norm. Weights come from torch's global random
    state and load into timm's model of the same width, depth and heads. timm's ViT-S has 6 heads:
    there `num_heads=12` must be given, or the same weights give other features without an error.

    Args:
        name: One of `MOCO_V3_VITS`.
        image_size: H and W in pixels, a multiple of 16.
        channels: Of the images.
        freeze_patch_projection: Keep the patch projection, weight and bias, as it starts; MoCo v3
            trains more steadily so. It has no effect on the convolutional stem.

    Raises:
        UsageError: No vision transformer has this name, or the image does not split into patches.
    """
    if name not in MOCO_V3_VITS:
        raise UsageError(
            f"MoCo v3 has no vision transformer '{name}'; take one of {', '.join(MOCO_V3_VITS)}"
        )
    _check_image_size(image_size)
    shape = MOCO_V3_VITS[name]
    transformer = VisionTransformer(
        img_size=image_size,
        patch_size=PATCH_SIZE,
        in_chans=channels,
        num_classes=0,
        global_pool="token",
        embed_dim=shape.width,
        depth=shape.depth,
        num_heads=shape.attention_heads,
        mlp_ratio=4.0,
        qkv_bias=True,
        norm_layer=partial(nn.LayerNorm, eps=1e-6),
        weight_init="skip",
    )
    _initialise_tokens(transformer)
    _initialise_blocks(transformer.blocks)
    if shape.stem == "conv":
        transformer.patch_embed = ConvStem(image_size, channels, shape.width)
    else:
        projection = transformer.patch_embed.proj
        _set_xavier_uniform(projection, channels * PATCH_SIZE**2, shape.width)
        projection.requires_grad_(not freeze_patch_projection)
    return transformer


class TokenDrop(nn.Module):
    """Class token and patches [N, 1 + P, D] to those that training sees; evaluation sees all.

    Which are left out is drawn for each image at each forward, so queries and keys are of different
    patches. Draws come from the device's random state, which checkpoints hold.

    Args:
        share: of the patches that is left out, from 0 to below 1; one patch always stays.
    """

    def __init__(self, share: float) -> None:
        super().__init__()
        self.share = share

    def kept(self, patches: int) -> int:
        """Return how many of so many patches stay in training."""
        return max(1, patches - round(self.share * patches))

    def forward(self, tokens: Tensor) -> Tensor:
        if not self.training:
            return tokens
        images, count, width = tokens.shape
        draws = torch.rand(images, count - 1, device=tokens.device)
        places = 1 + draws.argsort(dim=1)[:, : self.kept(count - 1)]  # [N, kept]
        patches = tokens.gather(1, places[:, :, None].expand(-1, -1, width))
        return torch.cat([tokens[:, :1], patches], dim=1)


class ConvStem(PatchEmbed):
    """Image [N, channels, H, W] to patch tokens [N, P, D] by convolutions (arXiv:2106.14881).

    Four of 3x3 and stride 2, each with batch norm and ReLU, halve the image to patches of 16 pixels
    while the channels double up to D; one of 1x1 follows. All start as PyTorch's own.
    """

    def __init__(self, image_size: int, channels: int, width: int) -> None:
        super().__init__(
            img_size=image_size, patch_size=PATCH_SIZE, in_chans=channels, embed_dim=width
        )
        layers: list[nn.Module] = []
        for outputs in (width // 8, width // 4, width // 2, width):
            layers += [
                nn.Conv2d(channels, outputs, 3, stride=2, padding=1, bias=False),
                nn.BatchNorm2d(outputs),
                nn.ReLU(inplace=True),
            ]
            channels = outputs
        layers.append(nn.Conv2d(width, width, 1))
        setattr(self, "proj", nn.Sequential(*layers))  # noqa: B010  typed more narrowly there


def sin_cos_positions(rows: int, columns: int, width: int) -> Tensor:
    """Return the fixed position of the class token and each patch, [1, 1 + rows * columns, width].

    Patches go row by row. A patch at row r and column c has [sin(r w), cos(r w), sin(c w),
    cos(c w)], each for the width / 4 frequencies w from 1 down towards 1 / 10000; the class token
    has 0.

    Raises:
        UsageError: The width does not split into these four parts.
    """
    if width % 4:
        raise UsageError(
            f"width must be a multiple of 4 to hold positions, got {width}; "
            f"take {width // 4 * 4 + 4}"
        )
    # float64 so that every entry is exact to float32; the CPU, since not every device has it
    steps = torch.arange(width // 4, dtype=torch.float64, device="cpu")
    frequencies = 10000.0 ** (-steps / (width // 4))  # [D/4]
    patches = torch.arange(rows * columns, device="cpu")
    row_angles = patches.div(columns, rounding_mode="floor")[:, None] * frequencies  # [P, D/4]
    column_angles = patches.remainder(columns)[:, None] * frequencies  # [P, D/4]
    parts = [row_angles.sin(), row_angles.cos(), column_angles.sin(), column_angles.cos()]
    patch_positions = torch.cat(parts, dim=1)  # [P, D]
    class_position = patch_positions.new_zeros(1, width)
    return torch.cat([class_position, patch_positions])[None].float()


def _check_image_size(image_size: int) -> None:
    if image_size < PATCH_SIZE or image_size % PATCH_SIZE:
        near = max(image_size // PATCH_SIZE, 1) * PATCH_SIZE
        raise UsageError(
            f"image_size must be a multiple of the patch size {PATCH_SIZE}, got {image_size}; "
            f"take {near} or {near + PATCH_SIZE}"
        )


def _initialise_tokens(transformer: VisionTransformer) -> None:
    """Draw the class token; fill in the positions, for good."""
    nn.init.normal_(cast(Tensor, transformer.cls_token), std=1e-6)
    rows, columns = transformer.patch_embed.grid_size
    positions = sin_cos_positions(rows, columns, transformer.embed_dim)
    cast(Tensor, transformer.pos_embed).requires_grad_(False).copy_(positions)


def _initialise_blocks(blocks: nn.Module) -> None:
    """Draw every linear layer; layer norms already start as they should."""
    for name, layer in blocks.named_modules():
        if isinstance(layer, nn.Linear):
            # one layer of three: queries, keys and values start as if each had its own
            outputs = layer.out_features // (3 if name.endswith("qkv") else 1)
            _set_xavier_uniform(layer, layer.in_features, outputs)


def _set_xavier_uniform(layer: nn.Linear | nn.Conv2d, inputs: int, outputs: int) -> None:
    bound = math.sqrt(6 / (inputs + outputs))
    nn.init.uniform_(layer.weight, -bound, bound)
    if layer.bias is not None:
        nn.init.zeros_(layer.bias)
