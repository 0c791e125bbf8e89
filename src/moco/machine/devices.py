"""What this process has to compute with: processors, GPUs, and how it starts other processes."""

from __future__ import annotations

import os
import platform
import re
import warnings
from dataclasses import dataclass
from pathlib import Path

import torch
import torch.distributed

from moco.device import cpu_count, fast_precision, forks
from moco.machine.container import processor_quota
from moco.machine.packages import Check
from moco.memory import size_in_words

DRIVER = re.compile(r"\s(\d{3,}\.\d+(?:\.\d+)?)\s")
MODEL = re.compile(r"^(?:model name|Hardware)\s*:\s*(.+)$", re.MULTILINE)


@dataclass(frozen=True)
class Gpu:
    """A GPU that torch can use."""

    name: str
    memory_bytes: int
    has_bfloat16: bool
    is_compiled_for: bool
    """This torch has kernels for it."""


@dataclass(frozen=True)
class Gpus:
    """What torch and the system say of GPUs.

    Attributes:
        built_for: what torch was built for, such as `CUDA 13.0`; None for processors alone.
        usable: those that torch can use.
        driver: NVIDIA's, None where there is none.
        nccl: its version, None where processes cannot meet over GPUs.
        visible: of CUDA_VISIBLE_DEVICES, None where it is not set.
        failure: what torch said as it looked for them.
    """

    built_for: str | None
    usable: tuple[Gpu, ...] = ()
    driver: str | None = None
    nccl: str | None = None
    visible: str | None = None
    failure: str = ""


def check_devices() -> list[Check]:
    """Return checks of the processor, the cores, the GPUs and the starting of processes."""
    return [
        processor_check(),
        judge_cores(
            allowed=cpu_count(),
            there=os.cpu_count() or 1,
            quota=processor_quota(),
            threads=torch.get_num_threads(),
        ),
        *judge_gpus(find_gpus()),
        processes_check(),
    ]


def processor_check() -> Check:
    """Say which processor, which instructions torch uses, and whether bfloat16 is fast."""
    instructions = torch.backends.cpu.get_cpu_capability()
    fast = fast_precision(torch.device("cpu")) is not None
    precision = "fast in bfloat16" if fast else "computes in float32: bfloat16 is not fast"
    is_slow = instructions in ("DEFAULT", "NO AVX") and platform.machine() in ("x86_64", "AMD64")
    return Check(
        "processor",
        f"{_processor_name()}, {instructions}, {precision}",
        "warn" if is_slow else "ok",
        "train elsewhere: without AVX2 it is several times slower" if is_slow else "",
    )


def judge_cores(*, allowed: int, there: int, quota: float | None, threads: int) -> Check:
    """Say how many cores this process really has, and whether torch's threads fit them.

    Args:
        allowed: cores it may run on.
        there: cores of the machine.
        quota: cores' worth of time that its container gives it, None without a limit.
        threads: that torch computes with.
    """
    usable = allowed if quota is None else min(allowed, max(1, int(quota)))
    seen = f"{usable} usable of {there}"
    if quota is not None and quota < allowed:
        seen += f" (the container's quota is {quota:g})"
    elif allowed < there:
        seen += " (it is bound to them)"
    seen += f", {threads} {'thread' if threads == 1 else 'threads'} of torch"
    if threads > usable:
        remedy = f"export OMP_NUM_THREADS={usable}, and --workers {max(0, min(usable - 1, 4))}"
        return Check("cores", f"{seen}: they disturb each other", "warn", remedy)
    if threads == 1 < usable and "OMP_NUM_THREADS" in os.environ:
        return Check(
            "cores",
            f"{seen}, by OMP_NUM_THREADS",
            "warn",
            "unset OMP_NUM_THREADS if a CPU trains; fine beside a GPU or under torchrun",
        )
    return Check("cores", seen)


def find_gpus() -> Gpus:
    """Ask torch and the system; no context is made on any GPU."""
    built_for = None
    if torch.version.cuda is not None:
        built_for = f"CUDA {torch.version.cuda}"
    elif torch.version.hip is not None:
        built_for = f"ROCm {torch.version.hip}"
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        is_available = torch.cuda.is_available()
    return Gpus(
        built_for,
        tuple(map(_gpu, range(torch.cuda.device_count()))) if is_available else (),
        nvidia_driver(),
        _nccl_version() if is_available else None,
        os.environ.get("CUDA_VISIBLE_DEVICES"),
        " ".join(str(warning.message) for warning in caught)[:200],
    )


