"""Who of several processes is still there: each says so, and says why when it leaves.

What is said lies in the store at which the processes met. A thread says it, so that a process that
waits for another still answers, and one that was killed no longer does.
"""

from __future__ import annotations

import json
import os
import threading
import time
from collections.abc import Callable
from contextlib import suppress
from typing import Any, TypeVar

from torch.distributed.distributed_c10d import PrefixStore, Store

Result = TypeVar("Result")
BEAT_SECONDS = 0.5
ANSWER_SECONDS = 2.0
"""How long the others get to say why they leave."""
STORE_SECONDS = 5.0
"""The store's machine may be gone, and then it never answers."""


class RollCall:
    """The processes of a run, as one of them sees them.

    Args:
        name: the same in all processes, another for each run.
    """

    def __init__(self, store: Store, name: str, own: int, count: int) -> None:
        restart = os.environ.get("TORCHELASTIC_RESTART_COUNT", "0")
        self.store, self.own, self.count = PrefixStore(f"moco/{restart}/{name}", store), own, count
        self.step: int | None = None
        self.seen: int | None = None
        """The last step that all processes ended together."""
        self.since = time.monotonic()
        self._left = threading.Event()
        self._beats = threading.Thread(target=self._beat, daemon=True)
        self._beats.start()

    def note(self, step: int) -> None:
        """Say that this process begins step `step`."""
        self.seen, self.step, self.since = self.step, step, time.monotonic()

    def leave_quietly(self) -> None:
        """Say no more, as all is done."""
        self._left.set()
        self._beats.join(2 * BEAT_SECONDS)

    def leave(self, code: int | None = None, reason: str = "") -> None:
        """Say no more; if it is because something is wrong, what.

        Args:
            code: the exit code, None when it is only that another process is lost.
        """
        self.leave_quietly()
        last = json.dumps({"code": code, "reason": reason})
        _in_time(lambda: self.store.set(f"last/{self.own}", last))

    def last_words(self) -> dict[int, dict[str, Any]]:
        """Return what those who left said, by process, once all did or had time to."""
        words: dict[int, dict[str, Any]] = {}
        until = time.monotonic() + ANSWER_SECONDS
        while len(words) < self.count and time.monotonic() < until:
            words = self._read("last")
            time.sleep(BEAT_SECONDS / 10)
        return words

    def beats(self) -> dict[int, dict[str, Any]]:
        """Return the newest that each process said of itself."""
        return self._read("alive")

    def _beat(self) -> None:
        number = 0
        with suppress(RuntimeError):  # the store is gone, and with it who would ask
            while not self._left.wait(BEAT_SECONDS):
                number += 1
                seconds = round(time.monotonic() - self.since, 1)
                beat = {"beat": number, "step": self.step, "seconds": seconds}
                self.store.set(f"alive/{self.own}", json.dumps(beat))

    def _read(self, what: str) -> dict[int, dict[str, Any]]:
        def read() -> dict[int, dict[str, Any]]:
            keys = {place: f"{what}/{place}" for place in range(self.count)}
            present = {place: key for place, key in keys.items() if self.store.check([key])}
            return {place: json.loads(self.store.get(key)) for place, key in present.items()}

        return _in_time(read) or {}


def _in_time(work: Callable[[], Result]) -> Result | None:
    """Return what `work` returns, None if the store does not answer."""
    results: list[Result] = []

    def ask() -> None:
        with suppress(RuntimeError):
            results.append(work())

    asking = threading.Thread(target=ask, daemon=True)
    asking.start()
    asking.join(STORE_SECONDS)
    return results[0] if results else None


def who_is_lost(call: RollCall) -> tuple[dict[int, dict[str, Any]], list[str]]:
    """Return the last words of those who left, and a phrase for each of the others.

    Who neither waits nor left is lost: its beats have ended, or it hangs at a step. Where a process
    was killed, others may not have noticed yet: then only those whose beats ended are named.
    """
    before = call.beats()
    words = call.last_words()
    after = call.beats()
    if call.own not in words:
        return words, ["process 0 or its launcher is gone, where all processes meet"]
    silent = [place for place in range(call.count) if place not in words]
    gone = [place for place in silent if before.get(place) == after.get(place)]
    own_seconds = time.monotonic() - call.since
    phrases = []
    for place in gone or silent:
        beat = after.get(place, {})
        steps = [step for step in (beat.get("step"), call.seen) if step is not None]
        step = max(steps, default=None)
        where = "before its first step" if step is None else f"at step {step}"
        seconds = own_seconds if place in gone else beat["seconds"]
        state = "is gone or stuck, last seen" if place in gone else "hangs"
        phrases.append(f"process {place} {state} {where}, {seconds:.0f} s ago")
    return words, phrases
