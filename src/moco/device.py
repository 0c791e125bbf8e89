"""The device a run uses and what it is good at."""

from __future__ import annotations

import multiprocessing
import os
import platform
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Literal

import torch

from moco.errors import UsageError
from moco.processes import local_processes
from moco.small import DeviceKind

DeviceName = Literal["auto", "cpu", "cuda", "mps"]


def pick_device(name: str) -> torch.device:
    """Return the named device; auto takes a CUDA GPU, then Apple's, then the CPU.

    Raises:
        UsageError: This machine has no such device.
    """
    available = {
        "cuda": torch.cuda.is_available(),
        "mps": torch.backends.mps.is_available() and local_processes() == 1,
        "cpu": True,
    }
    if name == "auto":
        name = next(kind for kind, present in available.items() if present)
    try:
        device = torch.device(name)
    except (RuntimeError, TypeError) as error:
        raise UsageError(f"device must be auto, cpu, cuda or mps, got {name!r}") from error
    if not available.get(device.type, False):
        raise UsageError(f"device '{name}' is not on this machine; use --device auto")
    if device.type == "cuda" and torch.cuda.device_count() < local_processes():
        raise UsageError(
            f"{local_processes()} processes on a machine with {torch.cuda.device_count()} GPUs; "
            "launch one for each GPU, or use --device cpu"
        )
    return device


def device_kind(device: torch.device) -> DeviceKind:
    """Return the device's kind as recipes know it."""
    match device.type:
        case "cuda":
            return "cuda"
        case "mps":
            return "mps"
        case _:
            return "cpu"


def fast_precision(device: torch.device) -> torch.dtype | None:
    """Return bfloat16 where the device computes in it natively, else None for float32."""
    if device.type == "cuda":
        return torch.bfloat16 if torch.cuda.is_bf16_supported(including_emulation=False) else None
    if device.type == "cpu":
        return torch.bfloat16 if _cpu_has_bfloat16() else None
    return None


def _cpu_has_bfloat16() -> bool:
    """Emulated bfloat16 is slower than float32, so ask for the instructions themselves."""
    try:
        with open("/proc/cpuinfo", encoding="ascii", errors="replace") as cpu:
            flags = next((line for line in cpu if line.startswith("flags")), "")
    except OSError:
        return False
    return "avx512_bf16" in flags.split() or "amx_bf16" in flags.split()


def default_workers(device: torch.device, *, importable: bool = False) -> int:
    """Return how many processes should load images for this device.

    Args:
        importable: the program's main module can be imported without running it, as the command's
            can. Where processes are not forked they import it, so a plain script can have none.
    """
    if not (importable or forks()):
        return 0
    cores = cpu_count() // local_processes()
    if device.type != "cpu":
        return min(16, max(1, cores - 1))
    return min(2, cores // 2)


def forks() -> bool:
    """Say whether new processes are forked here, without deciding it for the program."""
    method = multiprocessing.get_start_method(allow_none=True)
    if method is None:  # not decided yet: what Python would do
        return sys.platform == "linux" and sys.version_info < (3, 14)
    return method == "fork"


def pick_precision(name: str, device: torch.device) -> torch.dtype | None:
    """Return the type that networks compute in, None for float32; auto takes the fast one.

    Raises:
        UsageError: Another name than auto, float32 or bfloat16.
    """
    match name:
        case "auto":
            return fast_precision(device)
        case "float32":
            return None
        case "bfloat16":
            return torch.bfloat16
    raise UsageError(f"precision must be auto, float32 or bfloat16, got {name!r}")


@contextmanager
def shared_cpu(device: torch.device, workers: int) -> Iterator[None]:
    """Leave a processor to each loading process while a CPU trains.

    Threads wait for each other after every operation, so a processor that two must share slows all
    of them: two threads beside a busy process ran several times slower than one. A number of
    threads that the user set stays.
    """
    threads = torch.get_num_threads()
    if device.type == "cpu" and "OMP_NUM_THREADS" not in os.environ:
        cores = cpu_count() // local_processes()
        torch.set_num_threads(max(1, min(threads, cores - workers)))
    try:
        yield
    finally:
        torch.set_num_threads(threads)


def cpu_count() -> int:
    """Return how many processors this process may use."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def processor() -> str:
    """Return what the processor calls itself."""
    try:
        with open("/proc/cpuinfo", encoding="utf-8", errors="replace") as file:
            for line in file:
                if line.startswith("model name"):
                    return line.partition(":")[2].strip()
    except OSError:
        pass
    return platform.processor() or platform.machine()


def device_name(device: torch.device) -> str:
    """Return what the device calls itself."""
    return torch.cuda.get_device_name(device) if device.type == "cuda" else processor()
