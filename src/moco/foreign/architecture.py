"""Which network a file's tensors are of, by their names and shapes.

A guess that `reading` then checks tensor by tensor against the network itself. Most of the tensors
decide, so that one that is missing or misnamed is told by its name.
"""

from __future__ import annotations

import math
import re
from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import replace
from typing import Literal

import torch
from torch import Tensor

from moco.errors import UsageError
from moco.specs import EncoderSpec, Stem
from moco.vision_transformer import MOCO_V3_VITS, PATCH_SIZE, sin_cos_positions

RESNETS: dict[tuple[bool, tuple[int, ...]], str] = {
    (False, (2, 2, 2, 2)): "resnet18",
    (False, (3, 4, 6, 3)): "resnet34",
    (True, (3, 4, 6, 3)): "resnet50",
    (True, (3, 4, 23, 3)): "resnet101",
    (True, (3, 8, 36, 3)): "resnet152",
}
"""By whether a block has three convolutions, and how many blocks the stages have."""
GROUPED: dict[tuple[str, int, int], str] = {
    ("resnet50", 1, 128): "wide_resnet50_2",
    ("resnet101", 1, 128): "wide_resnet101_2",
    ("resnet50", 32, 128): "resnext50_32x4d",
    ("resnet50", 32, 256): "resnext50_32x8d",
    ("resnet101", 32, 256): "resnext101_32x8d",
    ("resnet101", 64, 256): "resnext101_64x4d",
}
"""By the plain ResNet, and the groups and channels of the first stage's 3x3 convolution."""
TIMM_VITS = {
    192: "vit_tiny_patch16_224",
    384: "vit_small_patch16_224",
    768: "vit_base_patch16_224",
    1024: "vit_large_patch16_224",
}
"""By width; of 12 blocks (24 for the last), patches of 16 pixels."""
SURE_WIDTH = 768
"""Here timm and MoCo v3 have 12 heads both; at 384 timm has 6, with weights of the same shapes."""


def is_transformer(names: Iterable[str]) -> bool:
    """Say whether our names are a vision transformer's."""
    return any(name.startswith(("blocks.", "cls_token", "pos_embed")) for name in names)


def find_resnet(tensors: Mapping[str, Tensor], stem: Stem | None) -> EncoderSpec:
    """Return the ResNet that has most of these tensors.

    Args:
        stem: of a first convolution of 3x3; the shapes do not tell its stride.

    Raises:
        UsageError: The stem is not told.
    """
    shapes = {name: tuple(value.shape) for name, value in tensors.items()}
    # as many as there are, whatever their numbers: one of number 999 must not make 1,000
    blocks = {place[0] for name in shapes if (place := re.match(r"layer[1-4]\.\d+\.", name))}
    stages = Counter(int(block[len("layer")]) for block in blocks)
    counts = tuple(stages[stage] for stage in (1, 2, 3, 4))
    is_deep = any(name.endswith(".conv3.weight") for name in shapes)
    width = _commonest(
        shapes[name][0] / 2.0 ** (int(name[5]) - 1) / (256 if is_deep else 64)
        for name in shapes
        if re.fullmatch(rf"layer[1-4]\.\d+\.conv{3 if is_deep else 2}\.weight", name)
        and shapes[name]
    )
    plain = RESNETS.get((is_deep, counts), "resnet50" if is_deep else "resnet18")
    spec = EncoderSpec(
        backbone=_grouped(shapes, plain) if is_deep else plain,
        width=width or 1.0,
        stage_blocks=() if (is_deep, counts) in RESNETS or 0 in counts else counts,
    )
    if (
        _commonest(shapes[name][-1] for name in shapes if name == "conv1.weight" and shapes[name])
        != 3
    ):
        return spec
    if stem is None:
        raise UsageError(
            "its first convolution is 3x3, whose stride no shape tells; tell by moco import "
            "--stem small (stride 1, no max-pool) or --stem strided, and --out keeps it"
        )
    return replace(spec, stem=stem)


