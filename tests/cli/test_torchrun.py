"""`torchrun -m moco pretrain`: real processes, stopped, killed, and given wrong input."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

from moco.cli.main import main
from moco.cli.signals import StopSignals

TIMEOUT = 120


@pytest.fixture
def launch(tiny_settings: list[str]) -> Iterator[Callable[..., subprocess.Popen[str]]]:
    """Return a function that starts `torchrun -m moco` in two processes."""
    started: list[subprocess.Popen[str]] = []
    settings = [word for setting in tiny_settings for word in ("--set", setting)]

    def start(command: str, *words: object, tiny: bool = True) -> subprocess.Popen[str]:
        options = ["--workers", "0", "--precision", "float32", *settings] if tiny else []
        launcher = ["-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2"]
        process = subprocess.Popen(
            [sys.executable, *launcher, "-m", "moco", command, *map(str, words), *options],
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            env={**os.environ, "OMP_NUM_THREADS": "1"},
        )
        started.append(process)
        return process

    yield start
    for process in started:
        if process.poll() is None:
            process.kill()
            process.communicate()


def said_by_moco(errors: str) -> list[str]:
    return [line for line in errors.splitlines() if line.startswith("moco:")]


def rows_of(run: Path) -> list[dict[str, Any]]:
    text = (run / "metrics.jsonl").read_text()
    return [json.loads(line) for line in text.splitlines()]


def wait_for(what: Callable[[], bool]) -> None:
    until = time.monotonic() + TIMEOUT
    while not what():
        assert time.monotonic() < until, "waited in vain"
        time.sleep(0.02)


def weights(run: Path) -> dict[str, torch.Tensor]:
    name = (run / "latest").read_text()
    return load_file(run / "checkpoints" / name / "model.safetensors")


@pytest.mark.slow
def test_two_processes_are_stopped_and_end_as_if_they_had_not_been(
    launch: Callable[..., Any], photos: Path, tmp_path: Path
) -> None:
    unbroken, broken = tmp_path / "unbroken", tmp_path / "broken"
    long = ["--recipe", "moco-v2", "--epochs", 20, "--seed", 1]
    process = launch("pretrain", photos, *long, "--run-dir", unbroken)
    shown, errors = process.communicate(timeout=TIMEOUT)
    assert process.returncode == 0, errors
    assert said_by_moco(errors) == []
    assert "2 processes on cpu" in shown
    assert shown.count("done:") == shown.count("20 epochs of 4 steps of 16 images") == 1

    process = launch("pretrain", photos, *long, "--run-dir", broken)
    wait_for(lambda: (broken / "metrics.jsonl").exists() and len(rows_of(broken)) > 8)
    process.send_signal(signal.SIGTERM)
    _, errors = process.communicate(timeout=TIMEOUT)
    status = json.loads((broken / "status.json").read_text())
    assert (status["state"], status["code"]) == ("interrupted", 75)
    assert 8 < status["step"] < 80
    assert len(said_by_moco(errors)) == 1
    assert f"stopped and saved after step {status['step']}" in errors

    process = launch("pretrain", photos, *long, "--run-dir", broken)
    shown, errors = process.communicate(timeout=TIMEOUT)
    assert process.returncode == 0, errors
    assert f"going on from step {status['step']} of 80" in shown
    rows = [rows_of(run) for run in (unbroken, broken)]
    assert [[row["step"] for row in run] for run in rows] == [list(range(80))] * 2
    assert [row["loss"] for row in rows[0]] == [row["loss"] for row in rows[1]]
    torch.testing.assert_close(weights(broken), weights(unbroken), rtol=0, atol=0)


def test_too_many_bad_images_are_told_once(
    launch: Callable[..., Any], photos: Path, tmp_path: Path
) -> None:
    folder, run = tmp_path / "photos", tmp_path / "run"
    shutil.copytree(photos, folder)
    for file in sorted(file for file in folder.rglob("*") if file.is_file())[:16]:
        file.write_text("404 not found")
    options = ["--recipe", "moco-v2", "--epochs", 4, "--run-dir", run]
    _, errors = launch("pretrain", folder, *options).communicate(timeout=TIMEOUT)
    (line,) = said_by_moco(errors)
    assert "images cannot be used, more than the limit of 1 %" in line
    assert json.loads((run / "status.json").read_text())["code"] == 3


@pytest.mark.slow
def test_a_process_that_dies_ends_the_run_and_its_checkpoints_serve_one_process(
    launch: Callable[..., Any], photos: Path, tmp_path: Path, tiny_settings: list[str]
) -> None:
    run = tmp_path / "run"
    process = launch("pretrain", photos, "--recipe", "moco-v2", "--epochs", 100, "--run-dir", run)
    wait_for(lambda: (run / "latest").exists() and len(rows_of(run)) > 8)
    first = json.loads((run / "status.json").read_text())["pid"]
    children = Path(f"/proc/{process.pid}/task/{process.pid}/children").read_text().split()
    second = next(int(child) for child in children if int(child) != first)
    os.kill(second, signal.SIGKILL)
    _, errors = process.communicate(timeout=TIMEOUT)
    assert process.returncode != 0
    (line,) = said_by_moco(errors)
    assert "process 1 is gone or stuck, last seen" in line
    status = json.loads((run / "status.json").read_text())
    assert (status["state"], status["code"]) == ("failed", 7)

    settings = [word for setting in tiny_settings for word in ("--set", setting)]
    options = ["--recipe", "moco-v2", "--epochs", "100", "--run", str(run), *settings]
    assert main(["pretrain", str(photos), "--workers", "0", *options]) == 0
    assert [row["step"] for row in rows_of(run)] == list(range(400))


def test_a_run_whose_launcher_is_gone_saves_and_ends(
    launch: Callable[..., Any], photos: Path, tmp_path: Path
) -> None:
    run = tmp_path / "run"
    process = launch("pretrain", photos, "--recipe", "moco-v2", "--epochs", 5000, "--run-dir", run)
    wait_for(lambda: (run / "metrics.jsonl").exists() and len(rows_of(run)) > 8)
    process.kill()
    process.communicate(timeout=TIMEOUT)
    wait_for(lambda: json.loads((run / "status.json").read_text())["state"] == "interrupted")
    status = json.loads((run / "status.json").read_text())
    assert (status["code"], (run / "latest").read_text()) == (75, f"step_{status['step']:08d}")


def test_a_hangup_saves_unless_it_is_ignored(monkeypatch: pytest.MonkeyPatch) -> None:
    before = signal.getsignal(signal.SIGHUP)
    try:
        for handler, expected in ((signal.SIG_DFL, 75), (signal.SIG_IGN, None)):
            signal.signal(signal.SIGHUP, handler)
            with StopSignals() as signals:
                os.kill(os.getpid(), signal.SIGHUP)
                assert signals.asked() == expected
            assert signal.getsignal(signal.SIGHUP) == signal.SIG_IGN  # also once it was asked
        signal.signal(signal.SIGHUP, signal.SIG_DFL)
        with StopSignals():
            pass
        assert signal.getsignal(signal.SIGHUP) == signal.SIG_DFL
    finally:
        for number in (signal.SIGTERM, signal.SIGUSR1, signal.SIGUSR2):
            signal.signal(number, signal.SIG_DFL)
        signal.signal(signal.SIGHUP, before)


def test_a_rank_left_in_the_environment_silences_nobody(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("RANK", "1")
    monkeypatch.setenv("LOCAL_RANK", "1")
    assert main(["pretrain", "/no/such/folder"]) == 3
    assert main(["pretrain", "--bogus"]) == 2  # before any process could meet
    assert len(capsys.readouterr().err.splitlines()) == 2


@pytest.mark.parametrize(
    ("words", "code", "line"),
    [
        (["pretrain", "{photos}", "--bach"], 2, "unknown option --bach"),
        (["pretrain", "{photos}", "--set", "batch_size=15"], 2, "does not split over 2 processes"),
        (["evaluate", "knn", "R", "--train", "A", "--test", "B"], 2, "without torchrun"),
    ],
)
def test_what_is_wrong_is_said_once(
    launch: Callable[..., Any],
    photos: Path,
    words: list[str],
    code: int,
    line: str,
    tmp_path: Path,
) -> None:
    filled = [word.format(photos=photos) for word in words]
    if filled[0] == "pretrain":
        filled += ["--run-dir", str(tmp_path / "run"), "--set", "batch_norm_groups=1"]
    process = launch(*filled, tiny=False)
    _, errors = process.communicate(timeout=TIMEOUT)
    (said,) = said_by_moco(errors)
    assert line in said
    assert f"exitcode  : {code} " in errors
    assert not (tmp_path / "run").exists()
