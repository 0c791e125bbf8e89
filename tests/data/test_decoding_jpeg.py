"""JPEG with and without simplejpeg: the same pixels, the same verdict; pictures turned upright."""

from __future__ import annotations

import io
import sys
from collections.abc import Callable

import numpy as np
import pytest
import simplejpeg
from numpy.typing import NDArray
from PIL import Image, ImageOps
from test_image_zoo import COLOUR, GREY, NOISE, encoded, tiff, with_orientation

from moco.data.decoding import bounds, decode, jpeg
from moco.data.decoding.turning import exif_orientation, upright
from moco.data.images import UnreadableImageError


@pytest.fixture
def slowly(monkeypatch: pytest.MonkeyPatch) -> Callable[[bytes], NDArray]:
    """Return decode as it is where simplejpeg is not installed."""

    def decode_slowly(content: bytes) -> NDArray:
        with monkeypatch.context() as patch:
            patch.setattr(jpeg, "fast_decoder", lambda: None)
            return decode(content)

    return decode_slowly


def made_jpegs() -> list[bytes]:
    """Return 40 files of all subsamplings, sizes and ways of coding."""
    draw, made = np.random.default_rng(1), []
    for number in range(24):
        height, width = draw.integers(1, 70, 2)
        picture = draw.integers(0, 256, (height // 4 + 1, width // 4 + 1, 3), dtype=np.uint8)
        image = Image.fromarray(picture).resize((int(width), int(height)), Image.Resampling.BICUBIC)
        options = {"quality": int(draw.integers(5, 100)), "subsampling": number % 3}
        options |= {"progressive": number % 4 == 1, "restart_marker_blocks": number % 5}
        made.append(encoded(image.convert("L") if number % 8 == 7 else image, "JPEG", **options))
    for subsampling in ("444", "422", "420", "440", "411", "Gray"):
        for width in (8, 33):
            picture = draw.integers(0, 256, (31, width, 3), dtype=np.uint8)
            made.append(simplejpeg.encode_jpeg(picture, 80, "RGB", subsampling))
    made += [
        encoded(COLOUR, "JPEG", keep_rgb=rgb, optimize=best) for rgb in (0, 1) for best in (0, 1)
    ]
    assert len(made) == 40
    return made


def test_simplejpeg_gives_the_pixels_of_pillow_bit_for_bit(
    slowly: Callable[[bytes], NDArray], monkeypatch: pytest.MonkeyPatch
) -> None:
    jpegs = made_jpegs()
    expected = [slowly(content) for content in jpegs]
    monkeypatch.setattr(jpeg, "decode_with_pillow", None)  # it would be an error to call it
    for content, pixels in zip(jpegs, expected, strict=True):
        fast = decode(content)
        assert fast.dtype == pixels.dtype
        np.testing.assert_array_equal(fast, pixels)
        assert fast.flags.c_contiguous
        assert fast.flags.writeable


def test_no_filter_of_warnings_is_touched_on_the_fast_path(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(bounds.Silence, "__enter__", None)
    assert decode(encoded(COLOUR, "JPEG")).shape == COLOUR.shape


def test_without_simplejpeg_pillow_serves(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "simplejpeg", None)
    jpeg.fast_decoder.cache_clear()
    assert jpeg.fast_decoder() is None
    assert decode(encoded(COLOUR, "JPEG")).shape == COLOUR.shape
    jpeg.fast_decoder.cache_clear()


def damaged(content: bytes, draw: np.random.Generator) -> bytes:
    """Return the file with a few bytes changed, added, taken away or cut off."""
    changed = bytearray(content)
    for _ in range(draw.integers(1, 5)):
        place = int(draw.integers(len(changed)) if draw.random() < 0.5 else draw.exponential(60))
        place = min(max(place, 3), len(changed) - 1)
        kind = draw.random()
        if kind < 0.7:
            changed[place] = int(draw.choice([0, 255, draw.integers(256)]))
        elif kind < 0.85:
            del changed[place : place + int(draw.integers(1, 9))]
        else:
            changed[place:place] = draw.bytes(int(draw.integers(1, 9)))
    return bytes(changed[: draw.integers(4, len(changed))] if draw.random() < 0.1 else changed)


def verdict(reader: Callable[[bytes], NDArray], content: bytes) -> NDArray | None:
    try:
        return reader(content)
    except UnreadableImageError:
        return None


def test_damage_is_judged_alike_with_and_without_simplejpeg(
    slowly: Callable[[bytes], NDArray],
) -> None:
    draw, counts = np.random.default_rng(4), {True: 0, False: 0}
    whole = [
        encoded(NOISE, "JPEG", quality=60),
        encoded(GREY, "JPEG", exif=with_orientation(6)),
        encoded(COLOUR, "JPEG", progressive=True, xmp=b"<x/>", comment=b"of a cat"),
        encoded(COLOUR, "JPEG", restart_marker_blocks=1, icc_profile=b"none" * 40),
    ]
    for number in range(400):
        content = damaged(whole[number % len(whole)], draw)
        fast, slow = verdict(decode, content), verdict(slowly, content)
        assert (fast is None) == (slow is None)
        counts[fast is None] += 1
        if fast is not None:
            np.testing.assert_array_equal(fast, slow)
    assert min(counts.values()) > 60


def segment(marker: int, body: bytes) -> bytes:
    return bytes([0xFF, marker]) + (len(body) + 2).to_bytes(2, "big") + body


ODD_METADATA = {
    "profile without a number": segment(0xE2, b"ICC_PROFILE\0"),
    "JFIF cut short": segment(0xE0, b"JFIF\0"),
    "Adobe cut short": segment(0xEE, b"Adobe"),
    "Exif of nothing": segment(0xE1, b"Exif\0\0"),
    "Exif in disorder": segment(0xE1, b"Exif\0\0II*\0\xff\xff\xff\xff"),
    "pictures that are not there": segment(0xE2, b"MPF\0II*\0\x08\0\0\0\0\0"),
    "Photoshop": segment(0xED, b"Photoshop 3.0\x008BIM\x04\x04"),
    "comment": segment(0xFE, b""),
}


@pytest.mark.parametrize("kind", ODD_METADATA)
def test_damaged_metadata_are_no_damage_to_the_picture(
    kind: str, slowly: Callable[[bytes], NDArray]
) -> None:
    whole = encoded(COLOUR, "JPEG")
    content = whole[:2] + ODD_METADATA[kind] + whole[2:]
    np.testing.assert_array_equal(decode(content), decode(whole))
    np.testing.assert_array_equal(slowly(content), decode(whole))


SIDES: dict[int, Callable[[NDArray], NDArray]] = {  # how each orientation stores a picture
    1: lambda a: a,
    2: lambda a: a[:, ::-1],
    3: lambda a: a[::-1, ::-1],
    4: lambda a: a[::-1],
    5: lambda a: a.swapaxes(0, 1),
    6: lambda a: a.swapaxes(0, 1)[::-1],
    7: lambda a: a.swapaxes(0, 1)[::-1, ::-1],
    8: lambda a: a.swapaxes(0, 1)[:, ::-1],
}
DEEP_COLOUR = NOISE.astype(np.uint16) * 257


@pytest.mark.parametrize("orientation", SIDES)
def test_pictures_are_turned_upright(orientation: int, slowly: Callable[[bytes], NDArray]) -> None:
    stored = np.ascontiguousarray(SIDES[orientation](NOISE))
    exif = with_orientation(orientation)
    tag = [(274, 3, 1, orientation, True)]
    files = {
        "png": encoded(stored, exif=exif),
        "webp": encoded(stored, "WEBP", lossless=True, exif=exif),
        "tiff": encoded(stored, "TIFF", tiffinfo={274: orientation}),
        "tiff, lzw": encoded(stored, "TIFF", tiffinfo={274: orientation}, compression="tiff_lzw"),
        "tiff, two channels": tiff(
            stored[:, :, :2], photometric="minisblack", planarconfig="contig", extratags=tag
        ),
    }
    for kind, content in files.items():
        channels = 2 if kind == "tiff, two channels" else 3
        np.testing.assert_array_equal(decode(content), NOISE[:, :, :channels], err_msg=kind)
    for picture in (COLOUR, GREY):
        stored = np.ascontiguousarray(SIDES[orientation](picture))
        turned = encoded(stored, "JPEG", quality=95, subsampling=0, exif=exif)
        pixels = decode(turned)
        assert pixels.flags.c_contiguous
        assert np.abs(pixels.squeeze().astype(int) - picture).max() <= 4
        np.testing.assert_array_equal(pixels, slowly(turned))
        lying = decode(encoded(stored, "JPEG", quality=95, subsampling=0))
        np.testing.assert_array_equal(lying, np.ascontiguousarray(SIDES[orientation](pixels)))


def test_turning_agrees_with_pillow() -> None:
    for orientation in range(10):
        exif = Image.Exif()
        exif[0x0112] = orientation
        file = io.BytesIO(encoded(NOISE, exif=exif))
        with Image.open(file) as image:
            expected = np.asarray(ImageOps.exif_transpose(image))
        np.testing.assert_array_equal(upright(NOISE, orientation), expected)


def test_an_orientation_is_found_in_either_byte_order_or_is_upright() -> None:
    small = b"II*\0\x08\0\0\0\x01\0\x12\x01\x03\0\x01\0\0\0\x06\0\0\0\0\0\0\0"
    large = b"MM\0*\0\0\0\x08\0\x01\x01\x12\0\x03\0\0\0\x01\0\x06\0\0\0\0\0\0"
    for exif in (small, large):
        assert exif_orientation(exif) == exif_orientation(b"Exif\0\0" + exif) == 6
        for length in range(20):
            assert exif_orientation(exif[:length]) == 1
    assert exif_orientation(small.replace(b"\x06\0\0\0", b"\x09\0\0\0")) == 1
    assert exif_orientation(small.replace(b"\x03\0\x01", b"\x05\0\x01")) == 1  # of no such type
    assert exif_orientation(small.replace(b"\x03\0\x01", b"\x03\0\x02")) == 1  # two of them
