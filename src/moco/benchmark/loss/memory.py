"""How much memory a loss needs for a moment, beyond what it is given."""

from __future__ import annotations

import contextlib
import ctypes
import gc
import multiprocessing
import re
import resource
import sys
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path

import torch

from moco.benchmark.loss.rows import LossRow, LossShape, loss_row, made_inputs

M_MMAP_THRESHOLD = -3
"""What the GNU library calls the size from which a buffer is the system's own."""
LARGE = 1 << 16
STATUS, RESET = Path("/proc/self/status"), Path("/proc/self/clear_refs")


def extra_bytes(row: LossRow, shape: LossShape) -> int:
    """Return the peak of a pass over what there was before it.

    On a GPU what torch's allocator gave out; on a CPU the memory of a fresh process.
    """
    if row.device.type == "cuda":
        return _extra_on_gpu(row)
    context = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(1, mp_context=context) as process:
        return process.submit(extra_in_this_process, row.name, shape).result()


def _extra_on_gpu(row: LossRow) -> int:
    row.embeddings.grad = None
    torch.cuda.synchronize(row.device)
    torch.cuda.reset_peak_memory_stats(row.device)
    before = torch.cuda.memory_allocated(row.device)
    row.run()
    torch.cuda.synchronize(row.device)
    return torch.cuda.max_memory_allocated(row.device) - before


def extra_in_this_process(name: str, shape: LossShape) -> int:
    """Make a second pass of a row on the CPU; return how far this process's memory grew for it."""
    torch.set_num_threads(1)
    map_large_buffers()
    cpu = torch.device("cpu")
    row = loss_row(name, made_inputs(shape, cpu))
    row.run()  # brings in the code, and what the matrix library keeps for good
    before = peak_bytes(anew=True)
    row.run()
    return peak_bytes() - before


def peak_bytes(*, anew: bool = False) -> int:
    """Return the most memory that this process ever held.

    Args:
        anew: forget what it held earlier, where the system can.
    """
    try:
        if anew:
            give_back()
            RESET.write_text("5")
        found = re.search(r"VmHWM:\s+(\d+) kB", STATUS.read_text())
    except OSError:
        found = None
    if found:
        return int(found[1]) * 1024
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak if sys.platform == "darwin" else peak * 1024


def map_large_buffers() -> None:
    """Have each large buffer come from the system and go back there as it is freed.

    Else the allocator keeps some, by chance: the same pass held 8 to 50 MiB.
    """
    with contextlib.suppress(OSError, AttributeError):
        ctypes.CDLL(None).mallopt(M_MMAP_THRESHOLD, LARGE)


def give_back() -> None:
    """Give memory that was freed back to the system, or a pass could use it again unseen."""
    gc.collect()
    with contextlib.suppress(OSError, AttributeError):  # another system's library has no such call
        ctypes.CDLL(None).malloc_trim(0)
