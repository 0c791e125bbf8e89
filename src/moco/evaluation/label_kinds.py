"""What labels ask: one class an image, several classes, or a number. Sources name them as text.

Letters: N images, Y classes.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor

from moco.data.sources.names import LABEL_SEPARATOR
from moco.errors import DataError
from moco.evaluation.feature_set import Task

SEPARATORS = (LABEL_SEPARATOR, ";", "|")


def task_of_labels(*sources: Sequence[str]) -> Task:
    """Return what the labels of some sources together ask for.

    Several classes, where one image at least names more than one; numbers, where all labels are
    numbers and one at least has a fraction: whole numbers are classes, as most data sets have
    them.
    """
    names = {name for labels in sources for name in labels}
    if any(separator in name for name in names for separator in SEPARATORS):
        return "several_classes"
    numbers = [_number(name) for name in names]
    if all(number is not None for number in numbers) and any(
        number is not None and number != int(number) for number in numbers
    ):
        return "number"
    return "one_class"


def read_labels(names: Sequence[str], task: Task, source: object) -> tuple[Tensor, tuple[str, ...]]:
    """Return the labels as `FeatureSet` has them, and the classes' names in order.

    Args:
        names: [N] an image's label; several classes with ";" or "|" between, none of them "".

    Raises:
        DataError: An image has no label, or a label that is no number.
    """
    if task == "number":
        return _numbers(names, source), ()
    if task == "several_classes":
        return _several(names)
    names = [_only(name, source) for name in names]
    _check_named(names, source)
    classes = tuple(sorted(set(names)))
    numbers = {name: number for number, name in enumerate(classes)}
    return torch.tensor([numbers[name] for name in names]), classes


def classes_in(name: str) -> list[str]:
    """Return the classes that one label names."""
    for separator in SEPARATORS:
        if separator in name:
            return [part.strip() for part in name.split(separator) if part.strip()]
    return [name] if name else []


def _several(names: Sequence[str]) -> tuple[Tensor, tuple[str, ...]]:
    of_each = [classes_in(name) for name in names]
    classes = tuple(sorted({name for of_one in of_each for name in of_one}))
    numbers = {name: number for number, name in enumerate(classes)}
    labels = torch.zeros(len(names), len(classes), dtype=torch.bool)
    for row, of_one in enumerate(of_each):
        labels[row, [numbers[name] for name in of_one]] = True
    return labels, classes


def _numbers(names: Sequence[str], source: object) -> Tensor:
    numbers = [_number(name) for name in names]
    wrong = [name for name, number in zip(names, numbers, strict=True) if number is None]
    if wrong:
        raise DataError(
            f"{len(wrong)} of {len(names)} labels of {source} are no numbers ({wrong[0]!r:.60}); "
            "mend them, leave those images out, or take the labels as classes"
        )
    return torch.tensor(numbers, dtype=torch.float64)


def _only(name: str, source: object) -> str:
    """Return the one class that a list of labels names; other labels are as they are."""
    if LABEL_SEPARATOR not in name:
        return name
    found = classes_in(name)
    if len(found) > 1:
        raise DataError(
            f"{source} has images of several classes ({', '.join(found):.60}); take the labels as "
            "several classes"
        )
    return "".join(found)


def _check_named(names: Sequence[str], source: object) -> None:
    empty = sum(1 for name in names if not name)
    if empty:
        raise DataError(
            f"{empty} of {len(names)} images of {source} have no label; label them or leave them "
            "out"
        )


def _number(name: str) -> float | None:
    try:
        number = float(name)
    except ValueError:
        return None
    return number if math.isfinite(number) else None
