"""How much memory a run has taken so far, of the machine and of the device."""

from __future__ import annotations

import re
import sys
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import torch

if sys.platform != "win32":
    import resource

AVAILABLE = re.compile(rb"^MemAvailable:\s*(\d+) kB$", re.MULTILINE)
PEAK = re.compile(rb"^VmHWM:\s*(\d+) kB$", re.MULTILINE)


def process_peak() -> int | None:
    """Return the most bytes of memory that this process ever held, None where none tells."""
    if sys.platform == "win32":
        return None
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak if sys.platform == "darwin" else peak * 1024


def largest_peak(pids: Iterable[int]) -> int | None:
    """Return the most bytes that any of these processes ever held; None where none tells.

    What a process shares with the one that started it counts too.
    """
    peaks = [peak for pid in pids if (peak := _peak_of(pid)) is not None]
    return max(peaks, default=None)


def _peak_of(pid: int) -> int | None:
    try:
        found = PEAK.search(Path(f"/proc/{pid}/status").read_bytes())
    except OSError:  # it ended, or the system has no such files
        return None
    return int(found[1]) * 1024 if found else None


def free_memory(device: torch.device) -> int | None:
    """Return how many bytes are free on a GPU, or on the machine for any other device.

    None where none tells.
    """
    if device.type == "cuda":
        return torch.cuda.mem_get_info(device)[0]
    try:
        found = AVAILABLE.search(Path("/proc/meminfo").read_bytes())
    except OSError:  # the system has no such file
        return None
    return int(found[1]) * 1024 if found else None


def size_in_words(count: float) -> str:
    """Return bytes as 812 kB, 45.1 MB or 3.2 GB."""
    if count < 1e6:
        return f"{count / 1e3:.0f} kB"
    return f"{count / 1e6:.1f} MB" if count < 1e9 else f"{count / 1e9:.1f} GB"


def forget_device_peak(device: torch.device) -> None:
    """Let `device_peak` count from now on."""
    if device.type == "cuda":
        torch.cuda.reset_peak_memory_stats(device)


def device_peak(device: torch.device) -> int | None:
    """Return the most bytes that tensors took of a GPU's own memory, None for another device."""
    return torch.cuda.max_memory_allocated(device) if device.type == "cuda" else None


def device_memory(device: torch.device) -> int | None:
    """Return how many bytes a GPU has, None for another device."""
    return torch.cuda.mem_get_info(device)[1] if device.type == "cuda" else None


def tensor_bytes(state: Any) -> int:
    """Return the bytes of all tensors in nested dicts and lists."""
    if isinstance(state, torch.Tensor):
        return state.nbytes
    if isinstance(state, dict):
        return sum(tensor_bytes(value) for value in state.values())
    if isinstance(state, list | tuple):
        return sum(tensor_bytes(value) for value in state)
    return 0
