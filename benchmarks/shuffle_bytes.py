"""Bytes on the loopback interface: the key shuffle against all-gathering float pixels.

    torchrun --nproc-per-node 4 benchmarks/shuffle_bytes.py

Linux, several gloo processes on one machine, nothing else busy on the loopback. Each process has 32
images of 224 pixels. The kernel's own counter is read, so sockets, headers and all are in it.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path

import torch
import torch.distributed as dist

from moco.distributed import deal_rows, gather_rows, rank, shuffled_order, world_size

IMAGES, STEPS = 32, 20


def loopback_bytes() -> int:
    """Return how many bytes the loopback interface has received."""
    return int(Path("/sys/class/net/lo/statistics/rx_bytes").read_text())


def measured(work: Callable[[int], object]) -> tuple[float, float]:
    """Return megabytes a step and process, and milliseconds a step."""
    work(0)
    dist.barrier()
    before, began = loopback_bytes(), time.perf_counter()
    for step in range(STEPS):
        work(step)
    dist.barrier()
    seconds = time.perf_counter() - began
    received = loopback_bytes() - before
    return received / 1e6 / STEPS / world_size(), 1e3 * seconds / STEPS


def main() -> None:
    """Measure three ways and print a line for each."""
    dist.init_process_group("gloo")
    torch.set_num_threads(1)
    pixels = torch.randint(256, (IMAGES, 3, 224, 224), dtype=torch.uint8)
    floats, keys = pixels.float(), torch.randn(IMAGES, 128)

    def shuffle(images: torch.Tensor, step: int) -> None:
        order = shuffled_order(IMAGES * world_size(), (0, step, 0))
        deal_rows(images, order)
        deal_rows(keys, order.argsort())

    ways: dict[str, Callable[[int], object]] = {
        "all-gather of floats": lambda _step: gather_rows(floats),
        "all-to-all of floats, keys back": lambda step: shuffle(floats, step),
        "all-to-all of bytes, keys back": lambda step: shuffle(pixels, step),
    }
    for name, work in ways.items():
        megabytes, milliseconds = measured(work)
        if rank() == 0:
            print(f"{name:34} {megabytes:8.2f} MB a step and process {milliseconds:8.1f} ms")
    dist.destroy_process_group()


if __name__ == "__main__":
    main()
