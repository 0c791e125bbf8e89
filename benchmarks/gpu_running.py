"""Running `moco` commands within a limit of time, and on what; for `benchmarks/gpu.py`."""

from __future__ import annotations

import contextlib
import io
import os
import shutil
import signal
import subprocess
import sys
import time
from dataclasses import dataclass
from typing import Any

import torch

from moco.benchmark.machine import versions
from moco.cli.main import main as moco
from moco.device import processor

MOCO = [sys.executable, "-m", "moco"]
STOP_SECONDS = 20.0
"""So long a command may take to save when it is stopped."""


@dataclass
class Ended:
    """How a command ended."""

    code: int
    seconds: float
    text: str
    stopped: bool = False


def run_apart(words: list[str], seconds: float) -> Ended:
    """Run a `moco` command in its own process; ask it to stop when its time is over."""
    began = time.monotonic()
    command = [*MOCO, *words]
    process = subprocess.Popen(
        command,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        errors="replace",
        start_new_session=True,
    )
    stopped = False
    try:
        text, _ = process.communicate(timeout=seconds)
    except subprocess.TimeoutExpired:
        stopped = True
        process.send_signal(signal.SIGTERM)
        try:
            text, _ = process.communicate(timeout=STOP_SECONDS)
        except subprocess.TimeoutExpired:
            os.killpg(process.pid, signal.SIGKILL)
            text, _ = process.communicate()
    return Ended(process.returncode, time.monotonic() - began, text, stopped)


def run_here(words: list[str], _seconds: float) -> Ended:
    """Run it in this process."""
    began, said = time.monotonic(), io.StringIO()
    with contextlib.redirect_stdout(said), contextlib.redirect_stderr(said):
        code = moco(words)
    return Ended(code, time.monotonic() - began, said.getvalue())


def chip(device: str) -> dict[str, Any]:
    """Return what the figures were measured on."""
    found = {"device": device, "device_name": processor(), "versions": versions()}
    if device == "cuda":
        found["device_name"] = torch.cuda.get_device_name()
        found["device_memory"] = torch.cuda.get_device_properties(0).total_memory
        found["cuda"] = torch.version.cuda
        if (tool := shutil.which("nvidia-smi")) is not None:
            asked = "--query-gpu=name,driver_version,clocks.max.sm,clocks.sm,power.limit"
            done = subprocess.run([tool, asked, "--format=csv"], capture_output=True, text=True)
            found["nvidia_smi"] = done.stdout.strip()
    return found
