"""Where other projects' files keep what an encoder is made of, as data."""

from __future__ import annotations

import re
from dataclasses import dataclass, replace
from typing import Literal

from moco.foreign.spellings import (
    DETECTRON2,
    MM_NECK,
    MM_VIT,
    NOTEBOOK,
    SEQUENTIAL,
    TORCHVISION_VIT,
    Fragments,
)
from moco.foreign.weights import Kind

PartName = Literal["backbone", "head", "key_backbone", "key_head", "predictor"]


@dataclass(frozen=True, kw_only=True)
class Layout:
    """Where a kind of file keeps what."""

    kind: Kind
    about: str
    parts: tuple[tuple[PartName, str], ...]
    """Each part's prefix; of several that fit a name, the longest one counts."""
    fragments: Fragments = ()
    """Of the backbones' names."""
    head_fragments: Fragments = ()
    queue: str = ""
    """The queue, [C, K]."""
    queue_next: str = ""
    ignorable: str = ""
    """Whole names of tensors that are of no use here, as a regular expression."""
    is_official: bool = False
    """Head and predictor must be the official ones. Others' are left out if they are not ours."""


MM_KEYS = ("encoder_k.module", "encoder_k", "momentum_encoder.module", "momentum_encoder")
CLASSIFIER = r"(fc|head|linear|classifier|head_dist|heads\.head)\.(weight|bias)"

OFFICIAL = Layout(
    kind="official-v2",
    about="an official checkpoint of MoCo v1 or v2",
    parts=(
        ("backbone", "encoder_q."),
        ("head", "encoder_q.fc."),
        ("key_backbone", "encoder_k."),
        ("key_head", "encoder_k.fc."),
    ),
    queue="queue",
    queue_next="queue_ptr",
    is_official=True,
)
OFFICIAL_V1 = replace(OFFICIAL, kind="official-v1", about="an official checkpoint of MoCo v1")
OFFICIAL_V2 = replace(OFFICIAL, about="an official checkpoint of MoCo v2")
OFFICIAL_V3 = Layout(
    kind="official-v3",
    about="an official checkpoint of MoCo v3",
    parts=(
        ("backbone", "base_encoder."),
        ("head", "base_encoder.fc."),
        ("head", "base_encoder.head."),
        ("key_backbone", "momentum_encoder."),
        ("key_head", "momentum_encoder.fc."),
        ("key_head", "momentum_encoder.head."),
        ("predictor", "predictor."),
    ),
    is_official=True,
)
OFFICIAL_CIFAR = Layout(
    kind="official-cifar",
    about="a checkpoint of the official CIFAR-10 notebook",
    parts=(
        ("backbone", "encoder_q.net."),
        ("head", "encoder_q.net.9."),
        ("key_backbone", "encoder_k.net."),
        ("key_head", "encoder_k.net.9."),
    ),
    fragments=NOTEBOOK,
    queue="queue",
    queue_next="queue_ptr",
    is_official=True,
)
OFFICIAL_DETECTION = Layout(
    kind="official-detection",
    about="a backbone for Detectron2, as the official conversion writes it",
    parts=(("backbone", ""),),
    fragments=DETECTRON2,
    ignorable=r"stem\.fc\.(\d\.)?(weight|bias)",
)
OFFICIAL_LINEAR = Layout(
    kind="official-linear",
    about="an official linear classifier on a frozen backbone",
    parts=(("backbone", ""),),
    ignorable=CLASSIFIER,
)
LIGHTLY = Layout(
    kind="lightly",
    about="a checkpoint of lightly",
    parts=(
        ("backbone", "backbone."),
        ("head", "projection_head.layers."),
        ("predictor", "prediction_head.layers."),
        *(("key_backbone", f"{name}.") for name in ("backbone_momentum", "key_backbone")),
        ("key_backbone", "momentum_backbone."),
        ("key_head", "projection_head_momentum.layers."),
        ("key_head", "key_projection_head.layers."),
        ("key_head", "momentum_projection_head.layers."),
    ),
    fragments=SEQUENTIAL,
    queue="criterion.memory_bank.bank",
    queue_next="criterion.memory_bank.bank_ptr",
    ignorable=rf"(backbone|backbone_momentum|key_backbone)\.{CLASSIFIER}|online_classifier\..+",
)
SOLO_LEARN = Layout(
    kind="solo-learn",
    about="a checkpoint of solo-learn",
    parts=(
        *(("backbone", f"{name}.") for name in ("backbone", "encoder")),
        ("head", "projector."),
        ("predictor", "predictor."),
        *(("key_backbone", f"momentum_{name}.") for name in ("backbone", "encoder")),
        ("key_head", "momentum_projector."),
    ),
    # it has a queue for each of the two views, which is another method
    ignorable=r"queue|queue_ptr|(momentum_)?classifier\..+",
)
MM = Layout(
    kind="mmselfsup",
    about="a checkpoint of MMSelfSup or MMPretrain",
    parts=(
        *(("backbone", name) for name in ("backbone.", "encoder_q.0.", "base_encoder.0.")),
        *(("head", name) for name in ("neck.", "encoder_q.1.", "base_encoder.1.")),
        *(("key_backbone", f"{name}.0.") for name in MM_KEYS),
        *(("key_head", f"{name}.1.") for name in MM_KEYS),
        ("predictor", "head.predictor."),
    ),
    fragments=MM_VIT,
    head_fragments=MM_NECK,
    queue="queue",
    queue_next="queue_ptr",
    ignorable=r"(encoder_k|momentum_encoder)\.steps|data_preprocessor\..+|head\.(fc|layers\.head)\..+",
)
MM_BARE = replace(
    MM, kind="mmpretrain", about="a checkpoint with a backbone, as MMPretrain and others name it"
)
MM_EXTRACTED = Layout(
    kind="mmpretrain",
    about="a backbone taken out of a checkpoint of MMSelfSup or MMPretrain",
    parts=(("backbone", ""),),
    fragments=MM_VIT,
)
VISSL = Layout(
    kind="vissl",
    about="a checkpoint of VISSL",
    parts=(
        *(("backbone", f"trunk.{inner}") for inner in ("", "_feature_blocks.")),
        ("head", "heads."),
        *(
            ("key_backbone", f"loss.moco_encoder.trunk.{inner}")
            for inner in ("", "_feature_blocks.")
        ),
        ("key_head", "loss.moco_encoder.heads."),
    ),
    head_fragments=(("^0.clf.", "^"), ("^1.clf.0.", "^2.")),
    queue="loss.queue",
    queue_next="loss.queue_ptr",
    ignorable=r"loss\.(?!moco_encoder|queue).+",
)
VISSL_TRUNK = replace(VISSL, parts=(("backbone", "_feature_blocks."),))
TORCHVISION = Layout(
    kind="torchvision",
    about="a ResNet as torchvision and timm name it",
    parts=(("backbone", ""),),
    ignorable=CLASSIFIER,
)
TORCHVISION_TRANSFORMER = Layout(
    kind="torchvision",
    about="a vision transformer of torchvision",
    parts=(("backbone", ""),),
    fragments=TORCHVISION_VIT,
    ignorable=CLASSIFIER,
)
TIMM = Layout(
    kind="timm",
    about="a backbone of timm",
    parts=(("backbone", ""),),
    ignorable=CLASSIFIER,
)
TORCHGEO = Layout(
    kind="torchgeo",
    about="a backbone of torchgeo, for images of a satellite",
    parts=(("backbone", ""),),
    ignorable=CLASSIFIER,
)
OWN = Layout(
    kind="moco",
    about="weights that moco import wrote",
    parts=(
        ("backbone", "backbone."),
        ("head", "head."),
        ("key_backbone", "key_backbone."),
        ("key_head", "key_head."),
        ("predictor", "predictor."),
    ),
    queue="queue",
    ignorable=r"optimizer\.\d+",
    is_official=True,
)