def judge_gpus(gpus: Gpus) -> list[Check]:
    """Say which GPUs can be used, or why those that are there cannot."""
    if not gpus.usable:
        return [_no_gpu(gpus)]
    driver = f", driver {gpus.driver}" if gpus.driver else ""
    checks = []
    for number, gpu in enumerate(gpus.usable):
        precision = "bfloat16" if gpu.has_bfloat16 else "float32: bfloat16 is not fast"
        seen = f"{gpu.name}, {size_in_words(gpu.memory_bytes)}, {precision}"
        seen += f" ({gpus.built_for}{driver})"
        if gpu.is_compiled_for:
            checks.append(Check(f"GPU {number}", seen))
        else:
            remedy = "install a torch whose CUDA version knows it: pytorch.org/get-started"
            checks.append(Check(f"GPU {number}", f"{seen}: no kernels for it", "bad", remedy))
    if len(gpus.usable) > 1:
        checks.append(
            Check("NCCL", gpus.nccl)
            if gpus.nccl
            else Check("NCCL", "not there", "bad", "install a torch with NCCL; torchrun needs it")
        )
    return checks


def _no_gpu(gpus: Gpus) -> Check:
    if torch.backends.mps.is_available():
        return Check("GPU", "Apple's, by --device mps")
    if gpus.driver is None:
        return Check("GPU", "none: the CPU trains")
    seen = f"NVIDIA's driver {gpus.driver} is there, but torch sees no GPU"
    if gpus.built_for is None:
        return Check("GPU", f"{seen}: it was built without CUDA", "bad", "install torch with CUDA")
    if gpus.visible is not None:
        seen += f": CUDA_VISIBLE_DEVICES is '{gpus.visible}'"
        return Check("GPU", seen, "warn", "unset CUDA_VISIBLE_DEVICES")
    return Check(
        "GPU",
        f"{seen}{': ' if gpus.failure else ''}{gpus.failure}",
        "bad",
        f"a driver that knows {gpus.built_for}, or a torch for an older CUDA; in a container, "
        "docker run --gpus all",
    )


def processes_check() -> Check:
    """Say how loading processes are started."""
    if forks():
        return Check("processes", "loading processes are forked from the run")
    return Check(
        "processes",
        "loading processes are started anew, each importing torch: a slow first batch, and a "
        "script that calls moco.pretrain needs `if __name__ == '__main__'`",
    )


def nvidia_driver(root: Path = Path("/")) -> str | None:
    """Return the version of NVIDIA's driver on Linux; None where there is none."""
    try:
        found = DRIVER.search((root / "proc/driver/nvidia/version").read_text(errors="replace"))
    except OSError:
        return None
    return found[1] if found else "of unknown version"


def has_kernels(capability: tuple[int, int], architectures: list[str]) -> bool:
    """Say whether a torch built for these architectures, `sm_80` or `compute_90`, runs on a GPU.

    Kernels run on the same major version from their minor version on; `compute_` ones are compiled
    for any newer GPU as they are first used. Others' names, as AMD's, are taken as fitting.
    """
    known = [re.fullmatch(r"(sm|compute)_(\d+)(\d)[a-z]?", name) for name in architectures]
    found = [(match[1], (int(match[2]), int(match[3]))) for match in known if match is not None]
    if not found or len(found) < len(known):
        return True
    return any(
        version <= capability and (kind == "compute" or version[0] == capability[0])
        for kind, version in found
    )


def _gpu(number: int) -> Gpu:
    properties = torch.cuda.get_device_properties(number)
    capability = (properties.major, properties.minor)
    return Gpu(
        properties.name,
        properties.total_memory,
        fast_precision(torch.device("cuda", number)) is not None,
        has_kernels(capability, torch.cuda.get_arch_list()),
    )


def _nccl_version() -> str | None:
    if not torch.distributed.is_available() or not torch.distributed.is_nccl_available():
        return None
    return ".".join(map(str, torch.cuda.nccl.version()))  # type: ignore[no-untyped-call]


def _processor_name() -> str:
    try:
        found = MODEL.search(Path("/proc/cpuinfo").read_text(errors="replace"))
    except OSError:
        found = None
    return found[1].strip() if found else platform.processor() or platform.machine()
