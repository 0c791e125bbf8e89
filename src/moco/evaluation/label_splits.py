"""Which few of the train images keep their labels: n of each class, or a share of each.

A split is a function of (seed, draw) and the images' names: not of the order of the files, nor of
what other classes there are. Smaller splits are parts of larger ones of the same draw, as those of
1 % and 10 % by which SimCLR (arXiv:2002.05709, section 4.2) is compared are balanced by class. A
published list is read from a file. Letters: N train images, Y classes.
"""

from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

import torch
from torch import Tensor

from moco.errors import DataError, StorageError, UsageError, storage_remedy
from moco.plain_files import read_small, write_own

MOST_SPLIT_BYTES = 1 << 28
MOST_NAMED = 5


@dataclass(frozen=True)
class Amount:
    """How many labels there are: so many of each class, or else a share of each class."""

    per_class: int = 0
    share: float = 0.0

    def __post_init__(self) -> None:
        if self.per_class < 0 or bool(self.per_class) == bool(self.share):
            raise UsageError(f"labels per class must be from 1, got {self.per_class}")
        if self.share and not 0 < self.share <= 1:
            raise UsageError(f"a share of the labels must be above 0 and up to 1, got {self.share}")

    @property
    def title(self) -> str:
        """What a person calls it."""
        if self.per_class:
            return f"{self.per_class} per class"
        return "all labels" if self.share == 1 else f"{100 * self.share:g} %"

    def of_class(self, images: int) -> int:
        """Return how many of a class of so many images keep their label, at least one."""
        return self.per_class or max(1, round(self.share * images))


@dataclass(frozen=True)
class Split:
    """Some of the train images, the only ones whose labels are looked at."""

    title: str
    draw: int
    rows: Tensor
    """[n] which train rows, rising."""
    places: Tensor
    """[n] each one's place in the random order of its class, 0 to below the class's share."""


def draw_splits(
    labels: Tensor,
    names: Sequence[str],
    classes: Sequence[str],
    amounts: Sequence[Amount],
    *,
    draws: int,
    seed: int,
) -> list[Split]:
    """Return the splits of each amount, `draws` of each; a single one where it takes all labels.

    Args:
        labels: [N] class numbers.
        names: [N] what decides the order, such as paths; row numbers where there are none.
        classes: [Y] names.

    Raises:
        UsageError: No draws, or the same amount twice.
        DataError: A class has fewer images than labels are wanted.
    """
    if draws < 1:
        raise UsageError(f"draws must be from 1, got {draws}")
    if len(set(amounts)) < len(amounts):
        raise UsageError(f"an amount of labels is given twice: {_listed(a.title for a in amounts)}")
    counts = labels.bincount(minlength=len(classes))
    orders = [places_in_class(labels, names, seed=seed, draw=draw) for draw in range(draws)]
    splits = []
    for amount in amounts:
        wanted = torch.tensor([amount.of_class(count) for count in counts.tolist()])
        short = (wanted > counts).nonzero().flatten().tolist()
        if short:
            raise DataError(
                f"class {classes[short[0]]} has {int(counts[short[0]])} train images, fewer than "
                f"{amount.title}; ask for fewer, or add some"
            )
        is_all = bool((wanted == counts).all())
        for draw, places in enumerate(orders[: 1 if is_all else None]):
            rows = (places < wanted[labels]).nonzero().flatten()
            splits.append(Split(amount.title, draw, rows, places[rows]))
    return splits


def places_in_class(
    labels: Tensor, names: Sequence[str], *, seed: int, draw: int, what: str = "labels"
) -> Tensor:
    """Return [N] each image's place in a random order of its own class, counted from 0.

    The order goes by SHA-256 of (what, seed, draw, name), so no image's rank before another depends
    on what else there is.
    """
    keys = [
        hashlib.sha256(
            f"{what}\0{seed}\0{draw}\0{name}".encode("utf-8", "surrogateescape")
        ).digest()
        for name in (names or range(len(labels)))
    ]
    seen: dict[int, int] = {}
    places = torch.zeros(len(labels), dtype=torch.long)
    of_row = labels.tolist()
    for row in sorted(range(len(keys)), key=lambda row: (keys[row], row)):
        places[row] = seen.get(of_row[row], 0)
        seen[of_row[row]] = int(places[row]) + 1
    return places


def write_split(path: Path, split: Split, names: Sequence[str]) -> None:
    """Write which images have labels, a name a line.

    Raises:
        StorageError: It cannot be written.
    """
    lines = [f"# {split.title}, draw {split.draw}", *(names[row] for row in split.rows.tolist())]
    try:
        write_own(path, "\n".join(lines) + "\n")
    except OSError as error:
        reason = error.strerror or error
        raise StorageError(f"cannot write {path}: {reason}; {storage_remedy(error)}") from error


def read_split(
    path: Path, labels: Tensor, names: Sequence[str], classes: Sequence[str], *, draw: int = 0
) -> Split:
    """Return the split of a text file that names an image a line; # begins a comment.

    A name is a path in the source, or its last part where only one image has it, as lists published
    for ImageNet have it.

    Raises:
        DataError: It cannot be read, names none of the images, one twice, or a class not at all.
    """
    rows = sorted(_named_rows(path, names))
    missing = sorted(set(range(len(classes))) - set(labels[rows].tolist()))
    if missing:
        raise DataError(
            f"{path} names no image of class {_listed(classes[number] for number in missing)}; "
            "add some, or leave the class out of train and test"
        )
    chosen = torch.tensor(rows)
    own = [names[row] for row in rows]
    places = places_in_class(labels[chosen], own, seed=0, draw=draw)
    return Split(path.name, draw, chosen, places)


def _named_rows(path: Path, names: Sequence[str]) -> list[int]:
    try:
        text = read_small(path, MOST_SPLIT_BYTES).decode("utf-8", "surrogateescape")
    except (OSError, ValueError) as error:
        reason = getattr(error, "strerror", None) or error
        raise DataError(f"cannot read the split {path}: {reason}; name a text file") from error
    wanted = [line.strip() for line in text.splitlines()]
    wanted = [line for line in wanted if line and not line.startswith("#")]
    rows = {name: row for row, name in enumerate(names)}
    tails: dict[str, list[int]] = {}
    for row, name in enumerate(names):
        tails.setdefault(PurePosixPath(name).name, []).append(row)
    found: list[int] = []
    unknown: list[str] = []
    for name in wanted:
        only = rows.get(name.removeprefix("./"), _only(tails.get(name, [])))
        if only is None:
            unknown.append(name)
        else:
            found.append(only)
    if unknown or not found:
        raise DataError(
            f"{path} names {_listed(unknown) or 'nothing'}, which the train images do not have; "
            "name paths within --train"
        )
    twice = [row for row, times in Counter(found).items() if times > 1]
    if twice:
        raise DataError(f"{path} names {names[twice[0]]} twice; leave one out")
    return found


def _only(rows: list[int]) -> int | None:
    return rows[0] if len(rows) == 1 else None


def _listed(words: Iterable[str]) -> str:
    return ", ".join(list(words)[:MOST_NAMED])
