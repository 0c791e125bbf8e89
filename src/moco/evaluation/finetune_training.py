"""What moves in a fine-tuning, and how an epoch moves it.

Letters: N images of a batch, C channels, S side, Y classes.
"""

from __future__ import annotations

import copy
import math
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.optim import AdamW, Optimizer

from moco.cpu_kernels import narrow_pointwise_stride, outsized_stride
from moco.data.views import normalize
from moco.encoders import Encoder, feature_count
from moco.errors import DivergedError
from moco.evaluation.compare import Measure, measured
from moco.evaluation.features import extract_features
from moco.evaluation.finetune_spec import FinetuneSpec
from moco.evaluation.labelled_part import Labelled
from moco.evaluation.layer_rates import layer_groups, parameter_groups
from moco.evaluation.regularizers import regularized, set_drop_path
from moco.evaluation.train_batches import EpochBatches, load_epoch, whole_views
from moco.schedules import warmup_cosine
from moco.specs import ViewsSpec

CPU = torch.device("cpu")
HEAD_DEVIATION = 0.01
"""Of the classifier's first weights, as the linear protocol has it."""


@dataclass(frozen=True)
class Compute:
    """Where and how to compute."""

    device: torch.device = CPU
    precision: torch.dtype | None = None
    """What the network computes in, None for float32."""
    workers: int = 0
    """Processes that load images."""


@dataclass(frozen=True)
class EpochFigures:
    """What is known at the end of an epoch."""

    epoch: int
    """From 1."""
    epochs: int
    loss: float
    """Mean cross entropy of the train views, smoothed and mixed as they are."""
    learning_rate: float
    """Of the classifier, at the epoch's last step."""
    validation_score: float | None
    """None where nothing is held out."""
    validation_loss: float | None


@dataclass
class Training:
    """What moves in a fine-tuning."""

    encoder: Encoder
    optimizer: Optimizer
    best: dict[str, Tensor]
    best_epoch: int = 0
    best_rank: tuple[float, float] = (-math.inf, -math.inf)
    history: list[EpochFigures] = field(default_factory=list)

    def state(self) -> dict[str, Any]:
        """Return everything that decides the next epoch."""
        return {
            "encoder": self.encoder.state_dict(),
            "optimizer": self.optimizer.state_dict(),
            "best": self.best,
            "best_epoch": self.best_epoch,
            "best_rank": self.best_rank,
            "history": self.history,
        }

    def restore(self, state: dict[str, Any]) -> None:
        """Go on from it."""
        self.encoder.load_state_dict(state["encoder"])
        self.optimizer.load_state_dict(state["optimizer"])
        for weight, moments in self.optimizer.state.items():
            for name, value in moments.items():
                if value.shape == weight.shape:  # in the weight's own memory layout, or the fused
                    moments[name] = torch.empty_like(weight).copy_(value)  # step mixes them up
        self.best, self.best_epoch = state["best"], state["best_epoch"]
        self.best_rank, self.history = state["best_rank"], list(state["history"])


def begin(
    backbone: nn.Module,
    classes: int,
    spec: FinetuneSpec,
    views: ViewsSpec,
    compute: Compute,
    seed: int,
) -> Training:
    """Return the training before its first step; torch's random state is set for the classifier.

    All weights train: also positions and a patch projection that pre-training left as they were.
    """
    torch.manual_seed(seed)
    backbone = copy.deepcopy(backbone).requires_grad_(True)
    set_drop_path(backbone, spec.drop_path)
    head = nn.Linear(feature_count(backbone), classes)
    nn.init.normal_(head.weight, std=HEAD_DEVIATION)
    nn.init.zeros_(head.bias)
    encoder = Encoder(backbone, head, views)
    on_cpu = compute.device.type == "cpu"
    if not (on_cpu and outsized_stride(encoder, views.image_size)):
        encoder.precision = compute.precision
    if not (on_cpu and narrow_pointwise_stride(encoder)):
        encoder.layout = torch.channels_last
    encoder.to(compute.device, memory_format=encoder.layout)  # type: ignore[call-overload]
    groups = parameter_groups(encoder, layer_groups(encoder, spec.layer_decay), spec.weight_decay)
    optimizer = AdamW(groups, lr=spec.learning_rate, fused=True)
    return Training(encoder, optimizer, copied_state(encoder))


