"""The papers' linear evaluation: one layer by SGD on random crops, the network frozen before it.

The network stays in eval mode, batch norm included, and no gradient reaches it. The layer sees new
crops of the train images in every epoch, so their features are computed again each time; those of
the test images are always the same, so they are computed once. Letters: N images of a batch, T test
images, D features, Y classes.
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from moco.errors import DataError
from moco.evaluation.compare import Interval, compare_votes
from moco.evaluation.features import Features, extract_features
from moco.evaluation.finetune import Keeper
from moco.evaluation.finetune_training import Compute
from moco.evaluation.frozen import FrozenNetwork
from moco.evaluation.labelled_part import Labelled
from moco.evaluation.linear_protocols import LinearProtocol
from moco.evaluation.linear_training import (
    LinearEpoch,
    Probe,
    first_layer,
    frozen_copy,
    judge,
    run_epoch,
    votes,
)
from moco.evaluation.scores import score_votes
from moco.specs import ViewsSpec


@dataclass(frozen=True)
class OfficialLinearResult:
    """How well a layer trained by a paper's protocol does."""

    protocol: LinearProtocol
    """Its `departures` say what makes it another than the published one."""
    top1: Interval
    """Of the LAST epoch, with its 95 % bootstrap interval over the test images: the headline."""
    best_top1: float
    """Of the best epoch ON THE TEST IMAGES, which official code quotes: optimistic."""
    best_epoch: int
    """From 1, the first of equals."""
    scores: dict[str, float]
    """All scores of `score_votes`, of the last epoch."""
    votes: Tensor
    """[T, Y] class probabilities of the test images that could be read, after the last epoch."""
    test_ids: Tensor
    """[T]"""
    train_images: int
    history: tuple[LinearEpoch, ...]
    skipped: tuple[tuple[str, str], ...]
    """Images that could not be read, and why."""
    weight: Tensor
    """[Y, D] of the layer after the last epoch."""
    bias: Tensor
    """[Y]"""
    seconds: float
    cpu_seconds: float
    """Of this process and of loading processes that have ended. Both count from where a kept probe
    went on."""

    @property
    def warning(self) -> str:
        """One line on which epoch is quoted, for people."""
        last = len(self.history)
        return (
            f"the last epoch, {last}, is quoted; official code quotes the best on the test images, "
            f"here epoch {self.best_epoch} with {100 * self.best_top1:.2f} %: optimistic"
        )


def official_linear(  # noqa: PLR0913  each is a choice of its own
    backbone: nn.Module,
    train: Labelled,
    test: Labelled,
    protocol: LinearProtocol,
    *,
    views: ViewsSpec,
    seed: int = 0,
    compute: Compute = Compute(),  # noqa: B008  it is frozen
    report: Callable[[LinearEpoch], None] | None = None,
    keeper: Keeper | None = None,
) -> OfficialLinearResult:
    """Return what a layer on frozen features scores after a paper's protocol (v1, section 4.1).

    The backbone given is left as it is, and checked after the first epoch and at the end: what a
    probe scores is nobody's if its network moved. The score is the last epoch's, as no test image
    may choose; the best epoch on the test images, which official code quotes, stands beside it.

    Args:
        backbone: [N, channels, H, W] -> [N, D].
        views: the run's, for channels and normalization; sides and crops are the protocol's.
        seed: decides the layer's first weights, the order and the crops.
        report: told of each epoch.
        keeper: keeps the probe at each epoch's end, and goes on from there.

    Raises:
        DataError: Train and test differ in their classes, images have several or numbers, or none
            can be read.
        DivergedError: The loss is no longer a finite number.
        ChangedNetworkError: The backbone changes itself in eval mode.
    """
    if list(train.classes) != list(test.classes):
        raise DataError("train and test images have different classes; give both the same")
    if train.labels.ndim != 1 or train.labels.is_floating_point():
        raise DataError("the papers' protocol is for one class an image; use the fast probe")
    began = time.perf_counter(), cpu_seconds()
    frozen = FrozenNetwork(backbone)
    network = frozen_copy(backbone, views, compute)
    test_views = protocol.test_views(views)
    asked = extract_features(
        network, test, test_views, device=compute.device, workers=compute.workers
    )
    layer = first_layer(asked.rows.shape[1], len(train.classes), protocol, seed)
    optimizer = torch.optim.SGD(
        layer.to(compute.device).parameters(),
        lr=protocol.first_rate,
        momentum=protocol.sgd_momentum,
        weight_decay=protocol.weight_decay,
    )
    train_views = protocol.train_views(views)
    probe = Probe(network, layer, optimizer, protocol, train_views, compute, seed)
    kept = keeper.load() if keeper is not None else None
    if kept is not None:
        probe.restore(kept)
    labels = test.labels[asked.image_ids]
    while len(probe.history) < protocol.epochs:
        loss, train_top1 = run_epoch(probe, train)
        if not probe.history:
            frozen.check(network.backbone, "after the first epoch")
        judge(probe, loss, train_top1, asked.rows, labels)
        if keeper is not None:
            keeper.keep(probe.state())
        if report is not None:
            report(probe.history[-1])
    frozen.check(network.backbone, "at the end")
    return _result(probe, asked, labels, len(train), began)


def _result(
    probe: Probe, asked: Features, labels: Tensor, train_images: int, began: tuple[float, float]
) -> OfficialLinearResult:
    answers = votes(probe.layer, asked.rows)
    intervals, _ = compare_votes("top1", {"layer": answers}, labels, "layer")
    best = max(probe.history, key=lambda figures: figures.test_top1)  # the first of equals
    return OfficialLinearResult(
        protocol=probe.protocol,
        top1=intervals["layer"],
        best_top1=best.test_top1,
        best_epoch=best.epoch,
        scores=score_votes(answers, labels),
        votes=answers,
        test_ids=asked.image_ids,
        train_images=train_images,
        history=tuple(probe.history),
        skipped=(*probe.skipped.items(), *asked.skipped),
        weight=probe.layer.weight.detach().cpu(),
        bias=probe.layer.bias.detach().cpu(),
        seconds=time.perf_counter() - began[0],
        cpu_seconds=cpu_seconds() - began[1],
    )


def cpu_seconds() -> float:
    """Return the CPU time of this process and of its children that have ended."""
    return sum(os.times()[:4])
