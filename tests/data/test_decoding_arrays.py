"""Files of many channels and deep values: TIFF through tifffile, and NumPy's own."""

from __future__ import annotations

import io
import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import tifffile
from test_decoding_bombs import MUCH, SAMPLES, inflating
from test_image_zoo import BANDS, DEEP, GREY, NOISE, array_file, encoded, tiff

from moco.data.decoding import decode
from moco.data.images import UnreadableImageError


@pytest.mark.parametrize(
    ("stored", "expected"),
    [
        (np.float64, np.float32),
        (np.float16, np.float32),
        (np.int16, np.float32),
        (np.int32, np.float32),
        (np.uint32, np.float32),
        (np.uint8, np.uint8),
        (np.uint16, np.uint16),
        (">u2", np.uint16),
        (">f8", np.float32),
    ],
)
@pytest.mark.parametrize("kind", ["npy", "tiff", "tiff of two channels"])
def test_values_stay_as_stored_in_one_of_three_types(
    kind: str, stored: type, expected: type
) -> None:
    values = np.array([[0, 1, 100], [7, 50, 127]], stored)
    if kind == "npy":
        content = array_file(values)
    elif kind == "tiff":
        content = tiff(values, byteorder=values.dtype.newbyteorder("=").byteorder)
    else:
        content = tiff(np.dstack([values, values]), **SAMPLES)
    pixels = decode(content)
    assert pixels.dtype == expected
    assert pixels.dtype.isnative
    assert pixels.flags.writeable
    for channel in range(pixels.shape[2]):
        np.testing.assert_array_equal(pixels[:, :, channel], values.astype(float))


def test_truth_is_black_and_white() -> None:
    values = np.moveaxis(NOISE > 127, 2, 0)
    pixels = decode(array_file(values))
    assert pixels.flags.c_contiguous
    np.testing.assert_array_equal(pixels, (NOISE > 127) * np.uint8(255))


@pytest.mark.parametrize(
    "stored", [np.int64, np.uint64, np.int8, np.complex64, "U3", "M8[s]", "S2"]
)
def test_other_types_are_named(stored: type) -> None:
    with pytest.raises(UnreadableImageError, match="are not read"):
        decode(array_file(np.zeros((4, 4), stored)))


@pytest.mark.parametrize(
    ("shape", "expected"),
    [
        ((8, 9), (8, 9, 1)),
        ((8, 9, 3), (8, 9, 3)),
        ((3, 8, 9), (8, 9, 3)),
        ((1, 8, 9), (8, 9, 1)),
        ((8, 9, 8), (8, 9, 8)),  # either could be: the last
        ((9, 20, 8), (9, 20, 8)),
        ((8, 20, 9), (20, 9, 8)),
    ],
)
def test_channels_are_the_shorter_of_the_outer_axes(
    shape: tuple[int, ...], expected: tuple[int, ...]
) -> None:
    values = np.arange(np.prod(shape), dtype=np.uint16).reshape(shape)
    for order in ("C", "F"):
        pixels = decode(array_file(np.asarray(values, order=order)))
        assert pixels.shape == expected
        if shape == expected:
            np.testing.assert_array_equal(pixels, values)
        elif len(shape) == 3:
            np.testing.assert_array_equal(pixels[2, 3], values[:, 2, 3])


def npy_with_header(header: str, body: bytes = bytes(16), version: int = 1) -> bytes:
    length = len(header).to_bytes(2 if version == 1 else 4, "little")
    return b"\x93NUMPY" + bytes([version, 0]) + length + header.encode("latin-1") + body


