"""Times contenders in turn, so that what slows a shared machine for a while slows all of them."""

from __future__ import annotations

import gc
import math
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Protocol

import torch

from moco.errors import UsageError

MOST_SECONDS = 3600


class Timed(Protocol):
    """What can be timed."""

    @property
    def name(self) -> str:
        """What it is called."""
        ...

    @property
    def images(self) -> int:
        """How many a pass takes."""
        ...

    @property
    def device(self) -> torch.device:
        """Where it computes."""
        ...

    @property
    def is_per_core(self) -> bool:
        """Whether its rate is one of a processor core, or of a whole device."""
        ...

    def run(self, number: int, /) -> object:
        """Make a pass, numbered from 0."""
        ...


Clock = Callable[[Timed], float]


def elapsed(contender: Timed) -> float:
    """Return a reading of the clock that suits it, in seconds.

    CPU time of this process, where other programs count little; on another device the time on the
    wall when it has done all that it was told to.
    """
    if contender.is_per_core:
        return time.process_time()
    if contender.device.type == "cuda":
        torch.cuda.synchronize(contender.device)
    elif contender.device.type == "mps":
        torch.mps.synchronize()
    return time.perf_counter()


def images_per_second(
    contenders: Sequence[Timed], *, rounds: int, seconds: float, clock: Clock = elapsed
) -> dict[str, list[float]]:
    """Return the rate of each contender in each round: A B C, A B C, and so on.

    Args:
        seconds: how long a contender's turn takes at least; it makes whole passes.
    """
    with one_thread():
        return rates_in_turn(contenders, rounds=rounds, seconds=seconds, clock=clock)


def rates_in_turn(
    contenders: Sequence[Timed],
    *,
    rounds: int,
    seconds: float,
    passes: Mapping[str, int] | None = None,
    clock: Clock = elapsed,
) -> dict[str, list[float]]:
    """Return the same in as many threads as there are.

    Args:
        passes: of a turn, by name, between two looks at the clock; others last the seconds.
    """
    fixed = passes or {}
    rates: dict[str, list[float]] = {contender.name: [] for contender in contenders}
    for _ in range(rounds):
        for contender in contenders:
            count = fixed.get(contender.name)
            rates[contender.name].append(_turn(contender, seconds, count, clock))
    return rates


def _turn(contender: Timed, seconds: float, count: int | None, clock: Clock) -> float:
    passes, began = 0, clock(contender)
    while True:
        contender.run(passes)
        passes += 1
        if count is not None and passes < count:
            continue
        taken = clock(contender) - began
        if count is not None or taken >= seconds:
            return passes * contender.images / taken


def passes_in(contenders: Sequence[Timed], seconds: float) -> dict[str, int]:
    """Return how many passes of each take so long.

    A device is only waited for when a turn is over: to wait after each pass, to look at the clock,
    would hide how far a contender runs ahead of the device.
    """
    found = {}
    for contender in contenders:
        contender.run(0)
        began = elapsed(contender)
        contender.run(1)
        found[contender.name] = max(1, math.ceil(seconds / (elapsed(contender) - began)))
    return found


def check_times(rounds: int, seconds: float) -> None:
    """Refuse numbers that make no sense.

    Raises:
        UsageError: No round, or turns of no time or of days.
    """
    if rounds < 1:
        raise UsageError(f"--rounds must be from 1, got {rounds}")
    if not 0 < seconds <= MOST_SECONDS:
        raise UsageError(f"--seconds must be above 0, at most {MOST_SECONDS}, got {seconds:g}")


@contextmanager
def one_thread() -> Iterator[None]:
    """Let torch compute in one thread, and garbage of what was imported before not be counted."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    gc.collect()
    gc.freeze()
    try:
        yield
    finally:
        gc.unfreeze()
        torch.set_num_threads(threads)
