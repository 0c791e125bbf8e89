"""Does a loading process grow? Its memory after each of several epochs.

    python benchmarks/worker_memory.py SOURCE [--epochs 5] [--workers 2] [--side 64] [--make N]

SOURCE is anything that `moco pretrain` reads; with --make N it is a folder, filled first with
N small JPEGs. It prints, for each epoch, each loading process's resident and private memory
in MB, and the images it made per second.
"""

from __future__ import annotations

import argparse
import os
import time
from dataclasses import replace
from pathlib import Path

import numpy as np
from PIL import Image
from torch.utils.data import DataLoader

from moco.data.batches import Batches
from moco.data.sources.opening import open_images
from moco.recipes import MOCO_V2

BATCH_SIZE = 250


def make_images(folder: Path, count: int) -> None:
    """Fill a folder with small JPEGs, a thousand in each folder below it."""
    draw = np.random.default_rng(0)
    for number in range(count):
        place = folder / f"{number // 1000:04}"
        if number % 1000 == 0:
            place.mkdir(parents=True, exist_ok=True)
        corners = draw.integers(0, 256, (4, 4, 3), dtype=np.uint8)
        Image.fromarray(corners).resize((40, 32)).save(place / f"{number:07}.jpg", quality=85)


def memory(process: int) -> tuple[float, float]:
    """Return a process's resident and private memory in MB."""
    resident = private = 0
    for line in Path(f"/proc/{process}/smaps_rollup").read_text().splitlines():
        name, _, rest = line.partition(":")
        if name == "Rss":
            resident = int(rest.split()[0])
        if name in ("Private_Clean", "Private_Dirty"):
            private += int(rest.split()[0])
    return resident / 1000, private / 1000


def children() -> list[int]:
    """Return the processes that this one started."""
    own = str(os.getpid())
    found = []
    for place in Path("/proc").glob("[0-9]*/stat"):
        try:
            fields = place.read_text().rpartition(")")[2].split()
        except OSError:
            continue
        if fields[1] == own:
            found.append(int(place.parent.name))
    return sorted(found)


def main() -> None:
    """Measure."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("source", type=Path)
    parser.add_argument("--epochs", type=int, default=5)
    parser.add_argument("--workers", type=int, default=2)
    parser.add_argument("--side", type=int, default=64)
    parser.add_argument("--make", type=int)
    arguments = parser.parse_args()
    if arguments.make:
        make_images(arguments.source, arguments.make)
    images = open_images(arguments.source)
    views = replace(MOCO_V2.views, image_size=arguments.side)
    batches = Batches(images, views, batch_size=BATCH_SIZE, seed=0)
    steps = batches.steps_per_epoch
    loader = DataLoader(
        batches,
        batch_size=None,
        sampler=range(arguments.epochs * steps),
        num_workers=arguments.workers,
    )
    print(f"{len(images):,} images, {arguments.workers} loading processes, {steps} steps an epoch")
    began = time.monotonic()
    for step, _ in enumerate(loader, start=1):
        if step % steps == 0 or step == 20:
            shown = [f"{resident:.1f} ({own:.1f})" for resident, own in map(memory, children())]
            rate = step * BATCH_SIZE / (time.monotonic() - began)
            print(
                f"epoch {step / steps:.2f}: {', '.join(shown)} MB; {rate:.0f} images/s", flush=True
            )


if __name__ == "__main__":
    main()
