"""Fine-tuning: every weight of a network trained on labelled images, and scored once on others.

The epoch that is kept is chosen on part of the train images; nothing is chosen by a test label, and
test images are looked at once, at the end. Everything is a function of the seed, so that a training
goes on from the end of any epoch as if it had not stopped. Letters: N train images, T test images,
Y classes, D features.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, NamedTuple, Protocol

import torch
from torch import Tensor, nn

from moco.encoders import build_backbone
from moco.errors import DataError
from moco.evaluation.compare import Interval, Measure, compare_votes, fitting_measure
from moco.evaluation.features import Features, extract_features
from moco.evaluation.finetune_spec import FINETUNE, FinetuneSpec
from moco.evaluation.finetune_training import (
    Compute,
    EpochFigures,
    Training,
    begin,
    judge,
    run_epoch,
)
from moco.evaluation.label_splits import places_in_class
from moco.evaluation.labelled_part import Labelled, part_of
from moco.evaluation.layer_rates import layer_groups
from moco.evaluation.scores import score_votes
from moco.evaluation.train_batches import steps_of
from moco.specs import EncoderSpec, ViewsSpec

FEWEST_TO_VALIDATE = 25
"""Train images of a class below which none is held out: by fewer than five of a class the best
epoch is a lottery, and as labels they are worth more; the last epoch is then kept."""


@dataclass(frozen=True)
class FinetuneResult:
    """How a fine-tuned network does, and the network itself."""

    measure: Measure
    score: Interval
    """On the test images, with its 95 % bootstrap interval over them."""
    scores: dict[str, float]
    """All scores of `score_votes`."""
    votes: Tensor
    """[T, Y] class probabilities of the test images that could be read."""
    test_ids: Tensor
    """[T]"""
    best_epoch: int
    """Whose weights these are, from 1."""
    epochs: int
    """That were run; fewer than planned after an early stop."""
    planned_epochs: int
    train_images: int
    """Without those held out."""
    validation_images: int
    """0 where the last epoch is kept."""
    rates: dict[str, float]
    """Learning rate of each group of layers at the top of the schedule."""
    history: tuple[EpochFigures, ...]
    skipped: tuple[tuple[str, str], ...]
    """Images that could not be read, and why."""
    weights: dict[str, Tensor]
    """State of the backbone (`backbone.`) and the classifier (`head.`)."""


class Keeper(Protocol):
    """Keeps a training at the end of each epoch."""

    def load(self) -> dict[str, Any] | None:
        """Return what was kept of this very training, None for nothing."""
        ...

    def keep(self, state: dict[str, Any]) -> None:
        """Keep it in place of the one before."""
        ...


class Counts(NamedTuple):
    """What a training was planned for."""

    epochs: int
    train: int
    held_out: int


def finetune(  # noqa: PLR0913  each is a choice of its own
    backbone: nn.Module,
    train: Labelled,
    test: Labelled,
    spec: FinetuneSpec = FINETUNE,
    *,
    views: ViewsSpec,
    seed: int = 0,
    measure: Measure | None = None,
    compute: Compute = Compute(),  # noqa: B008  it is frozen
    report: Callable[[EpochFigures], None] | None = None,
    keeper: Keeper | None = None,
) -> FinetuneResult:
    """Return what the whole network scores on the test images after training on the others.

    The backbone given is left as it is. The epoch that does best on `spec.validation_share` of the
    train images of each class is kept; with fewer than 25 of a class, the last.

    Args:
        backbone: [N, channels, H, W] -> [N, D]: trained, or random for training from scratch.
        views: the run's, which say how images are cut, turned and normalized.
        seed: decides the classifier, the held-out images, the order and the views.
        measure: what is scored, on held-out and test images; None for what suits the test labels.
        report: told of each epoch.
        keeper: keeps the training at each epoch's end, and goes on from there.

    Raises:
        DataError: Train and test differ in their classes, or no image can be read.
        DivergedError: The loss is no longer a finite number.
    """
    if list(train.classes) != list(test.classes):
        raise DataError("train and test images have different classes; give both the same")
    measure = fitting_measure(measure, test.labels, len(test.classes))
    held_out = held_out_rows(train, spec.validation_share, seed)
    known, asked = part_of(train, (~held_out).nonzero().flatten()), None
    if held_out.any():
        asked = part_of(train, held_out.nonzero().flatten())
    cuda = [compute.device] if compute.device.type == "cuda" else []
    with torch.random.fork_rng(devices=cuda):
        training = begin(backbone, len(train.classes), spec, views, compute, seed)
        kept = keeper.load() if keeper is not None else None
        if kept is not None:
            training.restore(kept)
        epochs = spec.all_epochs(steps_of(len(known), spec.batch_size))
        skipped: dict[str, str] = {}
        while not _is_done(training, spec, epochs):
            figures = run_epoch(training, known, spec, views, compute, seed, epochs, skipped)
            judge(training, figures, asked, views, compute, measure)
            if keeper is not None:
                keeper.keep(training.state())
            if report is not None:
                report(training.history[-1])
    training.encoder.load_state_dict(training.best)
    answers = extract_features(
        training.encoder, test, views, device=compute.device, workers=compute.workers
    )
    counts = Counts(epochs, len(known), int(held_out.sum()))
    return _result(training, answers, test.labels, measure, spec, counts, skipped)


def held_out_rows(train: Labelled, share: float, seed: int) -> Tensor:
    """Return [N] True for the train images that choose the epoch: the same share of each class.

    None where a class has fewer than 25. Like the splits, it goes by seed and name.
    """
    labels = torch.as_tensor(train.labels)
    counts = labels.bincount(minlength=len(train.classes))
    if not share or int(counts.min()) < FEWEST_TO_VALIDATE:
        return torch.zeros(len(labels), dtype=torch.bool)
    names = [train.name(image_id) for image_id in range(len(labels))]
    places = places_in_class(labels, names, seed=seed, draw=0, what="held out")
    return places < (counts * share).round().clamp(min=1)[labels]


def random_backbone(spec: EncoderSpec, views: ViewsSpec, seed: int) -> nn.Module:
    """Return the backbone with random weights, for training from scratch: the rival."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return build_backbone(spec, views.image_size, views.channels)


def _is_done(training: Training, spec: FinetuneSpec, epochs: int) -> bool:
    """Say whether all epochs are done, or as many as patience allows without a better one.

    Patience stretches with the epochs where few images make more of them.
    """
    done = len(training.history)
    waited = done - training.best_epoch
    return done >= epochs or bool(spec.patience and waited >= spec.patience * epochs / spec.epochs)


def _result(
    training: Training,
    answers: Features,
    labels: Tensor,
    measure: Measure,
    spec: FinetuneSpec,
    counts: Counts,
    skipped: Mapping[str, str],
) -> FinetuneResult:
    votes, own = answers.rows.softmax(dim=1), labels[answers.image_ids]
    scores, _ = compare_votes(measure, {"network": votes}, own, "network")
    groups = layer_groups(training.encoder, spec.layer_decay)
    return FinetuneResult(
        measure=measure,
        score=scores["network"],
        scores=score_votes(votes, own),
        votes=votes,
        test_ids=answers.image_ids,
        best_epoch=training.best_epoch,
        epochs=len(training.history),
        planned_epochs=counts.epochs,
        train_images=counts.train,
        validation_images=counts.held_out,
        rates={group.title: spec.learning_rate * group.rate for group in groups},
        history=tuple(training.history),
        skipped=(*skipped.items(), *answers.skipped),
        weights=training.best,
    )