SQUARE = "{'descr': '|u1', 'fortran_order': False, 'shape': (4, 4)}"
BAD_HEADERS = {
    "nothing": "",
    "a call": "__import__('os').system('touch /tmp/never')",
    "no dictionary": "[1, 2]",
    "no shape": "{'descr': '|u1', 'fortran_order': False}",
    "too deep": "(" * 900,
    "too long": SQUARE + " " * 2000,
    "negative": SQUARE.replace("(4, 4)", "(-4, -4)"),
    "empty": SQUARE.replace("(4, 4)", "(0, 4)"),
    "one axis": SQUARE.replace("(4, 4)", "(16,)"),
    "four axes": SQUARE.replace("(4, 4)", "(2, 2, 2, 2)"),
    "no axis": SQUARE.replace("(4, 4)", "()"),
    "text for a shape": SQUARE.replace("(4, 4)", "'ab'"),
    "fields": SQUARE.replace("'|u1'", "[('a', '|u1')]"),
    "objects": SQUARE.replace("|u1", "|O"),
    "nothing in each": SQUARE.replace("|u1", "|V0"),
    "no such type": SQUARE.replace("|u1", "|q9"),
}


def test_a_header_by_hand_is_read() -> None:
    for version in (1, 2):
        assert decode(npy_with_header(SQUARE, version=version)).shape == (4, 4, 1)


@pytest.mark.parametrize("kind", BAD_HEADERS)
def test_a_bad_header_is_refused(kind: str) -> None:
    with pytest.raises(UnreadableImageError):
        decode(npy_with_header(BAD_HEADERS[kind]))
    with pytest.raises(UnreadableImageError):
        decode(npy_with_header(BAD_HEADERS[kind], version=3))


def test_an_array_of_nothing_is_refused() -> None:
    for shape in ((0, 4), (4, 0), (4, 4, 0)):
        with pytest.raises(UnreadableImageError, match="no image"):
            decode(array_file(np.zeros(shape, np.uint8)))


def test_only_alpha_is_dropped_from_a_tiff() -> None:
    four = np.dstack([NOISE, GREY])
    for alpha, kept in [("assocalpha", 3), ("unassalpha", 3), ("unspecified", 4)]:
        for values in (four, four.astype(np.uint16) * 257):
            for planes in (False, True):
                content = tiff(
                    np.moveaxis(values, 2, 0) if planes else values,
                    photometric="rgb",
                    planarconfig="separate" if planes else "contig",
                    extrasamples=[alpha],
                )
                pixels = decode(content)
                assert pixels.shape[2] == kept, (alpha, planes, values.dtype)
                if alpha != "assocalpha":  # Pillow divides colours by it
                    np.testing.assert_array_equal(pixels, values[:, :, :kept])
    middle = tiff(
        BANDS[:, :, :4], photometric="minisblack", planarconfig="contig", extrasamples=[0, 2, 0]
    )
    np.testing.assert_array_equal(decode(middle), BANDS[:, :, [0, 1, 3]])


PLANES = np.ascontiguousarray(np.moveaxis(BANDS[:, :, :5], 2, 0))


@pytest.mark.parametrize(
    "options",
    [
        {},
        {"compression": "zlib"},
        {"metadata": {"axes": "CYX"}},
        {"imagej": True, "metadata": {"axes": "CYX"}},
        {"ome": True, "metadata": {"axes": "CYX"}},
        {"ome": True, "metadata": {"axes": "CYX"}, "bigtiff": True, "byteorder": ">"},
    ],
    ids=str,
)
def test_pages_are_channels_where_the_file_says_so(options: dict[str, object]) -> None:
    content = tiff(PLANES, photometric="minisblack", **options)
    pixels = decode(content)
    assert pixels.flags.c_contiguous
    np.testing.assert_array_equal(pixels, BANDS[:, :, :5])
    with pytest.raises(UnreadableImageError):
        decode(content[:-5000])


@pytest.mark.parametrize(
    "options",
    [
        {"metadata": None},
        {"metadata": {"axes": "TYX"}},
        {"imagej": True, "metadata": {"axes": "ZYX"}},
        {"ome": True, "metadata": {"axes": "TYX"}},
    ],
    ids=str,
)
def test_of_other_pages_the_first_is_taken(options: dict[str, object]) -> None:
    content = tiff(PLANES, photometric="minisblack", **options)
    np.testing.assert_array_equal(decode(content), BANDS[:, :, :1])


