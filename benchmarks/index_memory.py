"""What the index of very many images in tar shards costs: time to build it, and memory.

Makes a few shards of real headers with holes for contents (4 KiB of disk an image), and gives each
many names by hard links: every entry is read from a header, though most headers more than once and
from memory. The contents are never read.

    python benchmarks/index_memory.py [--images 10000000] [--folder FOLDER]

FOLDER, the system's for temporary files by default, is where the shards are made and removed again;
its file system has to know hard links and files with holes.
"""

from __future__ import annotations

import argparse
import os
import resource
import tarfile
import tempfile
import time
from pathlib import Path

import numpy as np

from moco.data.sources.names import PackedNames
from moco.data.sources.tar_shards import TarImages

IMAGES_A_SHARD = 10_000
DIFFERENT_SHARDS = 4
IMAGE_BYTES = 110_000  # as in ImageNet, about
MIB = 1 << 20


def make_shard(path: Path, first: int) -> None:
    """Write a shard of headers whose contents are holes."""
    with open(path, "wb") as file:
        for number in range(first, first + IMAGES_A_SHARD):
            member = tarfile.TarInfo(f"n{number % 1000:08}/n{number % 1000:08}_{number:08}.JPEG")
            member.size = IMAGE_BYTES
            file.write(member.tobuf(tarfile.USTAR_FORMAT))
            file.seek(-(-IMAGE_BYTES // 512) * 512, os.SEEK_CUR)
        file.write(bytes(1024))


def make_shards(folder: Path, images: int) -> None:
    """Make `images` / 10,000 shards, of which four differ."""
    for number in range(images // IMAGES_A_SHARD):
        path = folder / f"train-{number:06}.tar"
        if number < DIFFERENT_SHARDS:
            make_shard(path, number * IMAGES_A_SHARD)
        else:
            os.link(folder / f"train-{number % DIFFERENT_SHARDS:06}.tar", path)


def memory() -> int:
    """Return the bytes of memory that this process has now."""
    pages = int(Path("/proc/self/statm").read_text().split()[1])
    return pages * os.sysconf("SC_PAGE_SIZE")


def main() -> None:
    """Make shards, index them, and print what it took."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--images", type=int, default=1_000_000, metavar="N")
    parser.add_argument("--folder", type=Path, default=Path(tempfile.gettempdir()))
    options = parser.parse_args()
    with tempfile.TemporaryDirectory(dir=options.folder) as folder:
        make_shards(Path(folder), options.images)
        before, began = memory(), time.perf_counter()
        images = TarImages(sorted(Path(folder).iterdir()))
        seconds = time.perf_counter() - began
        after = memory()
        peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
        print(f"{len(images):,} images in {len(images.shard_sizes()):,} shards")
        print(f"built in {seconds:.1f} s: {len(images) / seconds:,.0f} images a second")
        print(f"index {images.nbytes / len(images):.2f} bytes an image")
        print(
            f"process memory {before / MIB:.0f} MiB before, {after / MIB:.0f} after, "
            f"{peak / MIB:.0f} at most: {(after - before) / len(images):.2f} bytes an image"
        )
        asked = np.random.default_rng(0).integers(0, len(images), 20_000).tolist()
        began = time.perf_counter()
        for image_id in asked:
            images.name(image_id)
        rate = len(asked) / (time.perf_counter() - began)
        print(f"{rate:,.0f} names a second read back from the shards, in random order")
    names = PackedNames(f"n{i % 1000:08}/n{i % 1000:08}_{i:08}.JPEG" for i in range(1_000_000))
    print(f"names of a folder or list, 33 letters each: {names.nbytes / 1e6:.1f} bytes an image")


if __name__ == "__main__":
    main()
