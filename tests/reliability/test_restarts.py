"""R14 and R7 under a real torchrun: ranks that die again and again, signals that it passes on."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from ranks import (
    assert_bitwise_equal,
    descendants,
    left_after,
    losses_of,
    shared_memory_of,
    started,
    status_of,
    wait_for,
)

SIGNALS = "SIGTERM,SIGINT,SIGHUP,SIGQUIT,SIGUSR1,SIGUSR2"

EPOCHS = "40"  # of four steps
THREES = [[a, b, c] for a in (0, 1) for b in (0, 1) for c in (0, 1) if (a, b, c) != (0, 0, 0)]
"""Whom of two ranks to kill in each of three starts; with the single one 22 kills."""

Launch = Callable[..., subprocess.Popen[str]]


@pytest.fixture
def launch(photos: Path, tiny_settings: list[str]) -> Iterator[Launch]:
    """Return a function that starts `torchrun -m moco pretrain` in two processes."""
    launched: list[subprocess.Popen[str]] = []
    options = options_of(tiny_settings)

    def start(run: Path, *words: str, of_launcher: tuple[str, ...] = ()) -> subprocess.Popen[str]:
        launcher = ["-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2"]
        command = ["-m", "moco", "pretrain", str(photos), "--run-dir", str(run), *options, *words]
        process = subprocess.Popen(
            [sys.executable, *launcher, *of_launcher, *command],
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            env={**os.environ, "OMP_NUM_THREADS": "1"},
        )
        launched.append(process)
        return process

    yield start
    for process in launched:
        for pid in [*descendants(process.pid), process.pid]:
            if process.poll() is None:
                os.kill(pid, signal.SIGKILL)
        process.communicate()


@pytest.fixture(scope="module")
def unbroken(
    photos: Path, tiny_settings: list[str], tmp_path_factory: pytest.TempPathFactory
) -> Path:
    folder = tmp_path_factory.mktemp("unbroken")
    words = ["pretrain", str(photos), "--run", str(folder / "run"), *options_of(tiny_settings)]
    with started([*words, "--epochs", EPOCHS, "--workers", "0"], folder, count=2) as ranks:
        assert ranks.wait(120) == [0, 0], ranks.said(0) + ranks.said(1)
    return folder / "run"


def options_of(tiny: list[str]) -> list[str]:
    settings = [word for setting in tiny for word in ("--set", setting)]
    return ["--recipe", "moco-v2", "--device", "cpu", "--precision", "float32", *settings]


def ranks_of(launcher: int) -> list[int]:
    """Return the ranks' processes, the first rank first; none while it has not both."""
    found = {}
    for pid in descendants(launcher):
        try:
            words = Path(f"/proc/{pid}/environ").read_bytes().split(b"\0")
            parent = int(Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[1])
        except OSError:
            continue
        rank = next((word for word in words if word.startswith(b"RANK=")), None)
        if rank is not None and parent == launcher:
            found[int(rank[5:])] = pid
    return [found[0], found[1]] if len(found) == 2 else []


def kill_ranks(launcher: subprocess.Popen[str], run: Path, victims: list[int]) -> list[int]:
    """Kill a rank of each restart in turn, when the restart took some steps; return all pids."""
    seen: list[int] = []
    for victim in victims:
        wait_for(lambda known=set(seen): status_pid(run) in set(ranks_of(launcher.pid)) - known)
        steps = len(losses_of(run))
        wait_for(lambda at=steps: len(losses_of(run)) > at)
        ranks = ranks_of(launcher.pid)
        seen += [below for rank in ranks for below in [rank, *descendants(rank)]]
        os.kill(ranks[victim], signal.SIGKILL)
    return seen


def status_pid(run: Path) -> int:
    try:
        status = status_of(run)
    except (OSError, ValueError):
        return 0
    return int(status["pid"]) if status["state"] == "running" and status["step"] else 0


@pytest.mark.timeout(280)
@pytest.mark.parametrize(
    "victims",
    [[1], *(pytest.param(three, marks=pytest.mark.slow) for three in THREES)],
    ids=lambda victims: "".join(map(str, victims)),
)
def test_ranks_killed_under_torchrun_end_as_if_none_had_been(
    victims: list[int], launch: Launch, unbroken: Path, tmp_path: Path
) -> None:
    run = tmp_path / "run"
    options = ["--epochs", EPOCHS, "--workers", "1", "--timeout", "10"]
    process = launch(run, *options, of_launcher=("--max-restarts", "3"))
    pids = kill_ranks(process, run, victims)
    shown, _ = process.communicate(timeout=120)
    assert process.returncode == 0, shown
    assert shown.count("going on from step") == len(victims)
    assert_bitwise_equal(run, unbroken)
    assert left_after(pids) == []
    assert shared_memory_of(pids) == []


@pytest.mark.slow
@pytest.mark.timeout(200)
@pytest.mark.parametrize(
    ("number", "code"),
    [(signal.SIGTERM, 75), (signal.SIGUSR1, 75), (signal.SIGUSR2, 75), (signal.SIGINT, 130)],
)
def test_a_signal_to_torchrun_stops_all_ranks_saved(
    number: signal.Signals, code: int, launch: Launch, tmp_path: Path
) -> None:
    run = tmp_path / "run"
    process = launch(run, "--epochs", "5000", of_launcher=("--signals-to-handle", SIGNALS))
    wait_for(lambda: (run / "latest").exists())
    pids = [process.pid, *descendants(process.pid)]
    began = time.monotonic()
    process.send_signal(number)
    shown, _ = process.communicate(timeout=60)
    assert time.monotonic() - began < 30
    assert process.returncode != 0
    status = status_of(run)
    assert (status["state"], status["code"]) == ("interrupted", code)
    assert f"stopped and saved after step {status['step']} of" in shown
    assert (run / "latest").read_text() == f"step_{status['step']:08d}"
    assert left_after(pids) == []


@pytest.mark.slow
@pytest.mark.timeout(200)
def test_a_rank_that_stands_still_is_named_and_ended(launch: Launch, tmp_path: Path) -> None:
    run = tmp_path / "run"
    process = launch(run, "--epochs", "5000", "--timeout", "4")
    wait_for(lambda: (run / "latest").exists())
    ranks = ranks_of(process.pid)
    os.kill(ranks[1], signal.SIGSTOP)
    wait_for(lambda: status_of(run)["state"] == "failed", 4 + 5)
    shown, _ = process.communicate(timeout=60)  # torchrun kills it after half a minute
    assert process.returncode == 1
    assert "process 1 is gone or stuck, last seen at step" in shown
    assert status_of(run)["code"] == 7
    assert left_after(ranks) == []