def test_metadata_open_no_other_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    options = {"photometric": "minisblack", "ome": True, "metadata": {"axes": "CYX"}}
    (tmp_path / "other.tif").write_bytes(tiff(PLANES, **options))
    monkeypatch.chdir(tmp_path)
    with tifffile.TiffFile(io.BytesIO(tiff(PLANES, **options))) as file:
        words = str(file.pages.first.description)
    one = '<TiffData IFD="0" PlaneCount="5"/>'
    assert words.count(one) == 1
    other = '<UUID FileName="other.tif">urn:uuid:1</UUID>'
    words = words.replace(
        one,
        "".join(
            f'<TiffData FirstC="{channel}" IFD="{channel}" PlaneCount="1">{other}</TiffData>'
            for channel in range(5)
        ),
    )
    content = tiff(
        np.zeros_like(PLANES), photometric="minisblack", metadata=None, description=words
    )
    assert decode(content).max() == 0


def test_pages_that_go_in_a_circle_or_on_for_ever_end() -> None:
    content = bytearray(tiff(PLANES[:2], photometric="minisblack"))
    with tifffile.TiffFile(io.BytesIO(bytes(content))) as file:
        first, second = (page.offset for page in file.pages)
        place = second + 2 + 12 * len(file.pages[1].tags)
    content[place : place + 4] = first.to_bytes(4, "little")
    np.testing.assert_array_equal(decode(bytes(content)), BANDS[:, :, :1])


def test_a_tiff_with_parts_missing_is_not_filled_with_zeros() -> None:
    whole = tiff(BANDS, **SAMPLES, rowsperstrip=8, compression="zlib")
    np.testing.assert_array_equal(decode(whole), BANDS)
    with tifffile.TiffFile(io.BytesIO(whole)) as file:
        first = file.pages.first
        ends = [sum(part) for part in zip(first.dataoffsets, first.databytecounts, strict=True)]
    for length in (ends[-1] - 1, ends[2], ends[0]):
        with pytest.raises(UnreadableImageError, match="cut off"):
            decode(whole[:length])


WITHOUT_IMAGECODECS = """
import json, sys, time
sys.modules["imagecodecs"] = None
from pathlib import Path
from moco.data.decoding import decode
from moco.data.images import UnreadableImageError
found = {}
for path in sorted(Path(sys.argv[1]).iterdir()):
    try:
        found[path.name] = int(decode(path.read_bytes()).sum())
    except UnreadableImageError as error:
        found[path.name] = str(error)
print(json.dumps(found))
"""


def test_without_imagecodecs_the_remedy_is_named_and_nothing_unpacks_without_end(
    tmp_path: Path,
) -> None:
    for compression in (None, "zlib", "packbits", "lzw", "zstd"):
        content = tiff(BANDS, **SAMPLES, compression=compression)
        (tmp_path / f"{compression}").write_bytes(content)
    (tmp_path / "bomb").write_bytes(inflating())
    (tmp_path / "grey lzw").write_bytes(encoded(DEEP, "TIFF", compression="tiff_lzw"))
    command = [sys.executable, "-c", WITHOUT_IMAGECODECS, str(tmp_path)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60, check=True)
    assert not done.stderr
    remedy = 'this TIFF needs imagecodecs: pip install "moco-torch[tiff]"'
    whole = int(BANDS.sum())
    assert json.loads(done.stdout) == {
        "None": whole,
        "zlib": whole,
        "packbits": whole,
        "lzw": remedy,
        "zstd": remedy,
        "bomb": "a part of the file unpacks to more than it should hold",
        "grey lzw": int(DEEP.sum()),  # Pillow has its own
    }
    assert len(MUCH) < 10**6