def copied_state(encoder: nn.Module) -> dict[str, Tensor]:
    """Return the weights and statistics, copied to the CPU."""
    state = encoder.state_dict()
    return {name: value.detach().to("cpu", copy=True) for name, value in state.items()}


def run_epoch(
    training: Training,
    images: Labelled,
    spec: FinetuneSpec,
    views: ViewsSpec,
    compute: Compute,
    seed: int,
    epochs: int,
    skipped: dict[str, str],
) -> EpochFigures:
    """Move the weights over one epoch of the images, the one after those done.

    Raises:
        DivergedError: The loss is no longer a finite number.
    """
    epoch = len(training.history)
    torch.manual_seed(seed + 1 + epoch)  # what branches are left out
    views = spec.train_views(views)
    batches = EpochBatches(images, views, batch_size=spec.batch_size, seed=seed, epoch=epoch)
    training.encoder.train()
    losses: list[Tensor] = []
    rate = 0.0
    for place, batch in enumerate(load_epoch(batches, workers=compute.workers)):
        skipped.update(batch.skipped)
        if not len(batch.image_ids):
            continue
        done = epoch + (place + 0.5) / len(batches)  # the middle of the step: no rate is 0
        warmup = spec.warmup_epochs * epochs / spec.epochs
        rate = warmup_cosine(spec.learning_rate, done, epochs, warmup)
        for group in training.optimizer.param_groups:
            group["lr"] = rate * group["rate"]
        inputs = normalize(whole_views(batch, views, compute.device), views)
        labels = images.labels[batch.image_ids].to(compute.device)
        draw = np.random.default_rng([seed, epoch, place])
        targets = smoothed(labels, len(images.classes), spec)
        inputs, targets = regularized(inputs, targets, spec, draw)
        loss = F.cross_entropy(training.encoder(inputs), targets)
        training.optimizer.zero_grad()
        loss.backward()  # type: ignore[no-untyped-call]
        training.optimizer.step()
        losses.append(loss.detach())
    mean = float(torch.stack(losses).mean()) if losses else math.nan
    if not math.isfinite(mean):
        raise DivergedError(
            f"the loss is not a finite number in epoch {epoch + 1}; lower the learning rate"
        )
    return EpochFigures(epoch + 1, epochs, mean, rate, None, None)


def smoothed(labels: Tensor, classes: int, spec: FinetuneSpec) -> Tensor:
    """Return targets [N, Y]: all on the label but a share that goes to all classes alike."""
    targets = F.one_hot(labels, classes).float()
    return targets * (1 - spec.label_smoothing) + spec.label_smoothing / classes


def judge(
    training: Training,
    figures: EpochFigures,
    held_out: Labelled | None,
    views: ViewsSpec,
    compute: Compute,
    measure: Measure,
) -> None:
    """Note the epoch, and keep its weights if they do better on the held-out images.

    Equal scores, as few images often give, are told apart by the loss. Without held-out images the
    last epoch is the best.
    """
    if held_out is None:
        training.best_epoch = figures.epoch
        training.best = copied_state(training.encoder)
        training.history.append(figures)
        return
    seen = extract_features(
        training.encoder, held_out, views, device=compute.device, workers=compute.workers
    )
    labels = held_out.labels[seen.image_ids]
    score = measured(measure, seen.rows.softmax(dim=1), labels)
    loss = float(F.cross_entropy(seen.rows, labels))
    training.history.append(replace(figures, validation_score=score, validation_loss=loss))
    if (score, -loss) > training.best_rank:
        training.best_rank, training.best_epoch = (score, -loss), figures.epoch
        training.best = copied_state(training.encoder)
