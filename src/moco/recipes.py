"""Recipes: what makes a method, as data. Read one as a row of the papers' tables; no torch in here.

To add a recipe, write one more value at the end of this file and name it in `RECIPES`.
"""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from typing import Literal

from moco.errors import UsageError
from moco.schedules import cosine, step_decay, warmup_cosine

Stem = Literal["imagenet", "strided", "small"]
Operation = Literal[
    "crop", "jitter", "gray", "blur", "horizontal_flip", "vertical_flip", "quarter_turns"
]
Schedule = Literal["step", "cosine", "cosine_from_one", "warmup_cosine"]


@dataclass(frozen=True, kw_only=True)
class EncoderSpec:
    """The network that turns a view into an embedding."""

    backbone: str = "resnet50"
    """Any timm model name; ResNets carry torchvision's parameter names."""
    stem: Stem = "imagenet"
    """imagenet: as the backbone has it; strided: 3x3 stride 2 and max-pool; small: 3x3 stride 1
    without pooling, for images of about 32 pixels. The last two need a ResNet."""
    width: float = 1.0
    """Multiple of every layer's width, ResNets only (the paper's w2x and w4x are 2 and 4)."""
    stage_blocks: tuple[int, ...] = ()
    """Blocks in each of the four stages, ResNets only; empty: as the backbone has them."""
    head: Literal["linear", "mlp"] = "linear"
    """linear: one layer (v1); mlp: layer, ReLU, layer (v2). Neither has batch norm."""
    dim: int = 128
    """C, the embedding size."""
    zero_init_residual: bool = False
    """Start each residual branch at zero; v1 and v2 do not."""

    def __post_init__(self) -> None:
        _require(self.dim >= 1, f"encoder.dim must be at least 1, got {self.dim}")
        _require(self.width > 0, f"encoder.width must be above 0, got {self.width:g}")
        blocks = self.stage_blocks
        _require(
            len(blocks) in (0, 4) and all(count >= 1 for count in blocks),
            f"encoder.stage_blocks must be 4 counts of at least 1, got {list(blocks)}",
        )


@dataclass(frozen=True, kw_only=True)
class QueueSpec:
    """The dictionary: the newest keys, first in, first out."""

    size: int = 65536
    """K, how many keys the queue holds; any number from one batch up."""
    exclude_same_image: bool = False
    """Do not count older keys of the query's own image as negatives; the papers' code does."""

    def __post_init__(self) -> None:
        _require(self.size >= 1, f"dictionary.size must be at least 1, got {self.size}")


@dataclass(frozen=True, kw_only=True)
class ViewsSpec:
    """How two random views of an image are made, and how evaluation looks at it."""

    image_size: int = 224
    """Side of a view in pixels."""
    order: tuple[Operation, ...] = ("crop", "gray", "jitter", "horizontal_flip")
    """The operations in the order in which they run; one that is not named does not run."""
    crop_scale: tuple[float, float] = (0.2, 1.0)
    """Smallest and largest share of the image's area that a crop takes."""
    gray_probability: float = 0.2
    """How often a view turns grey."""
    jitter_probability: float = 1.0
    """How often colours are jittered."""
    jitter: tuple[float, float, float, float] = (0.4, 0.4, 0.4, 0.4)
    """Strength of brightness, contrast, saturation (each from 0) and hue (0 to 0.5)."""
    blur_probability: float = 0.5
    """How often a view is blurred."""
    blur_radius: tuple[float, float] = (0.1, 2.0)
    """Smallest and largest deviation of the Gaussian, in pixels."""
    flip_probability: float = 0.5
    """How often a view is mirrored, for each kind of flip in `order`."""
    mean: tuple[float, float, float] = (0.485, 0.456, 0.406)
    """Per-channel mean that inputs are normalized with, colours 0 to 1."""
    std: tuple[float, float, float] = (0.229, 0.224, 0.225)
    """Per-channel deviation that inputs are normalized with."""
    evaluation_resize: int = 256
    """Short side in evaluation, before the centre is cut."""
    evaluation_size: int = 224
    """Side of the central square that evaluation looks at."""

    def __post_init__(self) -> None:
        for name in ("image_size", "evaluation_size"):
            side = getattr(self, name)
            _require(side >= 8, f"views.{name} must be at least 8, got {side}")
        _require(
            self.order.count("crop") == 1 and len(set(self.order)) == len(self.order),
            f"views.order must name crop, and nothing twice, got {list(self.order)}",
        )
        low, high = self.crop_scale
        _require(
            0 < low <= high <= 1, f"views.crop_scale must rise within (0, 1], got {low:g}, {high:g}"
        )
        for name in ("gray", "jitter", "blur", "flip"):
            share = getattr(self, f"{name}_probability")
            _require(0 <= share <= 1, f"views.{name}_probability must be 0 to 1, got {share:g}")
        *strengths, hue = self.jitter
        _require(
            min(strengths) >= 0 and 0 <= hue <= 0.5,
            "views.jitter must be three strengths from 0 and a hue of 0 to 0.5, got "
            f"{list(self.jitter)}",
        )
        low, high = self.blur_radius
        _require(
            0 < low <= high, f"views.blur_radius must rise from above 0, got {low:g}, {high:g}"
        )
        _require(min(self.std) > 0, f"views.std must be above 0, got {list(self.std)}")
        _require(
            self.evaluation_resize >= self.evaluation_size,
            f"views.evaluation_resize {self.evaluation_resize} is below views.evaluation_size "
            f"{self.evaluation_size}; raise it",
        )