def _grouped(shapes: Mapping[str, tuple[int, ...]], plain: str) -> str:
    """Return the name that tells the groups and inner channels of the 3x3 convolutions."""
    inner = Counter(
        (shape[0] // shape[1], shape[0] / 2.0 ** (int(name[5]) - 1))
        for name, shape in shapes.items()
        if re.fullmatch(r"layer[1-4]\.\d+\.conv2\.weight", name) and len(shape) == 4 and shape[1]
    )
    outputs = _commonest(
        shape[0] / 2.0 ** (int(name[5]) - 1)
        for name, shape in shapes.items()
        if re.fullmatch(r"layer[1-4]\.\d+\.conv3\.weight", name) and shape
    )
    if not inner or not outputs:
        return plain
    (groups, channels), _ = inner.most_common(1)[0]
    return GROUPED.get((plain, groups, round(channels * 256 / outputs)), plain)


def side_of(tensors: Mapping[str, Tensor]) -> int:
    """Return how large a vision transformer's images are, in pixels."""
    positions = tensors.get("pos_embed")
    patches = positions.shape[1] - 1 if positions is not None and positions.ndim == 3 else 196
    return PATCH_SIZE * math.isqrt(max(patches, 1))


def find_transformer(tensors: Mapping[str, Tensor], heads: Literal["moco", "timm", ""]) -> str:
    """Return the name of the vision transformer that has most of these tensors.

    Args:
        heads: whose number of heads a width of 384 has, where the layout tells.

    Raises:
        UsageError: Several are possible, that give different features.
    """
    shapes = {name: tuple(value.shape) for name, value in tensors.items()}
    width = int(
        _commonest(
            shape[0]
            for name, shape in shapes.items()
            if re.search(r"\.norm[12]\.", name) and len(shape) == 1
        )
    )
    depth = len({name.split(".")[1] for name in shapes if name.startswith("blocks.")})
    has_stem = any(name.startswith("patch_embed.proj.0.") for name in shapes)
    moco = _moco_vit(width, depth, has_stem)
    timm = TIMM_VITS.get(width) if depth == (24 if width == 1024 else 12) and not has_stem else None
    if moco and (heads == "moco" or has_stem):
        return moco
    if moco and timm and width == SURE_WIDTH:  # the same network; training moves timm's positions
        return moco if has_fixed_positions(tensors) else timm
    if timm and (heads == "timm" or width > SURE_WIDTH):
        return timm
    names = [name for name in (moco, timm) if name]
    if moco and timm:
        raise UsageError(
            f"a vision transformer of width {width} has 12 heads in MoCo v3, and 6 in timm and "
            f"SSL4EO-S12, with weights of the same shapes; tell by moco import --backbone {moco} "
            f"or --backbone {timm}, and --out keeps it"
        )
    hint = " or ".join(f"--backbone {name}" for name in names) or "--backbone NAME, as timm has it"
    raise UsageError(
        f"a vision transformer of width {width} and {depth} blocks may have any number of heads; "
        f"tell by moco import {hint}, and --out keeps it"
    )


def _moco_vit(width: int, depth: int, has_stem: bool) -> str | None:  # noqa: FBT001
    for name, shape in MOCO_V3_VITS.items():
        if (shape.width, shape.depth, shape.stem == "conv") == (width, depth, has_stem):
            return name
    return None


def has_fixed_positions(tensors: Mapping[str, Tensor]) -> bool:
    """Say whether the positions are MoCo v3's fixed table."""
    positions = tensors.get("pos_embed")
    if positions is None or positions.ndim != 3 or positions.shape[2] % 4:
        return False
    side = round((positions.shape[1] - 1) ** 0.5)
    if side < 1 or side**2 != positions.shape[1] - 1:
        return False
    table = sin_cos_positions(side, side, positions.shape[2])
    return torch.allclose(positions.float(), table, atol=1e-4)


def _commonest(figures: Iterable[float]) -> float:
    """Return the figure that occurs most often, 0 where there is none."""
    found = Counter(figures).most_common(1)
    return found[0][0] if found else 0
