"""The nearest train rows of each test row, in bounded memory.

Rows may be memory-mapped: a chunk at a time is read, and each train row once for a block of test
rows. Letters: N train rows, T test rows, D features, K neighbours.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import torch
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
PIECE_ROWS, TIED_ROWS = 256, 16
"""Rows that are normalized, and tied rows that are sorted whole, together."""
SHORTEST = 1e-12
"""Length below which a row counts as zeros."""


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
        """Return the most bytes of tensors that a search for `count` neighbours holds.

        The rows given to it are apart. Both kinds of rows are held normalized in float32, and a
        tile has its cosines, in space that is taken once. What is found is held twice when it is
        handed over. Beside these are, at one time, a tile's candidates (value, place) before, in
        and after the merge and the tied rows, or at another the float64 rows of some candidates.
        """
        count += SPARE
        rows = FLOAT * features * (self.block + self.chunk)
        cosines = FLOAT * self.tile * self.chunk
        found = 2 * self.block * count * (FLOAT + INDEX)
        piece = FLOAT * features * PIECE_ROWS  # float16 rows become float32 on their way to a GPU
        candidates = 6 * self.tile * (count + 1) * (FLOAT + INDEX)
        tied = TIED_ROWS * self.chunk * (2 * FLOAT + 2 * INDEX)
        settling = max(SETTLING_BYTES, 3 * DOUBLE * count * features)
        return rows + cosines + found + max(piece, candidates + tied, settling)


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
    a_row = FLOAT * features + 2 * (count + SPARE) * (FLOAT + INDEX)
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
    space = _take_space(train, test, chunks, device)
    for first in range(0, len(test), chunks.block):
        asked = test[first : first + chunks.block]
        queries = _normalize_into(space.queries, asked)
        values = torch.full((len(asked), count), -torch.inf, device=device)
        rows = torch.full((len(asked), count), -1, device=device)
        tiles = [
            slice(low, min(low + chunks.tile, len(asked)))
            for low in range(0, len(asked), chunks.tile)
        ]
        for start in range(0, len(train), chunks.chunk):
            known = _normalize_into(space.known, train[start : start + chunks.chunk])
            for tile in tiles:
                cosines = _compare(queries[tile], known, space.cosines)
                if own is not None:
                    _leave_out(cosines, own[first + tile.start : first + tile.stop], start)
                _merge(values[tile], rows[tile], cosines, start)
        for tile in tiles:
            _settle(train, asked[tile], values[tile], rows[tile], cuts)
        yield Nearest(first, values[:, :last], rows[:, :last])


@dataclass(frozen=True)
class _Space:
    """What a search holds throughout, taken once.

    Otherwise each step would hold the last one's too, and pieces of many sizes, given back, would
    leave gaps that the allocator keeps.
    """

    queries: Tensor
    known: Tensor
    cosines: Tensor


def _take_space(train: Tensor, test: Tensor, chunks: Chunks, device: torch.device) -> _Space:
    block, chunk = min(chunks.block, len(test)), min(chunks.chunk, len(train))
    return _Space(
        torch.empty(block, test.shape[1], device=device),
        torch.empty(chunk, train.shape[1], device=device),
        torch.empty(min(chunks.tile, block) * chunk, device=device),
    )


def _normalize_into(space: Tensor, rows: Tensor) -> Tensor:
    """Return the rows [N, D] with length 1, in the first of the space."""
    held = space[: len(rows)]
    for piece, source in zip(
        *(torch.split(all_rows, PIECE_ROWS) for all_rows in (held, rows)), strict=True
    ):
        piece.copy_(source)
        piece /= piece.norm(dim=1, keepdim=True).clamp(min=SHORTEST)
    return held


def _compare(queries: Tensor, known: Tensor, space: Tensor) -> Tensor:
    """Return the cosines of normalized rows, in the first of the space."""
    cosines = space[: len(queries) * len(known)].view(len(queries), len(known))
    return torch.mm(queries, known.T, out=cosines)


def _merge(values: Tensor, rows: Tensor, cosines: Tensor, start: int) -> None:
    """Let the best of a chunk, whose first row is `start`, join the candidates [T, K], in place."""
    count = values.shape[1]
    top, places = _top(cosines, min(count, cosines.shape[1]))
    merged, order = torch.cat([values, top], dim=1).sort(dim=1, descending=True, stable=True)
    numbers = torch.cat([rows, places.add_(start)], dim=1)
    values.copy_(merged[:, :count])
    rows.copy_(numbers.gather(1, order[:, :count]))


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
        for some in torch.split(tied, TIED_ROWS):
            order = cosines[some].argsort(dim=1, descending=True, stable=True)
            places[some] = order[:, : count + 1]
    places = places[:, :count].sort(dim=1).values
    return cosines.gather(1, places), places