@dataclass(frozen=True, kw_only=True)
class OptimizerSpec:
    """How the query encoder's weights move."""

    algorithm: Literal["sgd", "adamw"] = "sgd"
    """sgd with momentum, or AdamW."""
    learning_rate: float = 0.03
    """The base rate, literal: no code scales it with the batch."""
    weight_decay: float = 1e-4
    """On all weights, biases and batch norm included, as the official code has it."""
    sgd_momentum: float = 0.9
    """The optimizer's own momentum; AdamW has its defaults."""
    schedule: Schedule = "step"
    """step: times 0.1 at each milestone, once an epoch; cosine: once an epoch, epochs counted from
    0; cosine_from_one: counted from 1, so the last epoch's rate is 0; warmup_cosine: every step."""
    milestones: tuple[int, ...] = (120, 160)
    """Epochs at which `step` drops the rate."""
    warmup_epochs: float = 0.0
    """Epochs of linear rise of `warmup_cosine`."""

    def __post_init__(self) -> None:
        _require(
            0 < self.learning_rate < float("inf"),
            f"optimizer.learning_rate must be a number above 0, got {self.learning_rate:g}",
        )
        _require(
            self.weight_decay >= 0,
            f"optimizer.weight_decay must be from 0, got {self.weight_decay:g}",
        )
        _require(
            0 <= self.sgd_momentum < 1,
            f"optimizer.sgd_momentum must be from 0 to below 1, got {self.sgd_momentum:g}",
        )
        _require(
            self.warmup_epochs >= 0,
            f"optimizer.warmup_epochs must be from 0, got {self.warmup_epochs:g}",
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
        _require(
            0 < self.temperature < float("inf"),
            f"temperature must be above 0, got {self.temperature:g}",
        )
        _require(
            0 <= self.key_momentum <= 1, f"key_momentum must be 0 to 1, got {self.key_momentum:g}"
        )
        _require(self.epochs >= 1, f"epochs must be at least 1, got {self.epochs}")
        _require(self.batch_size >= 2, f"batch_size must be at least 2, got {self.batch_size}")
        _require(
            self.dictionary.size >= self.batch_size,
            f"queue size {self.dictionary.size} is smaller than the batch {self.batch_size}; "
            "raise dictionary.size or lower batch_size",
        )
        groups = self.batch_norm_groups
        _require(
            groups >= 1 and self.batch_size % groups == 0 and self.batch_size // groups >= 2,
            f"batch_size {self.batch_size} does not split into batch_norm_groups {groups} "
            "slices of 2 images or more; change one of them",
        )
        warmup, epochs = self.optimizer.warmup_epochs, self.epochs
        _require(
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


def _require(holds: bool, message: str) -> None:  # noqa: FBT001
    if not holds:
        raise UsageError(message)


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
