"""How a whole network is fine-tuned, as data; no torch in here."""

from __future__ import annotations

import difflib
import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields, replace
from typing import Any

from moco.errors import UsageError
from moco.specs import Operation, ViewsSpec, require

TURNS: tuple[Operation, ...] = ("crop", "horizontal_flip", "vertical_flip", "quarter_turns")
"""What stays of a run's views: where a crop lies and how it is turned. That colours may change says
nothing of what they mean to the classes."""


@dataclass(frozen=True, kw_only=True)
class FinetuneSpec:
    """AdamW on every weight, deeper layers faster, a warm-up and a cosine, kept by validation."""

    source: str
    """Where the figures come from."""
    epochs: int = 50
    """Passes over the train images, unless they are so few that `fewest_steps` asks for more."""
    fewest_steps: int = 400
    """With a handful of images an epoch is a step or two, and 50 of them no training."""
    batch_size: int = 64
    learning_rate: float = 1e-3
    """Of the classifier, literal: no code scales it with the batch."""
    layer_decay: float = 0.75
    """Each group of layers nearer to the pixels learns so much slower; 1 for all alike."""
    weight_decay: float = 0.05
    """On weights, not on biases, norms, class tokens and positions."""
    warmup_epochs: float = 5.0
    """At the beginning the classifier is random and its gradients would spoil what is there."""
    label_smoothing: float = 0.1
    """Share of the target that goes to all classes alike."""
    crop_scale: tuple[float, float] | None = None
    """Shares of the area that a crop takes; None for the run's own."""
    mixup: float = 0.0
    """Both parameters of the Beta distribution that mixes two images (arXiv:1710.09412)."""
    cutmix: float = 0.0
    """The same for a box of another image (arXiv:1905.04899); with both, each half of the time."""
    erase: float = 0.0
    """How often a box becomes noise (arXiv:1708.04896)."""
    drop_path: float = 0.0
    """How often the last block's branches are left out, earlier ones less (arXiv:1603.09382)."""
    validation_share: float = 0.2
    """Of each class's train images, to keep the best epoch by; 0 keeps the last epoch."""
    patience: int = 15
    """Epochs without a better one after which it stops; 0 for never."""
    not_stated: tuple[str, ...] = ()
    """What the source leaves open, and what is done here."""

    def __post_init__(self) -> None:
        for name in ("epochs", "batch_size"):
            require(getattr(self, name) >= 1, f"{name} must be from 1, got {getattr(self, name)}")
        for name in ("fewest_steps", "weight_decay", "warmup_epochs", "mixup", "cutmix"):
            require(0 <= getattr(self, name) < math.inf, f"{name} must be from 0")
        for name in ("label_smoothing", "drop_path", "validation_share"):
            share = getattr(self, name)
            require(0 <= share < 1, f"{name} must be from 0 to below 1, got {share:g}")
        require(0 <= self.erase <= 1, f"erase must be 0 to 1, got {self.erase:g}")
        require(self.patience >= 0, f"patience must be from 0, got {self.patience}")
        rate = self.learning_rate
        require(0 < rate < math.inf, f"learning_rate must be a number above 0, got {rate:g}")
        decay = self.layer_decay
        require(0 < decay <= 1, f"layer_decay must be above 0 and up to 1, got {decay:g}")

    def train_views(self, views: ViewsSpec) -> ViewsSpec:
        """Return the run's views without what changes colours."""
        order = tuple(operation for operation in views.order if operation in TURNS)
        return replace(views, order=order, crop_scale=self.crop_scale or views.crop_scale)

    def all_epochs(self, steps_per_epoch: int) -> int:
        """Return the epochs of a training of so many steps each."""
        return max(self.epochs, math.ceil(self.fewest_steps / steps_per_epoch))


FINETUNE = FinetuneSpec(
    source="AdamW, layer-wise decay 0.75, weight decay 0.05, 5 epochs of warm-up, cosine and label "
    "smoothing 0.1 as MAE fine-tunes (arXiv:2111.06377, table 9); its rate of 5e-4 a batch of 256 "
    "is for large batches and ViTs: 1e-3 at 64 is what the small recipe pre-trains with",
)
"""The default, for ResNets and ViTs of a run."""
FROM_SCRATCH = replace(FINETUNE, layer_decay=1.0)
"""The default for random weights: no layer knows anything that a lower rate would keep."""

