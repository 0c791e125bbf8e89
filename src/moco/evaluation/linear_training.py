"""The layer of a linear probe by SGD, and how an epoch moves it; the network before it is frozen.

Letters: N images of a batch, T test images, D features, Y classes.
"""

from __future__ import annotations

import copy
import math
from dataclasses import dataclass, field
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from moco.cpu_kernels import narrow_pointwise_stride
from moco.encoders import Encoder
from moco.errors import DataError, DivergedError
from moco.evaluation.finetune_training import Compute
from moco.evaluation.labelled_part import Labelled
from moco.evaluation.linear_protocols import LinearProtocol
from moco.evaluation.train_batches import EpochBatches, load_epoch, whole_views
from moco.specs import ViewsSpec

TEST_ROWS = 4096
"""Test features that the layer looks at at a time."""


@dataclass(frozen=True)
class LinearEpoch:
    """What is known at the end of an epoch."""

    epoch: int
    """From 1."""
    epochs: int
    learning_rate: float
    loss: float
    """Mean cross entropy of the train views, each before the step that learnt of it."""
    train_top1: float
    """Share of the train views that were classified right, the same way."""
    test_top1: float


@dataclass
class Probe:
    """What moves, and what it moves by."""

    network: Encoder
    layer: nn.Linear
    optimizer: torch.optim.SGD
    protocol: LinearProtocol
    views: ViewsSpec
    """Of train images."""
    compute: Compute
    seed: int
    history: list[LinearEpoch] = field(default_factory=list)
    skipped: dict[str, str] = field(default_factory=dict)

    def state(self) -> dict[str, Any]:
        """Return everything that decides the next epoch."""
        return {
            "layer": self.layer.state_dict(),
            "optimizer": self.optimizer.state_dict(),
            "history": list(self.history),
            "skipped": dict(self.skipped),
        }

    def restore(self, state: dict[str, Any]) -> None:
        """Go on from it."""
        self.layer.load_state_dict(state["layer"])
        self.optimizer.load_state_dict(state["optimizer"])
        self.history, self.skipped = list(state["history"]), dict(state["skipped"])


def first_layer(features: int, classes: int, protocol: LinearProtocol, seed: int) -> nn.Linear:
    """Return the layer [N, D] -> [N, Y] before its first step, a function of the seed."""
    layer = nn.Linear(features, classes, device="meta").to_empty(device="cpu")
    draw = torch.Generator().manual_seed(seed)
    nn.init.normal_(layer.weight, std=protocol.layer_deviation, generator=draw)
    nn.init.zeros_(layer.bias)
    return layer


def frozen_copy(backbone: nn.Module, views: ViewsSpec, compute: Compute) -> Encoder:
    """Return the network on its device in eval mode, in the memory layout that is fast there."""
    network = Encoder(
        copy.deepcopy(backbone).requires_grad_(False), nn.Identity(), views, compute.precision
    )
    if not (compute.device.type == "cpu" and narrow_pointwise_stride(network)):
        network.layout = torch.channels_last
    network.to(compute.device, memory_format=network.layout)  # type: ignore[call-overload]
    return network.eval()


def run_epoch(probe: Probe, images: Labelled) -> tuple[float, float]:
    """Move the layer over one epoch of the images; return the mean loss and the share right.

    Raises:
        DivergedError: The loss is no longer a finite number.
    """
    epoch, device = len(probe.history), probe.compute.device
    size = probe.protocol.batch_size
    batches = EpochBatches(
        images, probe.views, batch_size=size, seed=probe.seed, epoch=epoch, full=True
    )
    for group in probe.optimizer.param_groups:
        group["lr"] = probe.protocol.rate(epoch)
    losses, right, seen = [torch.zeros((), device=device)], torch.zeros((), device=device), 0
    for batch in load_epoch(batches, workers=probe.compute.workers):
        probe.skipped.update(batch.skipped)
        if not len(batch.image_ids):
            continue
        with torch.no_grad():
            rows = probe.network(whole_views(batch, probe.views, device)).float()
        labels = torch.as_tensor(images.labels)[batch.image_ids].to(device)
        logits = probe.layer(rows)
        loss = F.cross_entropy(logits, labels)
        probe.optimizer.zero_grad()
        loss.backward()  # type: ignore[no-untyped-call]
        probe.optimizer.step()
        losses.append(loss.detach() * len(labels))
        right += (logits.argmax(dim=1) == labels).sum()
        seen += len(labels)
    if not seen:
        first = next(iter(probe.skipped.items()))
        raise DataError(f"none of the {len(images)} images can be read; {': '.join(first)}")
    mean = float(torch.stack(losses).sum()) / seen
    if not math.isfinite(mean):
        raise DivergedError(
            f"the loss is not a finite number in epoch {epoch + 1}; lower the learning rate"
        )
    return mean, float(right) / seen


@torch.no_grad()
def votes(layer: nn.Linear, rows: Tensor) -> Tensor:
    """Return class probabilities [T, Y] on the CPU."""
    device = layer.weight.device
    parts = [layer(part.to(device)).softmax(dim=1).cpu() for part in torch.split(rows, TEST_ROWS)]
    return torch.cat(parts)


def judge(probe: Probe, loss: float, train_top1: float, rows: Tensor, labels: Tensor) -> None:
    """Note the epoch that ended."""
    right = votes(probe.layer, rows).argmax(dim=1) == labels
    epoch = len(probe.history)
    probe.history.append(
        LinearEpoch(
            epoch=epoch + 1,
            epochs=probe.protocol.epochs,
            learning_rate=probe.protocol.rate(epoch),
            loss=loss,
            train_top1=train_top1,
            test_top1=float(right.double().mean()),
        )
    )
