"""Weighted nearest neighbours (Wu et al., arXiv:1805.01978, section 3.4): the field's quick look.

The nearest k train rows by cosine vote with weight exp(cosine / temperature). All numbers of
neighbours and all temperatures come from one search: its neighbours are sorted, so the votes of the
first k are a running sum. Letters: N train rows, T test rows, D features, Y classes or labels, K
numbers of neighbours, M temperatures.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from moco.evaluation.compare import Measure, all_scores, fitting_measure, looked_at, value_of
from moco.evaluation.feature_set import FeatureSet, check_pair
from moco.evaluation.neighbours import MEMORY, choose_chunks, nearest_rows

NEIGHBOURS = (1, 5, 10, 20, 50, 100, 200)
TEMPERATURES = (0.02, 0.05, 0.07, 0.1, 0.2, 0.5)
HEADLINE = (200, 0.07)
"""What InstDisc votes with."""
CHOOSING_ROWS = 2000
"""Train rows, evenly spread, that are asked about when neighbours and temperature are chosen."""
VOTE_ROWS = 512


@dataclass(frozen=True)
class Setting:
    """One way to vote, and its score on the test rows."""

    neighbours: int
    temperature: float
    value: float


@dataclass(frozen=True)
class KnnResult:
    """What nearest neighbours make of features."""

    measure: Measure
    """What every value is, from 0 to 1 (R2 may be below)."""
    neighbours: tuple[int, ...]
    temperatures: tuple[float, ...]
    sweep: tuple[tuple[float, ...], ...]
    """[K][M] the measure on the test rows."""
    headline: Setting
    """200 neighbours, or as many as there are, and temperature 0.07, unless asked otherwise."""
    scores: dict[str, float]
    """All scores of the headline, with intervals where they are known."""
    votes: Tensor
    """[T, Y] the headline's votes: shares of the vote for each class, or each label; [T, 1]
    predicted numbers."""
    best: Setting
    """The best of the sweep ON THE TEST ROWS: optimistic, no fair score."""
    chosen: Setting | None
    """The setting that is best on train rows, each left out of its own vote: a fair score."""


def knn(  # noqa: PLR0913  two sets, and how to vote
    train: FeatureSet,
    test: FeatureSet,
    *,
    neighbours: Sequence[int] = NEIGHBOURS,
    temperatures: Sequence[float] = TEMPERATURES,
    headline: tuple[int, float] = HEADLINE,
    measure: Measure | None = None,
    choose: bool = True,
    device: torch.device | None = None,
    memory: int = MEMORY,
) -> KnnResult:
    """Return how well the classes, labels or numbers of neighbours tell those of test rows.

    Args:
        neighbours: each is cut to the train rows there are; the headline's joins them, as its
            temperature joins the temperatures.
        measure: of the sweep; by default what suits the labels.
        choose: also choose a setting on the train rows alone.
        memory: bytes that the search may take; see `knn_memory`.

    Raises:
        ValueError: No neighbours, or a temperature not above 0.
        UsageError: The labels do not have that measure.
        DataError: The sets do not go together (`feature_set.check_pair`).
    """
    check_pair(train, test)
    counts = tuple(sorted({min(k, len(train)) for k in (*neighbours, headline[0])}))
    warmths = tuple(sorted({*temperatures, headline[1]}))
    _check_settings(counts, warmths)
    measure = fitting_measure(measure, test.labels, len(test.classes))
    place = (counts.index(min(headline[0], len(train))), warmths.index(headline[1]))
    sweep = _Sweep(counts, warmths, place, measure, device, memory)
    votes, seen = _vote(sweep, train, test.rows)
    values = [[value_of(measure, of_one, test.labels) for of_one in row] for row in seen]
    settings = [
        Setting(count, warmth, value)
        for count, row in zip(counts, values, strict=True)
        for warmth, value in zip(warmths, row, strict=True)
    ]
    fair = _left_out(sweep, train) if choose else []
    return KnnResult(
        measure=measure,
        neighbours=counts,
        temperatures=warmths,
        sweep=tuple(tuple(row) for row in values),
        headline=settings[place[0] * len(warmths) + place[1]],
        scores=all_scores(votes, test.labels),
        votes=votes,
        best=max(settings, key=lambda setting: setting.value),
        chosen=settings[fair.index(max(fair))] if fair else None,
    )


def knn_class_scores(
    train_features: Tensor,
    train_labels: Tensor,
    test_features: Tensor,
    *,
    classes: int,
    neighbours: int = 200,
    temperature: float = 0.07,
) -> Tensor:
    """Return each test row's vote for each class, [T, Y], rows adding up to 1.

    With fewer train rows than neighbours, all of them vote.

    Raises:
        ValueError: No neighbours, a temperature not above 0, or shapes that do not fit.
    """
    _check_settings([neighbours], [temperature])
    if len(train_features) != len(train_labels) or not len(train_features):
        raise ValueError(f"{len(train_features)} train rows with {len(train_labels)} labels")
    names = tuple(str(number) for number in range(classes))
    train = FeatureSet(train_features, train_labels, names)
    sweep = _Sweep((min(neighbours, len(train)),), (temperature,))
    return _vote(sweep, train, test_features)[0]


def knn_memory(
    train: FeatureSet,
    test: FeatureSet,
    *,
    settings: int = len(NEIGHBOURS) * len(TEMPERATURES),
    most: int = NEIGHBOURS[-1],
    memory: int = MEMORY,
) -> int:
    """Return the most bytes of tensors that `knn` holds beside the rows given to it.

    The search stays within `memory`; with it come the headline's votes, what the measure looks at
    in each setting (8 bytes a row, or all votes for several labels), the votes of a tile, and the
    same for the train rows that are asked about when a setting is chosen.
    """
    count, features = min(most, len(train)), train.rows.shape[1]
    asked = min(len(train), CHOOSING_ROWS)
    search = max(
        choose_chunks(len(train), rows, features, count, memory=memory).memory(features, count)
        for rows in (len(test), asked)
    )
    outputs = _outputs(train)
    seen = 4 * outputs if test.labels.ndim == 2 else 8
    tile = VOTE_ROWS * (3 * 4 * outputs + count * (8 + 3 * 4))
    if train.labels.ndim == 2:
        tile += VOTE_ROWS * count * outputs * 8
    results = (len(test) + asked) * (4 * outputs + settings * seen)
    return search + tile + results + asked * features * train.rows.element_size()


@dataclass(frozen=True)
class _Sweep:
    """Which votes are taken of one search."""

    counts: tuple[int, ...]
    temperatures: tuple[float, ...]
    kept: tuple[int, int] = (0, 0)
    """Places of the setting whose votes are kept whole."""
    measure: Measure = "top1"
    device: torch.device | None = None
    memory: int = MEMORY


def _vote(
    sweep: _Sweep, train: FeatureSet, test_rows: Tensor, own: Tensor | None = None
) -> tuple[Tensor, list[list[Tensor]]]:
    """Return the votes [T, Y] of the kept setting, and what the measure looks at in each, [K][M].

    Args:
        own: [T] the train row that each test row is, which has no vote.
    """
    most, memory = sweep.counts[-1], sweep.memory
    chunks = choose_chunks(len(train), len(test_rows), train.rows.shape[1], most, memory=memory)
    votes = torch.empty(len(test_rows), _outputs(train))
    like = looked_at(sweep.measure, votes[:1])
    seen = [
        [like.new_empty(len(votes), *like.shape[1:]) for _ in sweep.temperatures]
        for _ in sweep.counts
    ]
    for block in nearest_rows(
        train.rows, test_rows, sweep.counts, chunks=chunks, device=sweep.device, own=own
    ):
        for low in range(0, len(block.rows), VOTE_ROWS):
            tile = slice(low, low + VOTE_ROWS)
            cosines, rows = block.similarities[tile].cpu(), block.rows[tile].cpu()
            place = slice(block.first + low, block.first + low + len(rows))
            for m, temperature in enumerate(sweep.temperatures):
                running = _running_votes(cosines, rows, train, sweep.counts, temperature)
                for k, of_tile in enumerate(running):
                    seen[k][m][place] = looked_at(sweep.measure, of_tile)
                    if (k, m) == sweep.kept:
                        votes[place] = of_tile
    return votes, seen


def _outputs(train: FeatureSet) -> int:
    """Return how many votes a row gets: one for each class or label, or the number."""
    return max(1, len(train.classes))


def _running_votes(
    cosines: Tensor,
    rows: Tensor,
    train: FeatureSet,
    counts: Sequence[int],
    temperature: float,
) -> Iterator[Tensor]:
    """Yield the votes [T, Y] of the first k of sorted neighbours [T, K], for each k of `counts`."""
    weights = ((cosines - cosines[:, :1]) / temperature).exp()  # a common factor: no overflow
    labels = train.labels
    outputs = _outputs(train)
    total = weights.new_zeros(len(rows), outputs)
    weight, before = weights.new_zeros(len(rows), 1), 0
    for count in counts:
        new, theirs = weights[:, before:count], labels[rows[:, before:count]]
        before = count
        if labels.ndim == 1 and not labels.is_floating_point():
            total.scatter_add_(1, theirs, new)
            weight = total.sum(dim=1, keepdim=True)  # so that one class alone has a vote of just 1
        else:
            theirs = theirs.to(total.dtype).reshape(*new.shape, outputs)
            total += (new[:, None] @ theirs)[:, 0]
            weight += new.sum(dim=1, keepdim=True)
        yield total / weight


def _left_out(sweep: _Sweep, train: FeatureSet) -> list[float]:
    """Return each setting's score on train rows, in the sweep's order; no test row is looked at.

    Each row is left out of its own vote. Nothing where the rows have no such score.
    """
    asked = torch.arange(min(len(train), CHOOSING_ROWS))
    asked = asked * len(train) // len(asked)
    labels = train.labels[asked]
    if len(train) < 2 or len(torch.unique(labels)) < 2:
        return []
    cut = tuple(min(count, len(train) - 1) for count in sweep.counts)
    _, seen = _vote(replace(sweep, counts=cut), train, train.rows[asked], asked)
    return [value_of(sweep.measure, of_one, labels) for row in seen for of_one in row]


def _check_settings(neighbours: Sequence[int], temperatures: Sequence[float]) -> None:
    for count in neighbours:
        for temperature in temperatures:
            if count < 1 or not temperature > 0:
                raise ValueError(
                    f"need neighbours >= 1 and temperature > 0, got {count}, {temperature}"
                )
