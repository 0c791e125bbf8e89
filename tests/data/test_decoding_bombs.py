"""Small files that claim or unpack to much: refused at once, and without the memory for it."""

from __future__ import annotations

import json
import struct
import subprocess
import sys
import zlib
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from test_image_zoo import array_file, encoded, png, png_chunk, tiff

from moco.data.decoding import decode
from moco.data.images import UnreadableImageError

SMALL = np.full((16, 16), 7, np.uint8)
BANDS = np.zeros((16, 16, 12), np.uint16)
SAMPLES = {"photometric": "minisblack", "planarconfig": "contig"}
MUCH = zlib.compress(bytes(100_000_000), 1)  # 0.4 MB


def changed(file: bytes, old: bytes, new: bytes) -> bytes:
    assert file.count(old) == 1
    return file.replace(old, new)


def entry(tag: int, value: int) -> bytes:
    """Return an entry of a TIFF's directory."""
    return struct.pack("<HHII", tag, 4, 1, value)


def tall(values: np.ndarray, height: int, **options: object) -> bytes:
    """Return a TIFF that claims to be so high."""
    file = tiff(values, **(SAMPLES | options))
    return changed(file, entry(257, len(values)), entry(257, height))


def inflating() -> bytes:
    """Return a deflated TIFF of one strip, which unpacks to 100 MB instead of 6 kB."""
    file = tiff(BANDS, **SAMPLES, compression="zlib", rowsperstrip=16)
    start = file.index(b"\x78", len(file) - 100)
    length = entry(279, len(file) - start)
    return changed(file[:start], length, entry(279, len(MUCH))) + MUCH


def npy_claiming(shape: str) -> bytes:
    return changed(array_file(SMALL), b"(16, 16), }".ljust(40), (shape + ", }").encode().ljust(40))


BOMBS = {
    "png": png(1, 0, np.zeros((20_000, 2500), np.uint8), 20_000),
    "png text": png(8, 0, SMALL, 16, png_chunk(b"zTXt", b"a\0\0" + MUCH)),
    "gif": changed(
        encoded(SMALL, "GIF"),
        b"a" + struct.pack("<HH", 16, 16),
        b"a" + struct.pack("<HH", 60_000, 60_000),
    ),
    "jpeg": changed(encoded(SMALL, "JPEG"), b"\x08\0\x10\0\x10", b"\x08\xff\xdc\xff\xdc"),
    "webp": b"RIFF\x16\0\0\0WEBPVP8X\x0a\0\0\0\x02\0\0\0\xf0\xff\0\xf0\xff\0",
    "bmp": changed(
        encoded(SMALL, "BMP"), struct.pack("<ii", 16, 16), struct.pack("<ii", 60_000, 60_000)
    ),
    "ppm": b"P6 60000 60000 255\n" + bytes(100),
    "tiff of pixels": tall(np.zeros((1, 30_000, 2), np.uint8), 60_000),
    "tiff of bytes": tall(np.zeros((1, 30_000, 12), np.uint16), 5_900),
    "tiff of nothing": tall(np.zeros((1, 30_000, 12), np.uint16), 900, compression="zlib"),
    "tiff tile": changed(tiff(BANDS, **SAMPLES, tile=(16, 16)), entry(322, 16), entry(322, 2**31)),
    "tiff of nothing, colour": tall(
        np.zeros((1, 13_000, 3), np.uint8), 13_000, photometric="rgb", compression="zlib"
    ),
    "tiff tile, colour": changed(
        tiff(
            BANDS[:, :, :3].astype(np.uint8), photometric="rgb", tile=(16, 16), compression="zlib"
        ),
        entry(322, 16),
        entry(322, 2**28),
    ),
    "tiff that inflates": inflating(),
    "npy": npy_claiming("(999999999, 999999999)"),
    "npy of bytes": npy_claiming("(20000, 30000)"),
    "npy of axes": npy_claiming("(" + "9" * 20 + ", 1)"),
}
MEASURED = """
import json, resource, sys, time
from pathlib import Path
from moco.data.decoding import decode, read_bytes
from moco.data.images import UnreadableImageError

def peak():
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024

def now():
    return int(Path("/proc/self/statm").read_text().split()[1]) * resource.getpagesize() / 2**20

ballast = b"x" * int(max(0, peak() - now()) * 2**20)  # or growth up to an old peak is not seen
found = {}
for path in sorted(Path(sys.argv[1]).iterdir(), key=lambda path: (path.name == 'd', path.name)):
    before, began = peak(), time.process_time()
    try:
        reason = f"used: {decode(read_bytes(path), path.name).shape}"
    except UnreadableImageError as error:
        reason = str(error)
    found[path.name] = reason, time.process_time() - began, peak() - before
print(json.dumps(found))
"""


def figures_of(folder: Path) -> dict[str, tuple[str, float, float]]:
    """Return the reason, the CPU seconds and the growth in MB of each file in a folder."""
    command = [sys.executable, "-c", MEASURED, str(folder)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=100, check=True)
    figures: dict[str, tuple[str, float, float]] = json.loads(done.stdout)
    return figures


@pytest.mark.skipif(not Path("/proc/self/statm").exists(), reason="Linux tells the memory in use")
def test_bombs_are_refused_at_once_and_without_their_memory(tmp_path: Path) -> None:
    for name, content in BOMBS.items():
        (tmp_path / name).write_bytes(content)
    # readers are imported when first used
    (tmp_path / "a").write_bytes(encoded(SMALL, "TIFF"))
    (tmp_path / "b").write_bytes(tiff(BANDS, **SAMPLES, compression="zlib"))
    (tmp_path / "c").write_bytes(encoded(SMALL, "JPEG"))
    (tmp_path / "d").write_bytes(array_file(np.zeros((90_000, 1000), np.uint8)))  # 90 MB, twice
    figures = figures_of(tmp_path)
    assert figures["d"][2] > 150  # growth is seen
    assert [figures.pop(name)[0][:5] for name in "abcd"] == ["used:"] * 4
    assert figures.keys() == BOMBS.keys()
    for name, (reason, seconds, megabytes) in figures.items():
        assert not reason.startswith("used"), (name, reason)
        assert seconds < 0.3, (name, seconds)  # 0.1 on a quiet machine
        assert megabytes < 50, (name, megabytes)
    assert figures["png"][0] == "Image size (400000000 pixels) exceeds limit of 178956970 pixels"
    assert figures["jpeg"][0] == "4290250000 pixels are more than the limit of 178956970"
    assert figures["tiff tile, colour"][0].startswith("4294967296 pixels are more than")
    assert figures["tiff of nothing, colour"][
        0
    ] == "507000000 bytes of pixels declared in a file of " + str(
        len(BOMBS["tiff of nothing, colour"])
    )


@pytest.mark.parametrize("kind", ["JPEG", "PNG"])
def test_the_limit_is_twice_that_of_pillow(kind: str, monkeypatch: pytest.MonkeyPatch) -> None:
    content = encoded(SMALL, kind)
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 128)
    assert decode(content).shape == (16, 16, 1)
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 127)
    with pytest.raises(UnreadableImageError, match=r"256 pixels.* 254"):
        decode(content)
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", None)
    assert decode(content).shape == (16, 16, 1)
