"""Recipes: what makes a method, as data. Read one as a row of the papers' tables; no torch in here.

To add a recipe, write one more value at the end of this file and name it in `RECIPES`.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field, replace

from moco.schedules import cosine
from moco.specs import (
    DictionarySpec,
    EncoderSpec,
    KeyMomentumSchedule,
    Mechanism,
    OptimizerSpec,
    ViewsSpec,
    require,
)


@dataclass(frozen=True, kw_only=True)
class Recipe:
    """What makes a method: read it as a row of the paper's table."""

    name: str
    """What it is called on the command line."""
    source: str
    """Where its figures come from."""
    encoder: EncoderSpec = field(default_factory=EncoderSpec)
    """The network."""
    mechanism: Mechanism = "queue"
    """Where keys come from, and which of them are the dictionary. queue: from a momentum encoder,
    the newest (v1, v2); in_batch: from a momentum encoder, the batch's (v3); end_to_end: from the
    encoder itself, with gradient, the batch's; memory_bank: one stored vector an image."""
    dictionary: DictionarySpec = field(default_factory=DictionarySpec)
    """What queries are compared with."""
    views: ViewsSpec = field(default_factory=ViewsSpec)
    """How views are made."""
    optimizer: OptimizerSpec = field(default_factory=OptimizerSpec)
    """How weights move."""
    temperature: float = 0.07
    """tau of Eq. 1."""
    last_temperature: float = 0.0
    """The temperature at the end, reached on a half cosine, every step; 0: it does not move."""
    key_momentum: float = 0.999
    """m of Eq. 2: share of the old key weights that is kept, 0 to 1."""
    key_momentum_schedule: KeyMomentumSchedule = "constant"
    """cosine: from key_momentum to 1 on a half cosine, every step (v3)."""
    symmetric: bool = False
    """Contrast each view with the other's keys and add the two losses."""
    loss_scale: float = 1.0
    """Multiplies the loss; v3 has twice its temperature here, which follows no change of that."""
    batch_norm_groups: int = 8
    """Slices of the batch that batch norm normalizes alone: v1's and v2's 8 devices; 1: the whole
    batch, whatever the processes (v3). Of no effect on a network without batch norm."""
    epochs: int = 200
    """Passes over the images."""
    batch_size: int = 256
    """Images per optimizer step, all processes together; never rewritten."""

    def __post_init__(self) -> None:
        require(
            1e-4 <= self.temperature < float("inf"),
            f"temperature must be from 0.0001, got {self.temperature:g}",
        )
        require(
            0 <= self.key_momentum <= 1, f"key_momentum must be 0 to 1, got {self.key_momentum:g}"
        )
        require(self.epochs >= 1, f"epochs must be at least 1, got {self.epochs}")
        require(self.batch_size >= 2, f"batch_size must be at least 2, got {self.batch_size}")
        require(
            0 <= self.last_temperature < float("inf"),
            f"last_temperature must be from 0, got {self.last_temperature:g}",
        )
        require(
            0 < self.loss_scale < float("inf"),
            f"loss_scale must be above 0, got {self.loss_scale:g}",
        )
        require(
            self.mechanism != "queue" or self.dictionary.size >= self.batch_size,
            f"queue size {self.dictionary.size} is smaller than the batch {self.batch_size}; "
            "raise dictionary.size or lower batch_size",
        )
        groups = self.batch_norm_groups
        require(
            groups >= 1 and self.batch_size % groups == 0 and self.batch_size // groups >= 2,
            f"batch_size {self.batch_size} does not split into batch_norm_groups {groups} "
            "slices of 2 images or more; change one of them",
        )
        warmup, epochs = self.optimizer.warmup_epochs, self.epochs
        require(
            self.optimizer.schedule != "warmup_cosine" or warmup < epochs,
            f"optimizer.warmup_epochs {warmup:g} leaves nothing of epochs {epochs}; lower it",
        )

    @property
    def candidates(self) -> int:
        """Among how many keys a query is to find its own."""
        if self.mechanism in ("in_batch", "end_to_end"):
            return self.batch_size
        return self.dictionary.size + 1

    @property
    def chance_loss(self) -> float:
        """The loss of queries that tell no key from another."""
        return self.loss_scale * (2 if self.symmetric else 1) * math.log(self.candidates)

    @property
    def shuffles_keys(self) -> bool:
        """Whether a batch norm sees keys beside other images than their queries (section 3.3)."""
        return self.mechanism != "memory_bank" and self.batch_norm_groups > 1

    @property
    def may_leak(self) -> bool:
        """Whether one batch norm sees keys as it saw their queries; v3 has a predictor between."""
        shared = self.mechanism != "memory_bank" and self.batch_norm_groups == 1
        return shared and self.encoder.predictor == "none"

    @property
    def dictionary_in_words(self) -> str:
        """What queries are compared with, for people."""
        match self.mechanism:
            case "queue":
                return f"queue of {self.dictionary.size:,} keys"
            case "in_batch" | "end_to_end":
                return f"{self.batch_size:,} keys of the batch"
            case "memory_bank":
                return f"{self.dictionary.size:,} keys drawn from a memory bank"

    def learning_rate(self, step: int, steps_per_epoch: int) -> float:
        """Return the learning rate of a step, counted from 0 over the whole run."""
        return self.optimizer.rate(step, steps_per_epoch, self.epochs)

    def key_momentum_at(self, step: int, steps_per_epoch: int) -> float:
        """Return m of Eq. 2 for a step counted from 0; v3 raises it to 1 (section 4.1)."""
        if self.key_momentum_schedule == "constant":
            return self.key_momentum
        return 1.0 - cosine(1.0 - self.key_momentum, step / steps_per_epoch, self.epochs)

    def temperature_at(self, step: int, steps_per_epoch: int) -> float:
        """Return tau of Eq. 1 for a step counted from 0."""
        if not self.last_temperature:
            return self.temperature
        return self.last_temperature + cosine(
            self.temperature - self.last_temperature, step / steps_per_epoch, self.epochs
        )


