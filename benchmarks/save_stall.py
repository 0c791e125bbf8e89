"""How long training waits for its checkpoints: ResNet-50, 65,536 keys, one save a minute.

    python benchmarks/save_stall.py [--minutes 4] [--run FOLDER] [--device cpu]

Trains the `moco-v2` recipe on made images of 64 pixels (a step is short, so waiting shows), and
prints the share of the time that steps waited: in the call that begins a save, and by being slower
than other steps while the disk is written.
"""

import argparse
import importlib
import statistics
import sys
import tempfile
import time
from contextlib import suppress
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image

from moco.data.batches import Batch
from moco.errors import InterruptedRunError
from moco.plan import make_plan
from moco.session import Session

pretraining = importlib.import_module("moco.pretraining")
session_module = importlib.import_module("moco.session")
IMAGES, SIDE, BATCH = 512, 64, 16


class Watch:
    """Times each step, each call that begins a save, and what was being written meanwhile."""

    def __init__(self, seconds: float) -> None:
        self.end, self.at = time.monotonic() + seconds, time.monotonic()
        self.free: list[float] = []
        self.beside: list[float] = []
        self.begins: list[float] = []
        self.writes: list[float] = []
        after_step, save = pretraining.after_step, Session.save

        def timed_save(session: Session) -> None:
            began = time.monotonic()
            save(session)
            self.begins.append(time.monotonic() - began)

        def timed_step(session: Session, batch: Batch, stop: Any) -> None:
            step = time.monotonic() - self.at
            (self.beside if session.saver.is_busy() else self.free).append(step)
            if session.saver.seconds not in (0.0, *self.writes[-1:]):
                self.writes.append(session.saver.seconds)
            after_step(session, batch, stop)
            self.at = time.monotonic()

        pretraining.after_step = timed_step
        Session.save = timed_save  # type: ignore[method-assign]

    def stop(self) -> int | None:
        """Return the exit code to stop with, None to go on."""
        return 75 if time.monotonic() > self.end else None


def main() -> None:
    """Measure and print."""
    options = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    options.add_argument("--minutes", type=float, default=4.0)
    options.add_argument("--run", type=Path)
    options.add_argument("--device", default="cpu")
    chosen = options.parse_args()
    session_module.SAVE_EVERY_SECONDS = 60.0
    with tempfile.TemporaryDirectory(dir=chosen.run) as folder:
        images = Path(folder) / "images"
        images.mkdir()
        draw = np.random.default_rng(0)
        for number in range(IMAGES):
            pixels = draw.integers(0, 256, (SIDE, SIDE, 3), dtype=np.uint8)
            Image.fromarray(pixels).save(images / f"{number:04}.png")
        settings = [f"views.image_size={SIDE}", f"batch_size={BATCH}", "batch_norm_groups=1"]
        plan = make_plan(
            images,
            recipe="moco-v2",
            settings=[*settings, "epochs=100000", "dictionary.size=65536"],
            run=Path(folder) / "run",
            device=chosen.device,
            workers=0,
        )
        watch = Watch(60 * chosen.minutes)
        began = time.monotonic()
        with suppress(InterruptedRunError):
            pretraining.train(plan, stop=watch.stop)
        total = time.monotonic() - began
        size = sum(path.stat().st_size for path in plan.run.glob("checkpoints/*/*")) / 2e6
    usual = statistics.median(watch.free)
    slower = sum(watch.beside) - usual * len(watch.beside)
    begins = watch.begins[:-1]  # the last one is the end of the run
    sys.stdout.write(
        f"{chosen.device}, torch {torch.__version__}: {total:.0f} s, {len(begins)} saves of "
        f"{size:.0f} MB, written in {statistics.median(watch.writes):.1f} s\n"
        f"step {usual:.2f} s, beside a write {statistics.median(watch.beside):.2f} s\n"
        f"waited to begin a save: {sum(begins):.2f} s, {max(begins):.2f} s at most; slower steps: "
        f"{slower:.2f} s; in all {100 * (sum(begins) + slower) / total:.2f} % of the time\n"
    )


if __name__ == "__main__":
    main()
