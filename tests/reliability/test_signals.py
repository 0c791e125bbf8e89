"""R6: TERM, INT, USR1 and USR2 at random moments: saved, gone at once, and taken up bit for bit."""

from __future__ import annotations

import contextlib
import importlib
import json
import multiprocessing
import os
import random
import signal
import sys
import time
from multiprocessing.process import BaseProcess
from pathlib import Path

import pytest

from moco.checkpoint import load_newest
from moco.cli.main import main
from moco.run_records import read_lines

workers_module = importlib.import_module("moco.data.workers")
pytestmark = pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork")
EPOCHS, STEPS_PER_EPOCH, PATIENCE, STOPS = 40, 4, 60, 20
CODES = {
    signal.SIGTERM: 75,
    signal.SIGINT: 130,
    signal.SIGUSR1: 75,
    signal.SIGUSR2: 75,
}


@pytest.fixture(scope="module")
def command(photos: Path, tiny_settings: list[str]) -> list[str]:
    settings = [word for setting in tiny_settings for word in ("--set", setting)]
    order = ["--set", "views.order=[crop]", "--device", "cpu", "--epochs", str(EPOCHS)]
    return ["pretrain", str(photos), "--recipe", "moco-v2", *settings, *order]


@pytest.fixture(scope="module")
def unbroken(command: list[str], tmp_path_factory: pytest.TempPathFactory) -> Path:
    run = tmp_path_factory.mktemp("unbroken") / "run"
    assert main([*command, "--run", str(run), "--workers", "0"]) == 0
    return run


def run_silently(arguments: list[str], group: bool) -> None:
    if group:
        os.setpgid(0, 0)
    sys.stdout = sys.stderr = open(os.devnull, "w")  # noqa: SIM115  ends with the process
    sys.exit(main(arguments))


def start(arguments: list[str], run: Path, *, group: bool = True) -> BaseProcess:
    """Return a process that runs the command, once its training has begun."""
    context = multiprocessing.get_context("fork")
    process = context.Process(target=run_silently, args=(arguments, group))
    process.start()
    end = time.monotonic() + PATIENCE
    while process.is_alive() and not is_running(run, process.pid):
        assert time.monotonic() < end
        time.sleep(0.002)
    return process


def is_running(run: Path, pid: int | None) -> bool:
    with contextlib.suppress(OSError, ValueError):
        status = json.loads((run / "status.json").read_text())
        return bool(status["state"] == "running" and status["pid"] == pid)
    return False


def assert_equal_end(run: Path, other: Path) -> None:
    last = f"checkpoints/step_{EPOCHS * STEPS_PER_EPOCH:08d}"
    for name in ("model.safetensors", "train_state.pt", "recipe.json"):
        assert (run / last / name).read_bytes() == (other / last / name).read_bytes(), name
    for row, expected in zip(
        read_lines(run / "metrics.jsonl"), read_lines(other / "metrics.jsonl"), strict=True
    ):
        assert {**row, "images_per_second": 0} == {**expected, "images_per_second": 0}


@pytest.mark.timeout(240)
@pytest.mark.parametrize("workers", [0, 2])
def test_stopped_twenty_times_by_signals_equals_never(
    workers: int, command: list[str], unbroken: Path, tmp_path: Path
) -> None:
    run, draw = tmp_path / "run", random.Random(6)
    arguments = [*command, "--run", str(run), "--workers", str(workers)]
    stops, slowest, began = 0, 0.0, time.monotonic()
    for turn in range(STOPS if workers == 0 else 4):
        number = list(CODES)[turn % len(CODES)]
        process = start(arguments, run)
        time.sleep(draw.uniform(0, 0.08))
        sent = time.monotonic()
        if process.is_alive():
            os.killpg(process.pid or 0, number)  # as terminals and batch systems do
        process.join(PATIENCE)
        slowest = max(slowest, time.monotonic() - sent)
        if process.exitcode == 0:
            break
        stops += 1
        assert process.exitcode == CODES[number]
        status = json.loads((run / "status.json").read_text())
        assert (status["state"], status["code"]) == ("interrupted", CODES[number])
        newest = load_newest(run)
        assert newest is not None
        assert newest.step == status["step"] > 0
    assert main(arguments) == 0
    assert_equal_end(run, unbroken)
    assert stops >= (15 if workers == 0 else 3)
    assert slowest <= 5
    sys.stdout.write(
        f"R6, {workers} workers: {stops} stops, slowest gone after {slowest:.2f} s, 0 differing "
        f"bytes, {time.monotonic() - began:.1f} s\n"
    )


def test_more_signals_while_it_saves_are_harmless(command: list[str], tmp_path: Path) -> None:
    run = tmp_path / "run"
    process = start([*command, "--run", str(run), "--workers", "0"], run)
    for _ in range(20):
        if process.is_alive():
            os.kill(process.pid or 0, signal.SIGTERM)
        time.sleep(0.005)
    process.join(PATIENCE)
    assert process.exitcode == 75
    newest = load_newest(run)
    assert newest is not None
    assert not list((run / "checkpoints").glob(".tmp-*"))


def test_a_second_interrupt_stops_at_once_and_loses_no_checkpoint(
    command: list[str], unbroken: Path, tmp_path: Path
) -> None:
    run = tmp_path / "run"
    arguments = [*command, "--run", str(run), "--workers", "0"]
    process = start(arguments, run)
    time.sleep(0.3)
    for _ in range(2):
        os.kill(process.pid or 0, signal.SIGINT)
        time.sleep(0.0005)
    process.join(PATIENCE)
    assert process.exitcode == 130
    assert json.loads((run / "status.json").read_text())["code"] == 130
    assert main(arguments) == 0
    assert_equal_end(run, unbroken)


def test_a_signal_to_a_loading_process_that_only_begins_is_survived(
    command: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    plain = workers_module.leave_signals_to_the_run

    def signalled_first(worker: int) -> None:
        os.kill(os.getpid(), signal.SIGTERM)
        time.sleep(0.1)
        plain(worker)

    monkeypatch.setattr(workers_module, "leave_signals_to_the_run", signalled_first)
    settings = ["--run", str(tmp_path / "run"), "--workers", "2", "--epochs", "1"]
    assert main([*command, *settings]) == 0
    assert signal.pthread_sigmask(signal.SIG_BLOCK, []) == set()
