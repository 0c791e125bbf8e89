"""Contenders are timed in turn, in whole passes, on one thread."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch

from moco.benchmark.contender import Contender, Views, check_work
from moco.benchmark.timing import elapsed, images_per_second, passes_in, rates_in_turn
from moco.recipes import MOCO_V2

CalledPasses = list[tuple[str, int]]


def contender(name: str, run: Callable[[int], Views], images: int = 4) -> Contender:
    return Contender(name, name, "nothing", images, torch.uint8, run)


def recorded(names: str, calls: CalledPasses) -> list[Contender]:
    def run_of(name: str) -> Callable[[int], Views]:
        def run(number: int) -> Views:
            calls.append((name, number))
            return torch.zeros(0), torch.zeros(0)

        return run

    return [contender(name, run_of(name)) for name in names]


class PassClock:
    """Tells the same time until a pass was made, then so many seconds more."""

    def __init__(self, calls: CalledPasses, seconds: dict[str, float]) -> None:
        self.calls, self.seconds = calls, seconds

    def __call__(self, _: Contender) -> float:
        return sum(self.seconds[name] for name, _ in self.calls)


def test_turns_are_interleaved() -> None:
    calls: CalledPasses = []
    clock = PassClock(calls, {"A": 1.0, "B": 1.0, "C": 1.0})
    images_per_second(recorded("ABC", calls), rounds=3, seconds=1.0, clock=clock)
    assert "".join(name for name, _ in calls) == "ABCABCABC"


def test_a_turn_is_of_whole_passes_and_lasts_the_seconds() -> None:
    calls: CalledPasses = []
    clock = PassClock(calls, {"A": 2.0, "B": 0.5})
    rates = images_per_second(recorded("AB", calls), rounds=2, seconds=1.2, clock=clock)
    assert "".join(name for name, _ in calls) == "ABBBABBB"
    assert [number for name, number in calls if name == "B"] == [0, 1, 2, 0, 1, 2]
    assert rates == {"A": [4 / 2.0] * 2, "B": [3 * 4 / 1.5] * 2}


def test_a_turn_of_so_many_passes_looks_at_the_clock_twice() -> None:
    calls: CalledPasses = []
    looks: list[int] = []

    def clock(_: object) -> float:
        looks.append(len(calls))
        return float(len(calls))

    (a,) = recorded("A", calls)
    rates = rates_in_turn([a], rounds=2, seconds=0.1, passes={"A": 5}, clock=clock)
    assert looks == [0, 5, 5, 10]
    assert rates == {"A": [4.0, 4.0]}


def test_as_many_passes_as_take_so_long(monkeypatch: pytest.MonkeyPatch) -> None:
    calls: CalledPasses = []
    monkeypatch.setattr("time.process_time", lambda: 0.5 * len(calls))
    assert passes_in(recorded("AB", calls), 1.7) == {"A": 4, "B": 4}
    assert passes_in(recorded("A", calls), 0.1) == {"A": 1}


def test_uses_one_thread_and_gives_the_others_back() -> None:
    before, seen = torch.get_num_threads(), []
    torch.set_num_threads(2)

    def run(_: int) -> Views:
        seen.append(torch.get_num_threads())
        return torch.zeros(0), torch.zeros(0)

    images_per_second([contender("A", run)], rounds=1, seconds=1e-9)
    after = torch.get_num_threads()
    torch.set_num_threads(before)
    assert (set(seen), after) == ({1}, 2)


def test_the_clock_counts_what_is_computed_and_not_what_is_waited(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("time.process_time", lambda: 3.0)
    monkeypatch.setattr("time.perf_counter", lambda: 7.0)
    row = contender("A", lambda _: (torch.zeros(0), torch.zeros(0)))
    assert elapsed(row) == 3.0
    assert row.is_per_core
    elsewhere = Contender("A", "A", "", 1, torch.uint8, row.run, torch.device("meta"))
    assert elapsed(elsewhere) == 7.0
    assert not elsewhere.is_per_core


def made(shape: tuple[int, ...], kind: torch.dtype) -> Views:
    return torch.zeros(shape, dtype=kind), torch.zeros(shape, dtype=kind)


def test_less_work_is_refused() -> None:
    views = MOCO_V2.views
    check_work(contender("A", lambda _: made((4, 3, 224, 224), torch.uint8)), views)
    for shape in ((3, 3, 224, 224), (4, 1, 224, 224), (4, 3, 112, 112)):
        with pytest.raises(ValueError, match="not two of"):
            check_work(contender("A", lambda _, s=shape: made(s, torch.uint8)), views)  # type: ignore[misc]
    with pytest.raises(ValueError, match="ends in"):
        check_work(contender("A", lambda _: made((4, 3, 224, 224), torch.float32)), views)
    one = torch.zeros(4, 3, 224, 224, dtype=torch.uint8)
    with pytest.raises(ValueError, match="twice"):
        check_work(contender("A", lambda _: (one, one)), views)
