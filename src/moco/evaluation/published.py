"""Published scores by nearest neighbours and by linear probes, and what would reproduce each.

They stand beside our figures in the output of `moco evaluate`. No torch in here.
"""

from __future__ import annotations

import shlex
from dataclasses import dataclass
from typing import Literal

PAPER_V1 = "arXiv:1911.05722"
PAPER_V2 = "arXiv:2003.04297"
README = "official README"
README_V3 = "official README of v3"
NOTEBOOK = "official single-GPU CIFAR-10 notebook"


@dataclass(frozen=True)
class Protocol:
    """How a published score was taken."""

    name: str
    kind: Literal["knn", "linear"]
    """The kind of `moco evaluate` that does the same."""
    settings: str
    """For people, in one line."""
    options: tuple[str, ...]
    """Words that make `moco evaluate KIND` do it."""
    source: str


@dataclass(frozen=True)
class Published:
    """A score that somebody published, and the run it belongs to."""

    protocol: Protocol
    model: str
    """What a person calls the network, its method and its epochs."""
    data: str
    value: float
    """Top-1 accuracy on the test images, 0 to 1."""
    source: str
    recipe: str
    """The recipe's name, and settings that change it."""
    settings: tuple[str, ...] = ()
    spread: float | None = None
    """The deviation over several runs, where published."""

    @property
    def command(self) -> str:
        """Return the two commands, in one line, that would reproduce it; DATA and RUN are yours."""
        name = self.data.replace("-", "").upper()
        test = "val" if self.data == "ImageNet" else "test"
        changes = [word for setting in self.settings for word in ("--set", setting)]
        train = ["moco", "pretrain", f"{name}/train", "--recipe", self.recipe, *changes]
        judge = ["moco", "evaluate", self.protocol.kind, "RUN", "--train", f"{name}/train"]
        judge += ["--test", f"{name}/{test}", *self.protocol.options]
        return f"{shlex.join([*train, '--run', 'RUN'])} && {shlex.join(judge)}"


INSTDISC_KNN = Protocol(
    "InstDisc kNN",
    "knn",
    "200 neighbours, temperature 0.07, normalized features, train images at test views vote",
    ("--neighbours", "200", "--temperature", "0.07"),
    "arXiv:1805.01978, section 3.4",
)
NOTEBOOK_KNN = Protocol(
    "CIFAR-10 notebook kNN",
    "knn",
    "200 neighbours, temperature 0.1, on the normalized 128-d output of the head",
    ("--layer", "head", "--neighbours", "200", "--temperature", "0.1"),
    NOTEBOOK,
)
LINEAR_V1 = Protocol(
    "v1/v2 linear",
    "linear",
    "batch 256, learning rate 30, x0.1 at epochs 60 and 80 of 100, weight decay 0, augmented, "
    "network in eval mode",
    ("--protocol", "official"),
    f"{PAPER_V1}, section 4.1, and its code",
)
LINEAR_V3 = Protocol(
    "v3 linear",
    "linear",
    "batch 1024, base learning rate 0.1 (ResNet) or 3 (ViT) x batch / 256, cosine per epoch, "
    "90 epochs, weight decay 0, augmented, network in eval mode",
    ("--protocol", "official"),
    "arXiv:2104.02057 and its code",
)
LINEAR_CIFAR = Protocol(
    "CIFAR-10 notebook linear",
    "linear",
    "batch 256, learning rate 30, weight decay 0, 100 epochs, step or cosine; its code is not "
    "published",
    ("--protocol", "official"),
    NOTEBOOK,
)


def _cifar(epochs: int, asymmetric: float, symmetric: float) -> tuple[Published, Published]:
    longer = () if epochs == 200 else (f"epochs={epochs}",)
    model = "ResNet-18, {}symmetric loss, " + f"{epochs} epochs"
    recipe = "cifar10-resnet18"
    rows = ("a", asymmetric, recipe), ("", symmetric, f"{recipe}-symmetric")
    first, second = (
        Published(NOTEBOOK_KNN, model.format(a), "CIFAR-10", value, NOTEBOOK, name, longer)
        for a, value, name in rows
    )
    return first, second


def _imagenet(
    model: str, value: float, source: str, recipe: str, *settings: str, spread: float | None = None
) -> Published:
    protocol = LINEAR_V3 if "v3" in recipe else LINEAR_V1
    return Published(protocol, model, "ImageNet", value, source, recipe, settings, spread)


_V2_VIEWS = (
    'views.order=["crop","jitter","gray","blur","horizontal_flip"]',
    "views.jitter=[0.4,0.4,0.4,0.1]",
    "views.jitter_probability=0.8",
)
_V2_HEAD = ("encoder.head=mlp", "temperature=0.2")

PUBLISHED = (
    *_cifar(200, 0.826, 0.853),
    *_cifar(400, 0.863, 0.885),
    *_cifar(800, 0.887, 0.897),
    Published(
        LINEAR_CIFAR,
        "ResNet-18, symmetric loss, 800 epochs",
        "CIFAR-10",
        0.907,
        NOTEBOOK,
        "cifar10-resnet18-symmetric",
        ("epochs=800",),
    ),
    _imagenet("v1 ResNet-50, 200 epochs", 0.606, f"{PAPER_V1} and {README}", "moco-v1"),
    _imagenet("v1 ResNet-50, 200 epochs, 5 runs", 0.608, README, "moco-v1", spread=0.002),
    _imagenet(
        "v1 ResNeXt-50 32x8d, 200 epochs",
        0.639,
        PAPER_V1,
        "moco-v1",
        "encoder.backbone=resnext50_32x8d",
    ),
    _imagenet("v1 ResNet-50 w2x, 200 epochs", 0.654, PAPER_V1, "moco-v1", "encoder.width=2"),
    _imagenet("v1 ResNet-50 w4x, 200 epochs", 0.686, PAPER_V1, "moco-v1", "encoder.width=4"),
    _imagenet("v1 with the MLP head, 200 epochs", 0.662, PAPER_V2, "moco-v1", *_V2_HEAD),
    _imagenet("v1 with v2's views, 200 epochs", 0.634, PAPER_V2, "moco-v1", *_V2_VIEWS),
    _imagenet("v1 with both, 200 epochs", 0.673, PAPER_V2, "moco-v1", *_V2_HEAD, *_V2_VIEWS),
    _imagenet("v2 ResNet-50, 200 epochs, 5 runs", 0.675, README, "moco-v2", spread=0.001),
    _imagenet("v2 ResNet-50, 800 epochs", 0.711, README, "moco-v2-800"),
    _imagenet("v3 ResNet-50, 100 epochs", 0.689, README_V3, "moco-v3-resnet50"),
    _imagenet("v3 ResNet-50, 300 epochs", 0.728, README_V3, "moco-v3-resnet50-300"),
    _imagenet("v3 ResNet-50, 1000 epochs", 0.746, README_V3, "moco-v3-resnet50-1000"),
    _imagenet("v3 ViT-S/16, 300 epochs", 0.732, README_V3, "moco-v3-vit-small"),
    _imagenet("v3 ViT-B/16, 300 epochs", 0.767, README_V3, "moco-v3-vit-base"),
)
"""None of them is ours. Nothing published by nearest neighbours is known for v1, v2 and v3 on
ImageNet, so there the protocol of InstDisc stands without a score."""


def published(kind: Literal["knn", "linear"], recipe: str = "") -> tuple[Published, ...]:
    """Return the scores of a kind of evaluation, those of one recipe alone where it is named."""
    return tuple(
        row for row in PUBLISHED if row.protocol.kind == kind and recipe in ("", row.recipe)
    )
