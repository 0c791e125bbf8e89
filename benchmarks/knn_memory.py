"""What kNN over very many rows costs: memory beside its stated bound, and time.

Makes float16 train rows in a file (400 MB for the default), maps it, and votes with all settings of
the sweep. The default is a tenth of the pairs of 1,000,000 x 50,000 at 2,048 features.

    python benchmarks/knn_memory.py [--train 100000] [--test 50000] [--features 2048]
        [--memory-mib 512] [--threads 1] [--folder FOLDER] [--part 1]
"""

from __future__ import annotations

import argparse
import resource
import tempfile
import threading
import time
from pathlib import Path

import numpy as np
import torch

from moco.evaluation.feature_set import FeatureSet
from moco.evaluation.knn import knn, knn_memory
from moco.evaluation.neighbours import choose_chunks

CLASSES = 1000
MIB = 1 << 20


def make_rows(path: Path, rows: int, features: int, seed: int) -> torch.Tensor:
    """Write rows around a centre for each class, a part at a time, and return them mapped."""
    centres = np.random.default_rng(9).standard_normal((CLASSES, features), dtype=np.float32)
    file = np.lib.format.open_memmap(path, "w+", np.float16, (rows, features))
    for first in range(0, rows, 4096):
        numbers = np.arange(first, min(first + 4096, rows))
        draw = np.random.default_rng((seed, first))
        noise = draw.standard_normal((len(numbers), features), dtype=np.float32)
        file[numbers] = 0.07 * centres[numbers % CLASSES] + noise
    file.flush()
    return torch.from_numpy(np.load(path, mmap_mode="c"))


def own_memory() -> int:
    """Return the bytes of memory that are this process's alone, without mapped files."""
    for line in Path("/proc/self/status").read_text().splitlines():
        if line.startswith("RssAnon"):
            return int(line.split()[1]) * 1024
    return 0


class Peak:
    """The most own memory seen while it runs, asked for every 20 ms."""

    def __init__(self) -> None:
        self.bytes, self.ended = 0, threading.Event()
        self.thread = threading.Thread(target=self.watch, daemon=True)

    def watch(self) -> None:
        """Look until told to end."""
        while not self.ended.wait(0.02):
            self.bytes = max(self.bytes, own_memory())


def main() -> None:
    """Make rows, vote, and print what it took."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--train", type=int, default=100_000, metavar="N")
    parser.add_argument("--test", type=int, default=50_000, metavar="N")
    parser.add_argument("--part", type=int, default=1, metavar="N", help="other test rows")
    parser.add_argument("--features", type=int, default=2048, metavar="N")
    parser.add_argument("--memory-mib", type=int, default=512, metavar="N")
    parser.add_argument("--threads", type=int, default=1, metavar="N")
    parser.add_argument("--folder", type=Path, default=Path(tempfile.gettempdir()))
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    names = tuple(str(number) for number in range(CLASSES))
    memory = options.memory_mib * MIB
    with tempfile.TemporaryDirectory(dir=options.folder) as folder:
        train, test = (
            FeatureSet(
                make_rows(Path(folder) / f"{name}.npy", rows, options.features, seed),
                torch.arange(rows) % CLASSES,
                names,
                title=name,
            )
            for name, rows, seed in (
                ("train", options.train, 0),
                ("test", options.test, options.part),
            )
        )
        chunks = choose_chunks(len(train), len(test), options.features, 200, memory=memory)
        stated = knn_memory(train, test, memory=memory)
        before, peak = own_memory(), Peak()
        peak.thread.start()
        began, cpu = time.perf_counter(), time.process_time()
        result = knn(train, test, choose=False, memory=memory)
        seconds, cpu = time.perf_counter() - began, time.process_time() - cpu
        peak.ended.set()
        peak.thread.join()
    pairs = len(train) * len(test)
    print(f"{len(train):,} x {len(test):,} rows of {options.features:,}, {chunks}")
    print(f"top1 at 200 neighbours, temperature 0.07: {100 * result.headline.value:.2f} %")
    print(f"stated {stated / MIB:.0f} MiB; used {(peak.bytes - before) / MIB:.0f} MiB at most")
    most = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    print(f"whole process {most:.0f} MiB at most, mapped pages of the files in it")
    print(f"{seconds:.0f} s, {cpu:.0f} CPU s with {options.threads} threads: ", end="")
    print(f"{1e9 * cpu / pairs:.1f} CPU ns a pair")


if __name__ == "__main__":
    main()
