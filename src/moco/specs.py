"""What a recipe is made of: encoder, dictionary, views, optimizer, as typed data; no torch in here.

A field's docstring is its help. Values that make no sense are refused when a spec is made.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from moco.errors import UsageError
from moco.schedules import cosine, step_decay, warmup_cosine

Stem = Literal["imagenet", "strided", "small"]
Operation = Literal[
    "crop",
    "jitter",
    "gray",
    "blur",
    "solarize",
    "horizontal_flip",
    "vertical_flip",
    "quarter_turns",
]
Mechanism = Literal["queue", "in_batch", "end_to_end", "memory_bank"]
KeyMomentumSchedule = Literal["constant", "cosine"]
KeyPrecision = Literal["float32", "bfloat16"]
Schedule = Literal["step", "cosine", "cosine_from_one", "warmup_cosine"]
IMAGENET_MEAN, IMAGENET_STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
MOST_CHANNELS = 1024
SIGNALS_EVERY_STEPS = 50
"""Between readings of a run's signals: they then cost a few thousandths of its time."""
BAD_LIMIT = 0.01
"""Share of the images that may turn out unusable before a run ends."""


@dataclass(frozen=True, kw_only=True)
class EncoderSpec:
    """The network that turns a view into an embedding."""

    backbone: str = "resnet50"
    """Any timm model name (ResNets carry torchvision's parameter names); resnext50_32x8d, which is
    v1's; or a ViT as MoCo v3 builds it: moco_v3_vit_small, moco_v3_vit_base,
    moco_v3_vit_conv_small, moco_v3_vit_conv_base."""
    stem: Stem = "imagenet"
    """imagenet: as the backbone has it; strided: 3x3 stride 2 and max-pool; small: 3x3 stride 1
    without pooling, for images of about 32 pixels. The last two need a ResNet."""
    width: float = 1.0
    """Multiple of every layer's width, ResNets only (the paper's w2x and w4x are 2 and 4)."""
    stage_blocks: tuple[int, ...] = ()
    """Blocks in each of the four stages, ResNets only; empty: as the backbone has them."""
    head: Literal["linear", "mlp", "mlp_bn"] = "linear"
    """linear: one layer (v1); mlp: layer, ReLU, layer (v2); mlp_bn: layers without bias, each with
    batch norm (v3). The first two have no batch norm."""
    head_layers: int = 2
    """Layers of mlp_bn: 2 with v3's ResNet, 3 with its ViTs."""
    head_width: int = 0
    """Hidden width of an MLP head and of the predictor; 0: as many as the backbone has features."""
    predictor: Literal["none", "mlp", "mlp_bn"] = "none"
    """What follows the head for queries alone (v3): mlp: layer, batch norm, ReLU, layer; mlp_bn:
    the same with a batch norm at the end."""
    dim: int = 128
    """C, the embedding size."""
    zero_init_residual: bool = False
    """Start each residual branch at zero; v1 and v2 do not, v3 does."""
    freeze_patch_projection: bool = False
    """Leave the patch projection of a MoCo v3 ViT as it was drawn (section 4.2)."""
    token_drop: float = 0.0
    """Share of an image's patches that each training forward of a MoCo v3 ViT leaves out, drawn
    anew each time, from 0 to below 1. Not in the papers; see docs/schedules.md."""

    def __post_init__(self) -> None:
        require(
            1 <= self.dim <= 65536, f"encoder.dim must be at least 1, at most 65536, got {self.dim}"
        )
        require(
            self.head_layers >= 2, f"encoder.head_layers must be from 2, got {self.head_layers}"
        )
        require(self.head_width >= 0, f"encoder.head_width must be from 0, got {self.head_width}")
        require(1 / 64 <= self.width <= 64, f"encoder.width must be 1/64 to 64, got {self.width:g}")
        require(
            0 <= self.token_drop < 1,
            f"encoder.token_drop must be from 0 to below 1, got {self.token_drop:g}",
        )
        blocks = self.stage_blocks
        require(
            len(blocks) in (0, 4) and all(1 <= count <= 1000 for count in blocks),
            f"encoder.stage_blocks must be 4 counts of 1 to 1000, got {list(blocks)}",
        )


