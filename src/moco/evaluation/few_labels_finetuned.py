"""How far the whole network goes with few labels, on the very splits of the linear probe."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from torch import nn

from moco.evaluation.compare import Measure, fitting_measure
from moco.evaluation.few_labels import Answer, FewLabelsResult, levels_of
from moco.evaluation.finetune import FinetuneResult, finetune
from moco.evaluation.finetune_spec import FINETUNE, FinetuneSpec
from moco.evaluation.finetune_training import Compute
from moco.evaluation.label_splits import Split
from moco.evaluation.labelled_part import Labelled, part_of
from moco.specs import ViewsSpec


def few_labels_finetuned(  # noqa: PLR0913  each is a choice of its own
    backbone: nn.Module,
    train: Labelled,
    test: Labelled,
    splits: Sequence[Split],
    spec: FinetuneSpec = FINETUNE,
    *,
    views: ViewsSpec,
    seed: int = 0,
    measure: Measure | None = None,
    compute: Compute = Compute(),  # noqa: B008  it is frozen
    report: Callable[[Split, FinetuneResult], None] | None = None,
) -> FewLabelsResult:
    """Return how the network does, fine-tuned anew on each split; see `finetune`.

    Args:
        train: all train images; no label outside a split is looked at in its training.
        test: images that all can be read.
        splits: by rows of `train`.
        seed: of draw 0; another draw has another one.
        report: told of each split that is done.

    Raises:
        DataError: Train and test differ in their classes, or no image can be read.
    """
    measure = fitting_measure(measure, test.labels, len(test.classes))
    answers = []
    for split in splits:
        found = finetune(
            backbone,
            part_of(train, split.rows),
            test,
            spec,
            views=views,
            seed=seed + split.draw,
            measure=measure,
            compute=compute,
        )
        answers.append(Answer(found.votes, found.best_epoch, found.validation_images > 0))
        if report is not None:
            report(split, found)
    levels = levels_of(measure, test.labels, splits, answers)
    return FewLabelsResult("fine-tuned", measure, levels, len(train), len(test))
