"""Batches of small images: loading processes beside images that stay on the device.

    python benchmarks/resident.py [--images 50000] [--side 32] [--batch 256] [--rounds 5]
                                  [--seconds 2] [--device cpu] [--json FILE]

Makes that many images of noise in a .npy file, and times whole views of `cifar10-resnet18`, made
and on the device, with no training beside. Each pipeline has a turn in each round, from a step of
its own on; the table shows the median and the spread of the rounds in images per second.
Loading processes are started before their turn, and their first batches do not count.
"""

from __future__ import annotations

import argparse
import json
import statistics
import tempfile
import time
from collections.abc import Generator
from contextlib import closing
from dataclasses import replace
from pathlib import Path

import numpy as np
import torch

from moco.data.batch_loading import load_batches
from moco.data.batches import Batch, Batches, to_device
from moco.data.resident import load_resident, resident_batches
from moco.data.sources.opening import open_images
from moco.device import cpu_count
from moco.recipes import CIFAR10_RESNET18
from moco.time_trial import wait_for

WARM_BATCHES = 8


def images_per_second(
    made: Generator[Batch, None, None],
    batches: Batches,
    device: torch.device,
    seconds: float,
) -> float:
    """Return how fast views come to be on the device."""
    with closing(made):
        for _ in range(WARM_BATCHES):
            to_device(next(made), batches.views, device)
        wait_for(device)
        began, count = time.perf_counter(), 0
        while time.perf_counter() - began < seconds:
            to_device(next(made), batches.views, device)
            wait_for(device)
            count += batches.batch_size
        return count / (time.perf_counter() - began)


def main() -> None:
    """Measure."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--images", type=int, default=50_000)
    parser.add_argument("--side", type=int, default=32)
    parser.add_argument("--batch", type=int, default=256)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--seconds", type=float, default=2.0)
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--json", type=Path)
    options = parser.parse_args()
    device = torch.device(options.device)
    views = replace(CIFAR10_RESNET18.views, image_size=options.side)
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "images.npy"
        shape = (options.images, options.side, options.side, 3)
        np.save(path, np.random.default_rng(0).integers(0, 256, shape, dtype=np.uint8))
        images = open_images(path)
        resident = load_resident(images, views, device)
        print(f"{resident.pixels.nbytes / 1e6:.0f} MB read in {resident.seconds:.2f} s")
        finish = device.type == "cpu"
        batches = Batches(images, views, batch_size=options.batch, seed=0, finish=finish)
        rates: dict[str, list[float]] = {}
        for turn in range(options.rounds):
            first = turn * batches.steps_per_epoch
            steps = {"start": first, "stop": first + 1_000_000}
            pipelines = {
                f"{workers} loading processes": load_batches(
                    batches, **steps, workers=workers, pin_memory=device.type == "cuda"
                )
                for workers in sorted({0, 1, max(1, cpu_count() - 1), cpu_count()})
            }
            pipelines["resident"] = resident_batches(batches, resident, **steps)
            if device.type == "cpu":  # elsewhere it is what "resident" does
                one_batch = resident_batches(batches, resident, **steps, at_once=True)
                pipelines["resident, cut at once"] = one_batch
            for name, made in pipelines.items():
                rate = images_per_second(made, batches, device, options.seconds)
                rates.setdefault(name, []).append(rate)
    rows = [
        {"name": name, "median": statistics.median(seen), "low": min(seen), "high": max(seen)}
        for name, seen in rates.items()
    ]
    for row in rows:
        print(f"{row['name']:24} {row['median']:9,.0f}   ({row['low']:,.0f} to {row['high']:,.0f})")
    if options.json:
        about = {"device": device.type, "torch": torch.__version__, "cores": cpu_count()}
        options.json.write_text(json.dumps({**about, "rows": rows}, indent=1) + "\n")


if __name__ == "__main__":
    main()
