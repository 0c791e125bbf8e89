"""The papers' linear evaluation protocols, as data; no torch in here.

Letters: e epoch counted from 0, E all epochs, B images of a batch.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, fields, replace
from typing import Literal

from moco.recipe import Recipe
from moco.schedules import cosine, step_decay
from moco.specs import ViewsSpec, require

RATE_BATCH = 256
"""What v3's base rates are for."""


@dataclass(frozen=True)
class Sides:
    """Sides of images in pixels."""

    train: int
    """Of a random crop."""
    test_resize: int
    """Short side of a test image, before its centre is cut."""
    test: int
    """Of that centre."""

    def __str__(self) -> str:
        return f"{self.train} (test {self.test} of {self.test_resize}) pixels"


@dataclass(frozen=True, kw_only=True)
class LinearProtocol:
    """A layer on frozen features, trained by SGD on random crops: who says how, and how exactly."""

    name: str
    source: str
    batch_size: int = 256
    """Images of a step; the last of an epoch has those that are left, none is dropped."""
    learning_rate: float = 30.0
    scales_rate: bool = False
    """The rate is base x B / 256 (v3); otherwise literal, whatever the batch (v1, v2)."""
    epochs: int = 100
    schedule: Literal["step", "cosine"] = "step"
    """Both move the rate once an epoch: x0.1 at each milestone, or a half cosine from e = 0."""
    milestones: tuple[int, ...] = (60, 80)
    """Epochs at which `step` drops the rate."""
    sgd_momentum: float = 0.9
    weight_decay: float = 0.0
    crop_scale: tuple[float, float] = (0.08, 1.0)
    """Shares of the area that a random crop takes."""
    flip_probability: float = 0.5
    sides: Sides = Sides(224, 256, 224)
    layer_deviation: float = 0.01
    """Of the layer's first weights, drawn from a normal distribution; its bias starts at 0."""

    def __post_init__(self) -> None:
        for name in ("batch_size", "epochs"):
            require(getattr(self, name) >= 1, f"{name} must be from 1, got {getattr(self, name)}")
        rate = self.learning_rate
        require(0 < rate < math.inf, f"learning_rate must be a number above 0, got {rate:g}")

    @property
    def first_rate(self) -> float:
        """The learning rate of the first epoch."""
        return self.learning_rate * (self.batch_size / RATE_BATCH if self.scales_rate else 1.0)

    def rate(self, epoch: int) -> float:
        """Return the learning rate of all steps of an epoch, counted from 0."""
        if self.schedule == "cosine":
            return cosine(self.first_rate, epoch, self.epochs)
        return step_decay(self.first_rate, epoch, self.milestones)

    def train_views(self, views: ViewsSpec) -> ViewsSpec:
        """Return how train images are seen: a random crop, mirrored half of the time, no colours.

        Channels and normalization are those of `views`, the run's.
        """
        return replace(
            self.test_views(views),
            order=("crop", "horizontal_flip"),
            crop_scale=self.crop_scale,
            flip_probability=self.flip_probability,
            image_size=self.sides.train,
            first_size=0,
        )

    def test_views(self, views: ViewsSpec) -> ViewsSpec:
        """Return how test images are seen: the short side resized, the centre cut."""
        return replace(
            views, evaluation_resize=self.sides.test_resize, evaluation_size=self.sides.test
        )

    @property
    def departures(self) -> tuple[str, ...]:
        """What makes it another protocol than the published one of its name, for people."""
        origin = next((known for known in PROTOCOLS if known.name == self.name), None)
        if origin is None:
            return (f"'{self.name}' is no published protocol",)
        return tuple(
            f"{of.name} {_shown(getattr(self, of.name))}, not {_shown(getattr(origin, of.name))}"
            for of in fields(self)
            if getattr(self, of.name) != getattr(origin, of.name)
        )

    @property
    def batch_warning(self) -> str:
        """One line where a literal rate meets another batch than it was made for, else empty."""
        origin = next((known for known in PROTOCOLS if known.name == self.name), None)
        if origin is None or self.scales_rate or self.batch_size == origin.batch_size:
            return ""
        return (
            f"learning rate {self.learning_rate:g} is literal and was chosen for batches of "
            f"{origin.batch_size}, not {self.batch_size}: points are lost (v1 had 57.9 instead of "
            "60.6 % at a batch of 2,048, facebookresearch/moco#132)"
        )


LINEAR_V1_V2 = LinearProtocol(
    name="v1/v2 linear", source="arXiv:1911.05722, section 4.1, and its code"
)
LINEAR_V3_RESNET = LinearProtocol(
    name="v3 linear, ResNet",
    source="arXiv:2104.02057 and its code",
    batch_size=1024,
    learning_rate=0.1,
    scales_rate=True,
    epochs=90,
    schedule="cosine",
    milestones=(),
)
LINEAR_V3_VIT = replace(LINEAR_V3_RESNET, name="v3 linear, ViT", learning_rate=3.0)
LINEAR_CIFAR_NOTEBOOK = replace(
    LINEAR_V1_V2,
    name="CIFAR-10 notebook linear",
    source="the official single-GPU CIFAR-10 notebook, which has its settings in words: step or "
    "cosine (step here), and no code",
    sides=Sides(32, 32, 32),
)
PROTOCOLS = (LINEAR_V1_V2, LINEAR_V3_RESNET, LINEAR_V3_VIT, LINEAR_CIFAR_NOTEBOOK)


def linear_protocol(recipe: Recipe) -> LinearProtocol:
    """Return the protocol that suits a recipe, at the recipe's sides.

    v3's ViT protocol for a ViT; v3's ResNet protocol where the batch is the dictionary of a
    momentum encoder, and for AdamW and LARS: a rate of 30 is for the small features that SGD with
    its weight decay makes, and throws a layer on others about (docs/results.md); the notebook's for
    views of 32 pixels; else v1's and v2's.
    """
    views = recipe.views
    sides = Sides(views.image_size, views.evaluation_resize, views.evaluation_size)
    if "vit" in recipe.encoder.backbone.split("_"):
        protocol = LINEAR_V3_VIT
    elif recipe.mechanism == "in_batch" or recipe.optimizer.algorithm != "sgd":
        protocol = LINEAR_V3_RESNET
    elif views.image_size == LINEAR_CIFAR_NOTEBOOK.sides.train:
        protocol = LINEAR_CIFAR_NOTEBOOK
    else:
        protocol = LINEAR_V1_V2
    return replace(protocol, sides=sides)


def with_changes(
    protocol: LinearProtocol,
    *,
    epochs: int | None = None,
    batch_size: int | None = None,
    learning_rate: float | None = None,
) -> LinearProtocol:
    """Return the protocol with other settings; `departures` then names them.

    Milestones keep their place in the schedule: 60 and 80 of 100 epochs are 6 and 8 of 10. A base
    rate stays a base rate.

    Raises:
        UsageError: A setting that makes no sense.
    """
    changed = replace(
        protocol,
        epochs=protocol.epochs if epochs is None else epochs,
        batch_size=protocol.batch_size if batch_size is None else batch_size,
        learning_rate=protocol.learning_rate if learning_rate is None else learning_rate,
    )
    share = changed.epochs / protocol.epochs
    return replace(changed, milestones=tuple(round(share * at) for at in protocol.milestones))


def _shown(value: object) -> str:
    match value:
        case tuple():
            return ", ".join(map(_shown, value)) or "none"
        case int() | float():
            return f"{value:,}" if isinstance(value, int) else f"{value:g}"
        case _:
            return str(value)
