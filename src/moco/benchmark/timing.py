"""Times contenders in turn, so that what slows a shared machine for a while slows all of them."""

from __future__ import annotations

import gc
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager

import torch

from moco.benchmark.contender import Contender

Clock = Callable[[Contender], float]


def elapsed(contender: Contender) -> float:
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
    contenders: Sequence[Contender], *, rounds: int, seconds: float, clock: Clock = elapsed
) -> dict[str, list[float]]:
    """Return the rate of each contender in each round: A B C, A B C, and so on.

    Args:
        seconds: how long a contender's turn takes at least; it makes whole passes.
    """
    rates: dict[str, list[float]] = {contender.name: [] for contender in contenders}
    with one_thread():
        for _ in range(rounds):
            for contender in contenders:
                rates[contender.name].append(_turn(contender, seconds, clock))
    return rates


def _turn(contender: Contender, seconds: float, clock: Clock) -> float:
    passes, began = 0, clock(contender)
    while True:
        contender.run(passes)
        passes += 1
        taken = clock(contender) - began
        if taken >= seconds:
            return passes * contender.images / taken


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
