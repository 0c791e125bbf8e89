"""`--to detectron2`: the pickle that Detectron2's MODEL.WEIGHTS takes, as the official script's."""

from __future__ import annotations

from pathlib import Path
from typing import cast

import torch
from torch import Tensor, nn

from moco.export.check import (
    Check,
    WrongExportError,
    compare_features,
    compare_names,
    forward_of,
    without_library,
)
from moco.export.detectron2_names import NamedResNet, detectron2_names, expected_shapes
from moco.export.formats import Format
from moco.export.pickles import as_arrays, plain_pickle
from moco.export.resnet_shape import ResNetShape, resnet_shape
from moco.export.source import ExportSource

FILE = "backbone.pkl"
BY = "Detectron2"
DEPTHS: dict[tuple[str, tuple[int, ...]], int] = {
    ("basic", (2, 2, 2, 2)): 18,
    ("basic", (3, 4, 6, 3)): 34,
    ("bottleneck", (3, 4, 6, 3)): 50,
    ("bottleneck", (3, 4, 23, 3)): 101,
    ("bottleneck", (3, 8, 36, 3)): 152,
}
"""What libraries of detectors call them."""


def depth_of(shape: ResNetShape) -> int:
    """Return how many layers a ResNet counts, 0 where libraries have none of its blocks."""
    return DEPTHS.get((shape.block, shape.blocks), 0)


def refusal(source: ExportSource) -> str:
    """Say why Detectron2 has no such network, "" where it has."""
    shape = resnet_shape(source.backbone)
    if shape is None or not depth_of(shape):
        return f"Detectron2's ResNets are not built as '{source.encoder.backbone}' is here"
    if shape.stem != "imagenet" or shape.channels != 3:
        return "Detectron2's ResNets begin with a 7x7 convolution of three colours"
    if shape.block == "basic" and not shape.has_paper_widths:
        return "Detectron2's ResNet-18 and 34 have one width"
    return ""


def write(source: ExportSource, folder: Path) -> None:
    """Write the pickle: names without a prefix, which Detectron2 matches by their ends."""
    (folder / FILE).write_bytes(_content(detectron2_names(source.state)))


def _content(state: dict[str, Tensor]) -> bytes:
    model = as_arrays(state)
    return plain_pickle({"model": model, "__author__": "MOCO", "matching_heuristics": True})


def check(source: ExportSource, folder: Path) -> Check:
    """Compare what is written with Detectron2's names, and features in a network of these names.

    Nothing here unpickles: the file must have the bytes that these tensors give once more.
    """
    shape = cast(ResNetShape, resnet_shape(source.backbone))
    written = detectron2_names(source.state)
    shapes = {name: tuple(value.shape) for name, value in written.items()}
    if (folder / FILE).read_bytes() != _content(written):
        raise WrongExportError(f"{FILE} is not what was to be written; nothing is kept of it")
    names = compare_names(shapes, expected_shapes(shape), BY)
    with torch.random.fork_rng(devices=[]):
        network: nn.Module = NamedResNet(shape)
    network.load_state_dict(written)
    return without_library(names, compare_features(source, forward_of(network), BY))


def snippet(source: ExportSource) -> str:
    """Return Python that sets Detectron2 up; it trains with the same batch norm as the backbone."""
    shape = cast(ResNetShape, resnet_shape(source.backbone))
    mean, std = ([255 * value for value in of] for of in (source.views.mean, source.views.std))
    lines = [
        "from detectron2 import model_zoo",
        "",
        'base = "COCO-Detection/faster_rcnn_R_50_FPN_1x.yaml"',
        "cfg = model_zoo.get_config(base, trained=False)",
        f'cfg.MODEL.WEIGHTS = "{FILE}"',
        f"cfg.MODEL.RESNETS.DEPTH = {depth_of(shape)}",
        "cfg.MODEL.RESNETS.STRIDE_IN_1X1 = False",
        'cfg.MODEL.RESNETS.NORM = cfg.MODEL.FPN.NORM = "SyncBN"',
        "cfg.MODEL.BACKBONE.FREEZE_AT = 0",
        'cfg.INPUT.FORMAT = "RGB"',
        f"cfg.MODEL.PIXEL_MEAN = {[round(value, 6) for value in mean]}",
        f"cfg.MODEL.PIXEL_STD = {[round(value, 6) for value in std]}",
    ]
    width = shape.group_width * shape.widths[0] // 64
    if (shape.groups, width) != (1, 64):
        lines += [
            f"cfg.MODEL.RESNETS.NUM_GROUPS = {shape.groups}",
            f"cfg.MODEL.RESNETS.WIDTH_PER_GROUP = {width}",
        ]
    if not shape.has_paper_widths:
        lines += [
            f"cfg.MODEL.RESNETS.STEM_OUT_CHANNELS = {shape.stem_width}",
            f"cfg.MODEL.RESNETS.RES2_OUT_CHANNELS = {shape.outputs[0]}",
        ]
    if shape.block == "basic":
        lines.append("cfg.MODEL.RESNETS.RES2_OUT_CHANNELS = 64")
    return "\n".join(lines)


DETECTRON2 = Format("detectron2", "detectron2", refusal, write, check, snippet)