@dataclass(frozen=True, kw_only=True)
class DictionarySpec:
    """What queries are compared with; of no effect where that is the batch itself."""

    size: int = 65536
    """K: how many keys the queue holds, or how many negatives are drawn from the memory bank."""
    exclude_same_image: bool = False
    """Do not count the queue's older keys of the query's own image as negatives; the papers' code
    does. A memory bank and a batch never count them."""
    filled_only: bool = False
    """Count only those of the queue's slots that hold a key already, not the random rows with which
    it starts; the papers' code counts them."""
    fill_first: bool = False
    """Before the first step, fill the queue with the untrained key encoder's keys of images rather
    than random rows. Not in the papers; see docs/schedules.md."""
    bank_momentum: float = 0.5
    """Share of the old vector that a memory bank keeps when an image was seen again, 0 to 1."""
    key_precision: KeyPrecision = "float32"
    """What the queue keeps its keys in; bfloat16 takes half the memory and rounds each number to 8
    bits. A queue only."""

    def __post_init__(self) -> None:
        require(self.size >= 1, f"dictionary.size must be at least 1, got {self.size}")
        require(
            0 <= self.bank_momentum < 1,
            f"dictionary.bank_momentum must be from 0 to below 1, got {self.bank_momentum:g}",
        )


@dataclass(frozen=True, kw_only=True)
class ViewsSpec:
    """How two random views of an image are made, and how evaluation looks at it."""

    image_size: int = 224
    """Side of a view in pixels."""
    first_size: int = 0
    """Side of a view in the first epoch, from which it grows to image_size; 0: image_size in all.
    Not in the papers; see docs/schedules.md."""
    size_step: int = 32
    """By how many pixels a growing view grows at a time; the networks' stride, 32 for most."""
    full_size_from: float = 0.75
    """Share of the epochs after which a growing view has image_size, from 0 to below 1."""
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
    blur_probabilities: tuple[float, float] = (0.5, 0.5)
    """How often the first and the second view are blurred."""
    blur_radius: tuple[float, float] = (0.1, 2.0)
    """Smallest and largest deviation of the Gaussian, in pixels."""
    solarize_probabilities: tuple[float, float] = (0.0, 0.2)
    """How often the first and the second view are solarized: values from 128 are inverted."""
    flip_probability: float = 0.5
    """How often a view is mirrored, for each kind of flip in `order`."""
    channels: int = 3
    """How many the network sees. Photographs have 3, grey ones three equal ones; a run takes other
    images as they are, unless this is set."""
    deep: bool = False
    """Keep what 8 bits a channel cannot hold: 16-bit values count as 0 to 1, floating-point values
    as they are."""
    mean: tuple[float, ...] = IMAGENET_MEAN
    """Per-channel mean that inputs are normalized with, colours 0 to 1."""
    std: tuple[float, ...] = IMAGENET_STD
    """Per-channel deviation that inputs are normalized with."""
    evaluation_resize: int = 256
    """Short side in evaluation, before the centre is cut."""
    evaluation_size: int = 224
    """Side of the central square that evaluation looks at."""

    def __post_init__(self) -> None:
        for name in ("image_size", "evaluation_size"):
            side = getattr(self, name)
            require(
                8 <= side <= 4096, f"views.{name} must be at least 8 and at most 4096, got {side}"
            )
        self._check_growth()
        require(
            self.order[:1] == ("crop",) and len(set(self.order)) == len(self.order),
            f"views.order must begin with crop and name nothing twice, got {list(self.order)}",
        )
        low, high = self.crop_scale
        require(
            0 < low <= high <= 1, f"views.crop_scale must rise within (0, 1], got {low:g}, {high:g}"
        )
        for name in ("gray", "jitter", "flip"):
            share = getattr(self, f"{name}_probability")
            require(0 <= share <= 1, f"views.{name}_probability must be 0 to 1, got {share:g}")
        for name in ("blur", "solarize"):
            shares = getattr(self, f"{name}_probabilities")
            require(
                all(0 <= share <= 1 for share in shares),
                f"views.{name}_probabilities must be 0 to 1, got {list(shares)}",
            )
        *strengths, hue = self.jitter
        require(
            min(strengths) >= 0 and max(strengths) <= 100 and 0 <= hue <= 0.5,
            "views.jitter must be three strengths of 0 to 100 and a hue of 0 to 0.5, got "
            f"{list(self.jitter)}",
        )
        low, high = self.blur_radius
        require(0 < low <= high, f"views.blur_radius must rise from above 0, got {low:g}, {high:g}")
        require(
            1 <= self.channels <= MOST_CHANNELS,
            f"views.channels must be 1 to {MOST_CHANNELS}, got {self.channels}",
        )
        for name in ("mean", "std"):
            figures = getattr(self, name)
            require(
                len(figures) == self.channels,
                f"views.{name} must have a figure for each of views.channels {self.channels}, got "
                f"{len(figures)}",
            )
        require(min(self.std) > 0, f"views.std must be above 0, got {list(self.std)}")
        require(
            self.evaluation_resize >= self.evaluation_size,
            f"views.evaluation_resize {self.evaluation_resize} is below views.evaluation_size "
            f"{self.evaluation_size}; raise it",
        )

    def _check_growth(self) -> None:
        first, largest = self.first_size, self.image_size
        require(
            first == 0 or 8 <= first <= largest,
            f"views.first_size must be 0, or at least 8 and at most views.image_size {largest}, "
            f"got {first}",
        )
        require(self.size_step >= 1, f"views.size_step must be at least 1, got {self.size_step}")
        require(
            0 <= self.full_size_from < 1,
            f"views.full_size_from must be from 0 to below 1, got {self.full_size_from:g}",
        )