FINETUNE_VIT_V3 = FinetuneSpec(
    source="MoCo v3 (arXiv:2104.02057), official code: DeiT's code and defaults, ViT-B 150 epochs",
    epochs=150,
    fewest_steps=0,
    batch_size=1024,
    learning_rate=1e-3,
    layer_decay=1.0,
    weight_decay=0.05,
    warmup_epochs=5.0,
    label_smoothing=0.1,
    crop_scale=(0.08, 1.0),
    mixup=0.8,
    cutmix=1.0,
    erase=0.25,
    drop_path=0.1,
    validation_share=0.0,
    patience=0,
    not_stated=(
        "epochs of ViT-S: 150, as ViT-B's",
        "DeiT's defaults are not in the paper: taken from its code",
        "RandAugment and repeated augmentation, DeiT defaults on ImageNet: left out",
        "the cosine ends at 0, not at DeiT's 1e-5",
    ),
)
"""ImageNet."""
_TRANSFER = replace(
    FINETUNE_VIT_V3,
    source="MoCo v3, official code: ViT-B transfer with DeiT's code",
    epochs=100,
    learning_rate=6e-4,
    warmup_epochs=3.0,
    crop_scale=(0.05, 1.0),
    not_stated=(
        "the rate of 3e-4 is a batch of 512's, as DeiT's code scales it: 6e-4 at 1024",
        "label smoothing: 0.1, DeiT's default",
        "RandAugment: left out",
        "the cosine ends at 0, not at DeiT's 1e-5",
    ),
)
VIT_V3_TRANSFER: dict[str, FinetuneSpec] = {
    "cifar10": replace(
        _TRANSFER, weight_decay=0.1, erase=0.0, drop_path=0.1, mixup=0.8, cutmix=1.0
    ),
    "cifar100": replace(
        _TRANSFER, weight_decay=0.1, erase=0.0, drop_path=0.1, mixup=0.5, cutmix=1.0
    ),
    "flowers": replace(
        _TRANSFER, weight_decay=0.3, erase=0.25, drop_path=0.1, mixup=0.0, cutmix=0.0
    ),
    "pets": replace(_TRANSFER, weight_decay=0.1, erase=0.0, drop_path=0.0, mixup=0.8, cutmix=0.0),
}
"""Rows of the transfer table, by data set."""

FINETUNE_SPECS: Mapping[str, FinetuneSpec] = {
    "default": FINETUNE,
    "vit-v3": FINETUNE_VIT_V3,
    **{f"vit-v3-{name}": spec for name, spec in VIT_V3_TRANSFER.items()},
}
"""By the names that the command has for them."""


def with_settings(spec: FinetuneSpec, settings: Sequence[str]) -> FinetuneSpec:
    """Return the spec with `field=value` changes.

    Raises:
        UsageError: An unknown field (the nearest is named), or a value that it does not take.
    """
    return replace(spec, **dict(_read(spec, setting) for setting in settings))


def _read(spec: FinetuneSpec, setting: str) -> tuple[str, Any]:
    name, equals, text = setting.partition("=")
    known = [of.name for of in fields(FinetuneSpec) if of.name not in ("source", "not_stated")]
    if not equals or name not in known:
        near = difflib.get_close_matches(name, known, n=1) or [", ".join(known)]
        raise UsageError(f"--set {setting}: write it as field=value; fields are {near[0]}")
    try:
        value = json.loads(text)
    except ValueError:
        value = None
    wanted, kind = "a whole number", type(getattr(spec, name))
    if name == "crop_scale":
        wanted, kind = "two shares such as [0.2, 1.0]", tuple
        value = tuple(value) if isinstance(value, list) and len(value) == 2 else None
    elif kind is float:
        wanted = "a number"
        value = float(value) if type(value) is int else value
    if type(value) is not kind:
        raise UsageError(f"--set {setting}: {name} must be {wanted}")
    return name, value
