"""`moco pretrain` on photographs, killed with `kill -9` again and again, ends the same (R1)."""

from __future__ import annotations

import json
import os
import random
import signal
import subprocess
import sys
import time
from pathlib import Path

import killed_runs
import pytest
from killing import (
    Proof,
    Unbroken,
    compare,
    kill_group,
    living,
    members,
    save_marks,
    shared_memory_of,
    start_process,
    tell,
)
from PIL import Image

from moco.checkpoint import load_newest

pytestmark = [
    pytest.mark.skipif(not hasattr(os, "fork"), reason="processes are forked and killed"),
    pytest.mark.timeout(900),
]
COMMAND_SECONDS = 240.0
"""More than one start of these commands needs to come to its end."""
START_SECONDS = 120.0
"""More than a process needs to import torch and take a step, on a machine that is busy."""


@pytest.fixture(scope="module")
def photographs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a folder of 64 photographs of solar cells, made small."""
    package = pytest.importorskip("elpv_dataset")
    folder = tmp_path_factory.mktemp("photographs")
    cells = sorted((Path(package.__file__).parent / "data" / "images").glob("*.png"))
    for path in cells[:64]:
        with Image.open(path) as image:
            image.resize((40, 40)).save(folder / path.name)
    return folder


def command_of(photographs: Path, tiny: list[str], recipe: str, epochs: int) -> list[str]:
    fewer = [*tiny, "views.order=[crop, horizontal_flip]"]
    if recipe == "moco-v3-resnet50":
        fewer += ["encoder.head_width=32"]
    else:
        fewer += ["dictionary.size=48"]
    settings = [word for setting in fewer for word in ("--set", setting)]
    where = ["--recipe", recipe, "--epochs", str(epochs), "--device", "cpu"]
    return ["pretrain", str(photographs), *where, *settings]


def run_unbroken_command(command: list[str], run: Path) -> tuple[Unbroken, float]:
    """Run the command to its end, and return how many seconds it trained."""
    process = start_process(killed_runs.run_command, [*command, "--workers", "0"], run)
    try:
        while process.is_alive() and not (run / "latest").exists():
            time.sleep(0.01)
        began = time.monotonic()
        process.join(COMMAND_SECONDS)
        assert process.exitcode == 0
    finally:
        kill_group(process)
    checkpoint = load_newest(run)
    assert checkpoint is not None
    seconds = time.monotonic() - began
    return Unbroken(run, checkpoint, 0.0, seconds / checkpoint.step), seconds


def start_command(command: list[str], run: Path) -> subprocess.Popen[str]:
    """Start the command in a session of its own; return once it trains, or has ended."""
    process = subprocess.Popen(
        [sys.executable, "-m", "moco", *command, "--run", str(run)],
        start_new_session=True,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        text=True,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
    )
    until = time.monotonic() + START_SECONDS
    while process.poll() is None and running_process(run) != process.pid:
        assert time.monotonic() < until, "it does not start"
        time.sleep(0.01)
    return process


def running_process(run: Path) -> int:
    try:
        return int(json.loads((run / "status.json").read_text())["pid"])
    except FileNotFoundError:
        return 0


def kill_at(proof: Proof, command: list[str], run: Path, moment: float) -> bool:
    """Start the command, kill it so many seconds after it trains; say whether it was killed."""
    before, process = save_marks(run), start_command(command, run)
    try:
        process.wait(moment)
    except subprocess.TimeoutExpired:
        processes = members(process.pid)
        process.kill()  # it alone: its loading processes have to see that it is gone
        process.communicate()
        proof.kills += 1
        marks = save_marks(run)
        proof.inside_save += marks != before and bool(marks)
        proof.orphans += len(living(process.pid))
        proof.shared_memory += len(shared_memory_of([process.pid, *processes]))
        return True
    finally:
        kill_session(process)
    _, errors = process.communicate()
    if process.returncode != 0:
        proof.refusals.append(errors)
    return False


def kill_session(process: subprocess.Popen[str]) -> None:
    """Leave nothing behind, whatever a test found."""
    if process.poll() is None or members(process.pid):
        os.killpg(process.pid, signal.SIGKILL)


def prove(
    command: list[str], folder: Path, unbroken: Unbroken, *, kills: int, most_seconds: float
) -> Proof:
    """Kill the command so many times, at most so long after it trains, and let it come to its end.

    The last start of each run is forked, as importing torch takes longest.
    """
    proof, draw, began, number = Proof(), random.Random(4), time.monotonic(), 0
    while not proof.refusals and (proof.kills < kills or not proof.finished):
        run = folder / f"run-{number}"
        number += 1
        while proof.kills < kills:
            if not kill_at(proof, command, run, draw.uniform(0, most_seconds)):
                break
        process = start_process(killed_runs.run_command, command, run)
        process.join(COMMAND_SECONDS)
        kill_group(process)
        assert process.exitcode == 0
        proof.finished += 1
        compare(proof, run, unbroken)
    proof.seconds = time.monotonic() - began
    return proof


def test_a_command_killed_twice_ends_bitwise_equal(
    photographs: Path, tiny_settings: list[str], tmp_path: Path
) -> None:
    command = command_of(photographs, tiny_settings, "moco-v2", epochs=20)
    unbroken, seconds = run_unbroken_command(command, tmp_path / "unbroken")
    command += ["--workers", "2"]
    proof = prove(command, tmp_path, unbroken, kills=2, most_seconds=seconds / 2)
    tell(f"R1 command, queue, 2 workers: {proof}")
    proof.check()
    assert proof.kills == 2


@pytest.mark.slow
@pytest.mark.parametrize("recipe", ["moco-v2", "moco-v3-resnet50"])
def test_commands_killed_ten_times_end_bitwise_equal(
    recipe: str, photographs: Path, tiny_settings: list[str], tmp_path: Path
) -> None:
    command = command_of(photographs, tiny_settings, recipe, epochs=120)
    unbroken, seconds = run_unbroken_command(command, tmp_path / "unbroken")
    for workers in ("0", "2"):
        folder = tmp_path / workers
        folder.mkdir()
        own = [*command, "--workers", workers]
        proof = prove(own, folder, unbroken, kills=5, most_seconds=seconds / 4)
        tell(f"R1 command, {recipe}, {workers} workers: {proof}")
        proof.check()
        assert proof.kills == 5
