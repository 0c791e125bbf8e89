"""The nearest train rows of each test row, in bounded memory.

Rows may be memory-mapped: a chunk at a time is read, and each train row once for a block of test
rows. Letters: N train rows, T test rows, D features, K neighbours.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

MEMORY = 1 << 30
"""Bytes that a search takes by default."""
TILE_ROWS, CHUNK_ROWS, LEAST_ROWS = 512, 8192, 64
FLOAT, INDEX, DOUBLE = 4, 8, 8
SPARE = 32
"""Candidates beyond the last neighbour, among which float64 may find a nearer one."""
UNSURE = 2e-6
"""Cosines of float32 that differ by less are told apart in float64."""
DECIMALS = 12
"""Of cosines in float64: what differs by less is rounding, and equal."""
SETTLING_BYTES = 1 << 24


@dataclass(frozen=True)
class Nearest:
    """The nearest train rows of some test rows, the nearest first."""

    first: int
    """The number of the first of these test rows."""
    similarities: Tensor
    """[T, K] cosines, float32."""
    rows: Tensor
    """[T, K] numbers of train rows."""


@dataclass(frozen=True)
class Chunks:
    """How many rows are looked at together."""

    block: int
    """Test rows for which the train rows are read once."""
    tile: int
    """Test rows of the block that are compared together,"""
    chunk: int
    """with so many train rows."""

    def memory(self, features: int, count: int) -> int:
        """Return the most bytes that a search for `count` neighbours holds, rows given apart.

        Both kinds of rows are held as float32 twice, as they come and normalized; a tile has its
        cosines, and its candidates (value, place) before, in and after the merge; what is found is
        held twice when it is handed over; some rows' candidates are looked at in float64.
        """
        count += SPARE
        rows = 2 * FLOAT * features * (self.block + self.chunk)
        cosines = self.tile * self.chunk * (FLOAT + 1)  # and a byte that says which are compared
        candidates = 8 * self.tile * (count + 1) * (FLOAT + INDEX)
        found = 2 * self.block * count * (FLOAT + INDEX)
        settling = max(SETTLING_BYTES, 3 * DOUBLE * count * features)
        return rows + cosines + candidates + found + settling


def choose_chunks(
    train_rows: int, test_rows: int, features: int, count: int, *, memory: int = MEMORY
) -> Chunks:
    """Return the largest block of test rows, up to all, whose search fits in `memory` bytes.

    With less memory than the smallest chunks take, those; `Chunks.memory` tells.
    """
    chunk, tile = min(train_rows, CHUNK_ROWS), min(test_rows, TILE_ROWS)
    while Chunks(tile, tile, chunk).memory(features, count) > memory / 2 and chunk > LEAST_ROWS:
        chunk = max(LEAST_ROWS, chunk // 2)
        tile = max(min(tile, LEAST_ROWS), tile // 2)
    least = Chunks(tile, tile, chunk).memory(features, count)
    a_row = 2 * FLOAT * features + 2 * (count + SPARE) * (FLOAT + INDEX)
    more = max(0, memory - least) // a_row // tile * tile
    return Chunks(min(test_rows, tile + more), tile, chunk)


@torch.no_grad()
def nearest_rows(
    train: Tensor,
    test: Tensor,
    cuts: Sequence[int],
    *,
    chunks: Chunks,
    device: torch.device | None = None,
    own: Tensor | None = None,
) -> Iterator[Nearest]:
    """Yield the train rows of highest cosine with each test row, a block of test rows at a time.

    Equal cosines go to the lower train row, whatever the chunks. Cosines are of float32; where that
    leaves open which rows are the nearest k, for a k of `cuts`, float64 says. (Of more than `SPARE`
    rows that float32 cannot tell apart, those of lower numbers are looked at.) Rows of zeros have
    cosine 0 with all.

    Args:
        train: [N, D], of any float type; test: [T, D].
        cuts: numbers of neighbours, rising; the last is how many are found.
        own: [T] the train row that is the test row itself and no neighbour, -1 where none is.

    Raises:
        ValueError: More neighbours asked for than there are.
    """
    others, last = len(train) - int(own is not None), cuts[-1]
    count = min(last + SPARE, others)
    if not 1 <= last <= others:
        raise ValueError(f"asked for {last} neighbours of {others} rows")
    device = device or test.device
    for first in range(0, len(test), chunks.block):
        queries = _normalized(test[first : first + chunks.block], device)
        values = torch.full((len(queries), count), -torch.inf, device=device)
        rows = torch.full((len(queries), count), -1, device=device)
        for start in range(0, len(train), chunks.chunk):
            known = _normalized(train[start : start + chunks.chunk], device)
            for low in range(0, len(queries), chunks.tile):
                tile = slice(low, min(low + chunks.tile, len(queries)))
                cosines = queries[tile] @ known.T
                if own is not None:
                    _leave_out(cosines, own[first + tile.start : first + tile.stop], start)
                top, places = _top(cosines, min(count, len(known)))
                merged = torch.cat([values[tile], top], dim=1)
                merged, order = merged.sort(dim=1, descending=True, stable=True)
                numbers = torch.cat([rows[tile], places + start], dim=1)
                values[tile] = merged[:, :count]
                rows[tile] = numbers.gather(1, order[:, :count])
        _settle(train, test[first : first + chunks.block], values, rows, cuts)
        yield Nearest(first, values[:, :last], rows[:, :last])


def _settle(train: Tensor, test: Tensor, values: Tensor, rows: Tensor, cuts: Sequence[int]) -> None:
    """Order the candidates of test rows by float64 where float32 is unsure which are the first k.

    Changes values and rows [T, K] in place.
    """
    ends = [cut for cut in cuts if cut < values.shape[1]]
    if not ends:
        return
    behind = torch.tensor(ends, device=values.device)
    unsure = (values[:, behind - 1] - values[:, behind] < UNSURE).any(dim=1).nonzero().flatten()
    together = max(1, SETTLING_BYTES // (3 * DOUBLE * values.shape[1] * train.shape[1]))
    for some in torch.split(unsure, together):
        candidates = rows[some].sort(dim=1).values.cpu()  # so that of equal ones the lower is first
        known = train[candidates].double()
        asked = test[some.cpu()].double()[:, None]
        lengths = known.norm(dim=2) * asked.norm(dim=2)
        cosines = (known * asked).sum(dim=2) / lengths.clamp(min=1e-300)
        cosines = cosines.round(decimals=DECIMALS)
        cosines, order = cosines.sort(dim=1, descending=True, stable=True)
        values[some] = cosines.to(values)
        rows[some] = candidates.gather(1, order).to(rows.device)


def _normalized(rows: Tensor, device: torch.device) -> Tensor:
    return F.normalize(rows.to(device).float(), dim=1)


def _leave_out(cosines: Tensor, own: Tensor, start: int) -> None:
    """Make each row's own column, where it is among these, the last choice."""
    places = own.to(cosines.device) - start
    among = ((places >= 0) & (places < cosines.shape[1])).nonzero().flatten()
    cosines[among, places[among]] = -torch.inf


def _top(cosines: Tensor, count: int) -> tuple[Tensor, Tensor]:
    """Return the `count` largest of each row and their places; of equal ones the first places.

    `topk` may take any of equal ones, so rows with a tie at the end of the choice are sorted whole.
    Chosen places come in order, for the stable sort of the merge.
    """
    values, places = cosines.topk(min(count + 1, cosines.shape[1]), dim=1)
    if values.shape[1] > count:
        tied = (values[:, count - 1] == values[:, count]).nonzero().flatten()
        if len(tied):
            order = cosines[tied].argsort(dim=1, descending=True, stable=True)
            places[tied] = order[:, : count + 1]
    places = places[:, :count].sort(dim=1).values
    return cosines.gather(1, places), places
