"""The papers' recipes, as data. Read one as a row of their tables; no torch in here.

To add a recipe, write one more value at the end of this file and name it in `RECIPES`.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Literal

from moco.recipe import Recipe
from moco.specs import DictionarySpec, EncoderSpec, OptimizerSpec, ViewsSpec

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


@dataclass(frozen=True)
class Score:
    """What somebody published for a recipe exactly as it is."""

    top1: float
    """Share of test images that are classified right, 0 to 1."""
    measure: Literal["linear", "kNN"]
    data: str
    source: str

    @property
    def in_words(self) -> str:
        """The score for people."""
        return f"{100 * self.top1:.1f} % {self.measure}, {self.data}"


EXPECTED_SCORES = {
    "moco-v1": Score(0.606, "linear", "ImageNet", "the paper and its official README"),
    "moco-v2": Score(0.675, "linear", "ImageNet", "official README, mean of 5 runs"),
    "moco-v2-800": Score(0.711, "linear", "ImageNet", "official README"),
    "moco-v3-resnet50": Score(0.689, "linear", "ImageNet", "official README"),
    "moco-v3-resnet50-300": Score(0.728, "linear", "ImageNet", "official README"),
    "moco-v3-resnet50-1000": Score(0.746, "linear", "ImageNet", "official README"),
    "moco-v3-vit-small": Score(0.732, "linear", "ImageNet", "official README"),
    "moco-v3-vit-base": Score(0.767, "linear", "ImageNet", "official README"),
    "cifar10-resnet18": Score(0.826, "kNN", "CIFAR-10", "official notebook"),
    "cifar10-resnet18-symmetric": Score(0.853, "kNN", "CIFAR-10", "official notebook"),
}
"""By recipe name, and no field of the recipe: a changed recipe has none. Not measured here yet."""