MARKS: tuple[tuple[tuple[str, ...], Layout], ...] = (
    (("encoder_q.0.", "base_encoder.0."), MM),
    (("encoder_q.net.",), OFFICIAL_CIFAR),
    (("encoder_q.fc.weight",), OFFICIAL_V1),
    (("encoder_q.fc.",), OFFICIAL_V2),
    (("encoder_q.",), OFFICIAL),
    (("base_encoder.",), OFFICIAL_V3),
    (("projection_head.", "backbone_momentum.", "key_backbone.", "backbone.0."), LIGHTLY),
    (("projector.", "momentum_projector.", "momentum_backbone."), SOLO_LEARN),
    (("neck.", "encoder_k.", "momentum_encoder."), MM),
    (("trunk.",), VISSL),
    (("_feature_blocks.",), VISSL_TRUNK),
    (("backbone.",), MM_BARE),
    (("stem.conv1.", "res2."), OFFICIAL_DETECTION),
    (("layers.0.ln1.",), MM_EXTRACTED),
    (("encoder.layers.encoder_layer_0.",), TORCHVISION_TRANSFORMER),
    (("blocks.0.", "cls_token"), TIMM),
    (("layer1.0.",), TORCHVISION),
    ((), OFFICIAL_LINEAR),
    ((), TORCHGEO),
)
"""Which names' beginnings show which layout; the first that fits counts."""


def part_of(name: str, layout: Layout) -> tuple[PartName, str, str] | None:
    """Return which part a name belongs to, its prefix and what it is called behind that."""
    fitting = [(part, prefix) for part, prefix in layout.parts if name.startswith(prefix)]
    if not fitting:
        return None
    part, prefix = max(fitting, key=lambda pair: len(pair[1]))
    return part, prefix, name[len(prefix) :]


def is_ignorable(name: str, layout: Layout) -> bool:
    """Say whether a tensor is known to be of no use here."""
    return bool(layout.ignorable) and re.fullmatch(layout.ignorable, name) is not None