@dataclass(frozen=True, kw_only=True)
class OptimizerSpec:
    """How the query encoder's weights move."""

    algorithm: Literal["sgd", "adamw", "lars"] = "sgd"
    """sgd with momentum; adamw; lars: each layer's rate scaled by its weights' norm over its
    gradient's, biases and batch norm left alone (v3's ResNet)."""
    learning_rate: float = 0.03
    """The base rate, literal: no code scales it with the batch."""
    weight_decay: float = 1e-4
    """On all weights, biases and batch norm included, as the official code has it; lars leaves
    those alone."""
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
        require(
            0 < self.learning_rate < float("inf"),
            f"optimizer.learning_rate must be a number above 0, got {self.learning_rate:g}",
        )
        require(
            self.weight_decay >= 0,
            f"optimizer.weight_decay must be from 0, got {self.weight_decay:g}",
        )
        require(
            0 <= self.sgd_momentum < 1,
            f"optimizer.sgd_momentum must be from 0 to below 1, got {self.sgd_momentum:g}",
        )
        require(
            self.warmup_epochs >= 0,
            f"optimizer.warmup_epochs must be from 0, got {self.warmup_epochs:g}",
        )

    def rate(self, step: int, steps_per_epoch: int, epochs: int) -> float:
        """Return the learning rate of a step, counted from 0, in a run of so many epochs."""
        epoch = step // steps_per_epoch
        match self.schedule:
            case "step":
                return step_decay(self.learning_rate, epoch, self.milestones)
            case "cosine":
                return cosine(self.learning_rate, epoch, epochs)
            case "cosine_from_one":
                return cosine(self.learning_rate, epoch + 1, epochs)
            case "warmup_cosine":
                done = step / steps_per_epoch
                return warmup_cosine(self.learning_rate, done, epochs, self.warmup_epochs)


def require(holds: bool, message: str) -> None:  # noqa: FBT001
    """Raise UsageError with the message where a condition does not hold."""
    if not holds:
        raise UsageError(message)
