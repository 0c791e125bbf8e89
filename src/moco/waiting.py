"""How long a run waits for its data."""

from __future__ import annotations

import time
from collections.abc import Generator
from contextlib import closing
from typing import TypeVar

import torch

Item = TypeVar("Item")


class Waiting:
    """Counts the seconds in which a device had nothing to do but wait for the next batch.

    A GPU may still be at work on earlier steps while its next batch is waited for; then nothing is
    lost, and it does not count.
    """

    def __init__(self, device: torch.device) -> None:
        self.device, self.seconds = device, 0.0

    def over(self, batches: Generator[Item, None, None]) -> Generator[Item, None, None]:
        """Yield the batches; the first is not counted, since loading has only begun."""
        is_first = True
        with closing(batches):
            while True:
                began = time.perf_counter()
                batch = next(batches, None)
                if batch is None:
                    return
                if not is_first and self._is_idle():
                    self.seconds += time.perf_counter() - began
                is_first = False
                yield batch

    def take(self) -> float:
        """Return the seconds counted since the last call."""
        seconds, self.seconds = self.seconds, 0.0
        return seconds

    def _is_idle(self) -> bool:
        if self.device.type != "cuda":
            return True
        return torch.cuda.current_stream(self.device).query()
