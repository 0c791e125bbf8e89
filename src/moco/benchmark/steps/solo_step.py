"""The step of solo-learn's MoCo v2+, where its public repository is installed."""

from __future__ import annotations

import copy
from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from importlib import import_module
from typing import Any, cast

import torch
from torch import Tensor, nn

from moco.benchmark.peers import UnlikeRecipeError
from moco.benchmark.steps.learner import (
    BACKWARD,
    KEY_UPDATE,
    LOSS,
    OPTIMIZER,
    Parts,
    untold,
)
from moco.benchmark.steps.residual import plain_encoder
from moco.benchmark.steps.rows import Start
from moco.device import fast_precision
from moco.encoders import Encoder

CLASSES = 10
SOLO_INCLUDES = (
    "its MoCoV2Plus.training_step, with the online classifier, two queues of K keys and the mean "
    "of both directions, which is doubled here; its optimizer and key update; keys not shuffled; "
    "torchvision's backbone, channels_last, and mixed precision where the device is fast in "
    "bfloat16, as its scripts have them; without Lightning's loop"
)


class SoloStep:
    """What solo-learn's training script does with a batch.

    Its backbone for small images pads the first convolution by 2, which would be more operations;
    it gets the recipe's own, and a head of the recipe's form.

    Raises:
        ImportError: solo-learn is not installed.
        UnlikeRecipeError: The recipe is not symmetric, as its loss always is.
    """

    moves_keys_first = False

    def __init__(self, start: Start) -> None:
        recipe = self.recipe = start.recipe
        methods: Any = import_module("solo.methods.mocov2plus")
        configuration: Any = import_module("omegaconf").OmegaConf
        if not recipe.symmetric:
            raise UnlikeRecipeError(
                "its loss is always symmetric: give a recipe that is, or --set symmetric=true"
            )
        method: Any = methods.MoCoV2Plus(configuration.create(_settings(start)))
        plain = plain_encoder(recipe, cast(Encoder, start.contrast.encoder))
        method.backbone, method.projector = plain.backbone, plain.head
        method.momentum_backbone = copy.deepcopy(plain.backbone).requires_grad_(False)
        method.momentum_projector = copy.deepcopy(plain.head).requires_grad_(False)
        features = next(layer for layer in plain.head.modules() if isinstance(layer, nn.Linear))
        method.classifier = nn.Linear(features.in_features, CLASSES)
        method.queue = torch.stack([start.queue.T, start.queue.T])
        self.method = method.to(start.device, memory_format=torch.channels_last).train()
        self.figures: dict[str, Tensor] = {}
        method.log, method.log_dict = self._log, self._log_all
        self.optimizer = method.configure_optimizers()
        self.encoder: nn.Module = nn.ModuleList([method.backbone, method.projector])
        self.key_encoder: nn.Module = nn.ModuleList(
            [method.momentum_backbone, method.momentum_projector]
        )
        self.device, self.precision = start.device, fast_precision(start.device)
        self.labels = torch.zeros(recipe.batch_size, dtype=torch.long, device=start.device)
        self.parts: Parts = untold

    @property
    def queue(self) -> Tensor:
        """The stored keys, [2, C, K]."""
        return cast(Tensor, self.method.queue)

    def tell(self, parts: Parts) -> Callable[[], None]:
        """Tell the parts of each step from now on; its forward and its loss are one."""
        self.parts = parts
        return lambda: setattr(self, "parts", untold)

    def step(self, view_a: Tensor, view_b: Tensor) -> Tensor:
        """Take a step on two views [N, channels, S, S] of each image; return the loss."""
        with self.parts(LOSS), self._autocast():
            both: Tensor = self.method.training_step([None, [view_a, view_b], self.labels], 0)
        with self.parts(OPTIMIZER):
            self.optimizer.zero_grad(set_to_none=True)
        with self.parts(BACKWARD):
            (2 * both).backward()  # type: ignore[no-untyped-call]
        with self.parts(OPTIMIZER):
            self.optimizer.step()
        with self.parts(KEY_UPDATE):
            for pair in self.method.momentum_pairs:
                self.method.momentum_updater.update(*pair)
        return 2 * self.figures["train_nce_loss"].detach()

    def _log(self, name: str, value: Tensor, **_: object) -> None:
        self.figures[name] = value

    def _log_all(self, values: dict[str, Tensor], **_: object) -> None:
        self.figures |= values

    def _autocast(self) -> AbstractContextManager[None]:
        if self.precision is None:
            return nullcontext()
        return torch.autocast(self.device.type, self.precision)


def _settings(start: Start) -> dict[str, Any]:
    """Return its configuration with the recipe's values; the network in it is replaced."""
    recipe, spec = start.recipe, start.recipe.optimizer
    return {
        "method": "mocov2plus",
        "backbone": {"name": "resnet18", "kwargs": {}},
        "data": {
            "dataset": "custom",
            "num_classes": CLASSES,
            "num_large_crops": 2,
            "num_small_crops": 0,
        },
        "max_epochs": recipe.epochs,
        "method_kwargs": {
            "proj_hidden_dim": 2048,
            "proj_output_dim": recipe.encoder.dim,
            "queue_size": recipe.dictionary.size,
            "temperature": recipe.temperature,
        },
        "momentum": {"base_tau": recipe.key_momentum, "final_tau": 1.0, "classifier": False},
        "optimizer": {
            "name": "sgd",
            "batch_size": recipe.batch_size,
            "lr": spec.learning_rate,
            "classifier_lr": spec.learning_rate,
            "weight_decay": spec.weight_decay,
            "kwargs": {"momentum": spec.sgd_momentum},
        },
        "scheduler": {"name": "none"},
    }