MOCO_V1 = Recipe(name="moco-v1", source="arXiv:1911.05722, sections 3 and 4")

MOCO_V2 = replace(  # v1 with four changes: head, views, temperature, schedule
    MOCO_V1,
    name="moco-v2",
    source="arXiv:2003.04297, section 3",
    encoder=replace(MOCO_V1.encoder, head="mlp"),
    views=replace(
        MOCO_V1.views,
        order=("crop", "jitter", "gray", "blur", "horizontal_flip"),
        jitter=(0.4, 0.4, 0.4, 0.1),
        jitter_probability=0.8,
    ),
    temperature=0.2,
    optimizer=replace(MOCO_V1.optimizer, schedule="cosine"),
)

MOCO_V2_800 = replace(MOCO_V2, name="moco-v2-800", epochs=800)

CIFAR10_RESNET18 = Recipe(
    name="cifar10-resnet18",
    source="the official single-GPU CIFAR-10 notebook",
    encoder=EncoderSpec(backbone="resnet18", stem="small"),
    dictionary=DictionarySpec(size=4096),
    views=ViewsSpec(
        image_size=32,
        order=("crop", "horizontal_flip", "jitter", "gray"),
        crop_scale=(0.08, 1.0),
        jitter=(0.4, 0.4, 0.4, 0.1),
        jitter_probability=0.8,
        mean=(0.4914, 0.4822, 0.4465),
        std=(0.2023, 0.1994, 0.2010),
        evaluation_resize=32,
        evaluation_size=32,
    ),
    optimizer=OptimizerSpec(learning_rate=0.06, weight_decay=5e-4, schedule="cosine_from_one"),
    temperature=0.1,
    key_momentum=0.99,
    batch_size=512,
)

CIFAR10_RESNET18_SYMMETRIC = replace(
    CIFAR10_RESNET18, name="cifar10-resnet18-symmetric", symmetric=True
)

MOCO_V3_RESNET50 = Recipe(
    name="moco-v3-resnet50",
    source="arXiv:2104.02057, its official settings for 100 epochs",
    encoder=EncoderSpec(
        head="mlp_bn", head_width=4096, predictor="mlp", dim=256, zero_init_residual=True
    ),
    mechanism="in_batch",
    views=ViewsSpec(
        order=("crop", "jitter", "gray", "blur", "solarize", "horizontal_flip"),
        jitter=(0.4, 0.4, 0.2, 0.1),
        jitter_probability=0.8,
        blur_probabilities=(1.0, 0.1),
        solarize_probabilities=(0.0, 0.2),
    ),
    optimizer=OptimizerSpec(
        algorithm="lars",
        learning_rate=0.6 * 4096 / 256,
        weight_decay=1e-6,
        schedule="warmup_cosine",
        warmup_epochs=10,
    ),
    temperature=1.0,
    key_momentum=0.99,
    key_momentum_schedule="cosine",
    symmetric=True,
    loss_scale=2.0,
    batch_norm_groups=1,
    epochs=100,
    batch_size=4096,
)

MOCO_V3_RESNET50_300 = replace(
    MOCO_V3_RESNET50,
    name="moco-v3-resnet50-300",
    source="arXiv:2104.02057, its official settings for 300 epochs",
    optimizer=replace(MOCO_V3_RESNET50.optimizer, learning_rate=0.3 * 4096 / 256),
    epochs=300,
)

MOCO_V3_RESNET50_1000 = replace(
    MOCO_V3_RESNET50_300,
    name="moco-v3-resnet50-1000",
    source="arXiv:2104.02057, its official settings for 1000 epochs",
    optimizer=replace(MOCO_V3_RESNET50_300.optimizer, weight_decay=1.5e-6),
    key_momentum=0.996,
    epochs=1000,
)

MOCO_V3_VIT_SMALL = replace(
    MOCO_V3_RESNET50,
    name="moco-v3-vit-small",
    source="arXiv:2104.02057, section 4 and its official settings",
    encoder=EncoderSpec(
        backbone="moco_v3_vit_small",
        head="mlp_bn",
        head_layers=3,
        head_width=4096,
        predictor="mlp_bn",
        dim=256,
        freeze_patch_projection=True,
    ),
    views=replace(MOCO_V3_RESNET50.views, crop_scale=(0.08, 1.0)),
    optimizer=OptimizerSpec(
        algorithm="adamw",
        learning_rate=1.5e-4 * 4096 / 256,
        weight_decay=0.1,
        schedule="warmup_cosine",
        warmup_epochs=40,
    ),
    temperature=0.2,
    loss_scale=0.4,
    epochs=300,
)

MOCO_V3_VIT_BASE = replace(
    MOCO_V3_VIT_SMALL,
    name="moco-v3-vit-base",
    encoder=replace(MOCO_V3_VIT_SMALL.encoder, backbone="moco_v3_vit_base"),
)

RECIPES = {
    recipe.name: recipe
    for recipe in (
        MOCO_V1,
        MOCO_V2,
        MOCO_V2_800,
        MOCO_V3_RESNET50,
        MOCO_V3_RESNET50_300,
        MOCO_V3_RESNET50_1000,
        MOCO_V3_VIT_SMALL,
        MOCO_V3_VIT_BASE,
        CIFAR10_RESNET18,
        CIFAR10_RESNET18_SYMMETRIC,
    )
}
"""The recipes that are plain values; `small` is made for your images: see `small_recipe`."""
