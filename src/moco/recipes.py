"""Recipes: what makes a method, as data. Read one as a row of the papers' tables; no torch in here.

To add a recipe, write one more value at the end of this file and name it in `RECIPES`.
"""

from __future__ import annotations

from dataclasses import dataclass, field, replace

from moco.schedules import cosine, step_decay, warmup_cosine
from moco.specs import EncoderSpec, OptimizerSpec, QueueSpec, ViewsSpec, require


@dataclass(frozen=True, kw_only=True)
class Recipe:
    """What makes a method: read it as a row of the paper's table."""

    name: str
    """What it is called on the command line."""
    source: str
    """Where its figures come from."""
    encoder: EncoderSpec = field(default_factory=EncoderSpec)
    """The network."""
    dictionary: QueueSpec = field(default_factory=QueueSpec)
    """What queries are compared with."""
    views: ViewsSpec = field(default_factory=ViewsSpec)
    """How views are made."""
    optimizer: OptimizerSpec = field(default_factory=OptimizerSpec)
    """How weights move."""
    temperature: float = 0.07
    """tau of Eq. 1."""
    key_momentum: float = 0.999
    """m of Eq. 2: share of the old key weights that is kept, 0 to 1."""
    symmetric: bool = False
    """Contrast each view with the other's keys and add the two losses."""
    batch_norm_groups: int = 8
    """Slices of the batch that batch norm normalizes alone; 8 devices of the papers' runs. Has no
    effect on a backbone without batch norm."""
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
            self.dictionary.size >= self.batch_size,
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

    def learning_rate(self, step: int, steps_per_epoch: int) -> float:
        """Return the learning rate of a step, counted from 0 over the whole run."""
        optimizer, epoch = self.optimizer, step // steps_per_epoch
        match optimizer.schedule:
            case "step":
                return step_decay(optimizer.learning_rate, epoch, optimizer.milestones)
            case "cosine":
                return cosine(optimizer.learning_rate, epoch, self.epochs)
            case "cosine_from_one":
                return cosine(optimizer.learning_rate, epoch + 1, self.epochs)
            case "warmup_cosine":
                return warmup_cosine(
                    optimizer.learning_rate,
                    step / steps_per_epoch,
                    self.epochs,
                    optimizer.warmup_epochs,
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
    dictionary=QueueSpec(size=4096),
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

RECIPES = {
    recipe.name: recipe
    for recipe in (MOCO_V1, MOCO_V2, MOCO_V2_800, CIFAR10_RESNET18, CIFAR10_RESNET18_SYMMETRIC)
}
"""The recipes that are plain values; `small` is made for your images: see `small_recipe`."""
