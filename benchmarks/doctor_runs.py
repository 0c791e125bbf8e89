"""Runs that are sick on purpose, and healthy ones, for `doctor_table.py`.

Each is the ordinary `moco.pretrain` with settings, but two: a constant encoder and a slow loader
are no setting, so what builds the networks, or reads an image, is wrapped.
"""

from __future__ import annotations

import importlib
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from unittest.mock import patch

import torch
from torch import Tensor, nn

import moco
from moco.contrast import Contrast
from moco.data.images import Images

RECIPE = Path(__file__).parents[1] / "examples" / "cifar10_study.yaml"
SLOW_SECONDS = 0.01
"""That a throttled loader takes longer for each image."""
V3 = (
    "mechanism=in_batch",
    "encoder.head=mlp_bn",
    "encoder.predictor=mlp",
    "encoder.head_width=256",
    "symmetric=true",
    "temperature=0.2",
    "loss_scale=0.4",
    "batch_norm_groups=1",
    "key_momentum_schedule=cosine",
)
SGD = (
    "optimizer.algorithm=sgd",
    "optimizer.learning_rate=0.06",
    "optimizer.weight_decay=5e-4",
)
SIZE_64 = ("views.image_size=64", "views.evaluation_size=64", "views.evaluation_resize=64")


@dataclass(frozen=True)
class Case:
    """A run to make, and what the doctor is to say."""

    verdict: str = "healthy"
    settings: tuple[str, ...] = ()
    wrapped: str = ""
    """constant, slow or nothing."""


SICK = {
    "constant encoder": Case("collapsed", wrapped="constant"),
    "no shuffle, one BN group": Case("leak through batch norm", ("batch_norm_groups=1",)),
    "key momentum 0": Case("dictionary stale", ("key_momentum=0",)),
    "key momentum 1": Case("key encoder frozen", ("key_momentum=1",)),
    "queue five times the data": Case("queue too large for the data", ("dictionary.size=16000",)),
    "temperature 0.005": Case("temperature out of range", ("temperature=0.005",)),
    "learning rate x 100": Case("learning rate too high", ("optimizer.learning_rate=0.1",)),
    "no augmentation": Case(
        "augmentation too weak", ("views.order=[crop]", "views.crop_scale=[1,1]")
    ),
    "loader throttled": Case("healthy, data bound", wrapped="slow"),
}
HEALTHY = {
    "healthy v2": Case(),
    "healthy v3": Case(settings=V3),
    "healthy end-to-end": Case(settings=("mechanism=end_to_end",)),
}
OTHERS = {
    "batch 32": Case(settings=("batch_size=32", "batch_norm_groups=2", "dictionary.size=512")),
    "batch 128": Case(settings=("batch_size=128", "batch_norm_groups=8")),
    "64 px": Case(settings=SIZE_64),
    "SGD": Case(settings=SGD),
    "temperature 0.07, linear head": Case(settings=("temperature=0.07", "encoder.head=linear")),
    "temperature 0.2": Case(settings=("temperature=0.2",)),
    "key momentum 0.999": Case(settings=("key_momentum=0.999",)),
    "queue 256": Case(settings=("dictionary.size=256",)),
    "crops and flips": Case(settings=("views.order=[crop,horizontal_flip]",)),
    "memory bank": Case(settings=("mechanism=memory_bank",)),
    "v3, SGD": Case(settings=(*V3, *SGD)),
    "symmetric": Case(settings=("symmetric=true",)),
}
"""Healthy ones with other settings."""
CASES = SICK | HEALTHY | OTHERS


class Constant(nn.Module):
    """Gives all images one embedding, whatever its weights are."""

    def __init__(self, encoder: nn.Module) -> None:
        super().__init__()
        self.encoder = encoder

    def forward(self, view: Tensor) -> Tensor:
        """Return [N, C], all rows alike."""
        rows: Tensor = self.encoder(view)
        return rows * 0 + torch.ones(rows.shape[1])


class Slow:
    """Images that take long to be read."""

    def __init__(self, images: Images) -> None:
        self.images = images

    def __len__(self) -> int:
        return len(self.images)

    def name(self, image_id: int) -> str:
        """Return the image's own name."""
        return self.images.name(image_id)

    def read(self, image_id: int) -> Any:
        """Return the image, late."""
        time.sleep(SLOW_SECONDS)
        return self.images.read(image_id)


@contextmanager
def constant_encoders() -> Iterator[None]:
    """Let runs inside have encoders that tell no image from another."""
    pretraining = importlib.import_module("moco.pretraining")
    build = pretraining.build_contrast

    def constant(*arguments: Any, **options: Any) -> Contrast:
        contrast: Contrast = build(*arguments, **options)
        contrast.encoder = Constant(contrast.encoder)
        contrast.key_encoder = Constant(contrast.key_encoder)
        return contrast

    with patch.object(pretraining, "build_contrast", constant):
        yield


def make_run(case: Case, images: Images, run: Path, *, seed: int, epochs: int) -> Path:
    """Train, and return the run's directory; one that is done is not made again."""
    options: dict[str, Any] = {
        "recipe": RECIPE,
        "settings": case.settings,
        "epochs": epochs,
        "run": run,
        "device": "cpu",
        "seed": seed,
        "workers": 0,
        "precision": "float32",
    }
    match case.wrapped:
        case "constant":
            with constant_encoders():
                return moco.pretrain(images, **options)
        case "slow":
            return moco.pretrain(Slow(images), **options)
        case _:
            return moco.pretrain(images, **options)
