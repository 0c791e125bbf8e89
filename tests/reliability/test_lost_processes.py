"""R15, ranks: one that hangs, is late, is killed or fails is named; what is left ends, and goes on.

The limit is 3 seconds; the contract is an error within 5 more.
"""

from __future__ import annotations

import time
from pathlib import Path

import pytest
from ranks import (
    Fault,
    assert_bitwise_equal,
    break_image,
    break_step,
    left_after,
    shared_memory_of,
    started,
    status_of,
    wait_for,
)

TIMEOUT = 3
WITHIN = TIMEOUT + 5
STEPS = 12

pytestmark = pytest.mark.timeout(120)


@pytest.fixture(scope="module")
def words(photos: Path, tiny_settings: list[str]) -> list[str]:
    settings = [word for setting in tiny_settings for word in ("--set", setting)]
    options = ["--recipe", "moco-v2", "--epochs", "3", "--device", "cpu", "--precision", "float32"]
    where = ["--workers", "0", "--timeout", str(TIMEOUT)]
    return ["pretrain", str(photos), *options, *settings, *where]


@pytest.fixture(scope="module")
def unbroken(words: list[str], tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("unbroken")
    with started([*words, "--run", str(folder / "run")], folder, count=2) as ranks:
        assert ranks.wait(60) == [0, 0], ranks.said(0) + ranks.said(1)
    assert not list((folder / "run").glob("stacks*"))
    return folder / "run"


@pytest.mark.parametrize(
    ("fault", "told"),
    [
        (("hangs", 1, 6), "process 1 hangs at step 6, "),
        (("hangs in a library", 1, 6), "process 1 is gone or stuck, last seen at step "),
        (("hangs", 0, 6), "process 0 hangs at step 6, "),
        (("is killed", 1, 6), "process 1 is gone or stuck, last seen at step "),
        (("is killed", 0, 6), "process 0 is gone or stuck, last seen at step "),
    ],
    ids=lambda value: " ".join(map(str, value)) if isinstance(value, tuple) else "",
)
def test_a_rank_that_is_lost_is_named_and_the_run_goes_on_from_its_last_checkpoint(
    fault: Fault, told: str, words: list[str], unbroken: Path, tmp_path: Path
) -> None:
    kind, victim, _ = fault
    run = tmp_path / "run"
    command = [*words, "--run", str(run)]
    with started(command, tmp_path, count=2, breaking=break_step, fault=fault) as ranks:
        wait_for(lambda: (run / "latest").exists())
        began = time.monotonic()
        codes = ranks.wait(30, but=victim)
        seconds = time.monotonic() - began
        pids = ranks.pids()
    assert codes[1 - victim] == 7, ranks.said(1 - victim)
    assert seconds < WITHIN
    (line,) = ranks.said(1 - victim)
    assert told in line
    assert "s ago" in line
    assert "goes on from the last checkpoint" in line
    status = status_of(run)
    assert (status["state"], status["code"]) == ("failed", 7)
    assert told in status["reason"]
    stacks = {path.name: path.read_text() for path in run.glob("stacks_rank*.txt")}
    assert f"stacks_rank{1 - victim}.txt" in stacks  # where it waited
    if kind != "is killed":
        where = "in hang_in" if kind == "hangs" else "in hang_in_a_library"
        assert where in stacks[f"stacks_rank{victim}.txt"]
    assert left_after(pids) == []
    assert shared_memory_of(pids) == []
    with started(command, tmp_path, count=2) as ranks:
        assert ranks.wait(60) == [0, 0], ranks.said(0) + ranks.said(1)
    assert_bitwise_equal(run, unbroken)


def test_a_rank_that_is_late_is_waited_for(
    words: list[str], unbroken: Path, tmp_path: Path
) -> None:
    run = tmp_path / "run"
    command = [*words, "--run", str(run)]
    fault = ("is late", 1, 5)
    with started(command, tmp_path, count=2, breaking=break_step, fault=fault) as ranks:
        assert ranks.wait(60) == [0, 0], ranks.said(0) + ranks.said(1)
    assert_bitwise_equal(run, unbroken)


@pytest.mark.parametrize(("kind", "told"), [("hangs", "hangs"), ("raises", "KeyError")])
def test_a_rank_whose_loading_process_fails_says_so_for_all(
    kind: str, told: str, words: list[str], unbroken: Path, tmp_path: Path
) -> None:
    run = tmp_path / "run"
    command = [*words, "--run", str(run), "--workers", "1", "--epochs", "20"]
    fault = (kind, 1, 10)  # an epoch in which it is of the other's share does not count
    with started(command, tmp_path, count=2, breaking=break_image, fault=fault) as ranks:
        wait_for(ranks.said_in[1].exists)
        began = time.monotonic()
        codes = ranks.wait(30)
        assert time.monotonic() - began < WITHIN + 2  # the start is in it
        pids = ranks.pids()
    assert codes == [3, 3], ranks.said(0) + ranks.said(1)
    assert ranks.said(0) == []
    (line,) = ranks.said(1)
    assert told in line
    assert ".png" in line
    status = status_of(run)
    assert (status["state"], status["code"]) == ("failed", 3)
    assert status["reason"].startswith("process 1 failed: ")
    assert told in status["reason"]
    assert left_after(pids) == []
