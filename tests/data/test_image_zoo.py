"""Every kind of image file that we know, made here; each is used, or skipped with a reason."""

from __future__ import annotations

import io
import struct
import zlib
from typing import NamedTuple

import numpy as np
import pytest
import tifffile
from numpy.lib import format as npy
from numpy.typing import NDArray
from PIL import Image

from moco.data.decoding import decode
from moco.data.images import UnreadableImageError

DRAW = np.random.default_rng(0)
SMOOTH = np.add.outer(np.arange(48), np.arange(64)).astype(np.uint8)  # what JPEG keeps well
COLOUR = np.dstack([SMOOTH * 2, 200 - SMOOTH, SMOOTH + 60]).astype(np.uint8)
GREY = COLOUR[:, :, 1]
NOISE = DRAW.integers(0, 256, (48, 64, 3), dtype=np.uint8)
DEEP = DRAW.integers(0, 65536, (48, 64), dtype=np.uint16)
BANDS = DRAW.integers(0, 65536, (48, 64, 12), dtype=np.uint16)
FLOAT = DRAW.normal(size=(48, 64)).astype(np.float32)


def encoded(image: Image.Image | NDArray, kind: str = "PNG", **options: object) -> bytes:
    """Return an image as a file of a kind of Pillow's."""
    file = io.BytesIO()
    (image if isinstance(image, Image.Image) else Image.fromarray(image)).save(
        file, kind, **options
    )
    return file.getvalue()


def tiff(values: NDArray, **options: object) -> bytes:
    """Return a TIFF as tifffile writes it."""
    file = io.BytesIO()
    tifffile.imwrite(file, values, **options)
    return file.getvalue()


def array_file(values: NDArray) -> bytes:
    """Return a file of NumPy's."""
    file = io.BytesIO()
    npy.write_array(file, values, allow_pickle=False)
    return file.getvalue()


def with_orientation(orientation: int, more: bytes = b"") -> bytes:
    """Return Exif metadata."""
    exif = Image.Exif()
    exif[0x0112] = orientation
    exif[0x010E] = more.decode() or "a picture"
    return exif.tobytes()


def png_chunk(kind: bytes, body: bytes) -> bytes:
    check = zlib.crc32(kind + body)
    return struct.pack(">I", len(body)) + kind + body + struct.pack(">I", check)


def png(bits: int, colour: int, rows: NDArray, width: int, *before: bytes) -> bytes:
    """Return a PNG of any depth; `rows` [H, bytes of a row] as they are stored."""
    header = struct.pack(">IIBBBBB", width, len(rows), bits, colour, 0, 0, 0)
    body = b"".join(b"\0" + row.tobytes() for row in rows)
    chunks = [png_chunk(b"IHDR", header), *before, png_chunk(b"IDAT", zlib.compress(body))]
    return b"\x89PNG\r\n\x1a\n" + b"".join(chunks) + png_chunk(b"IEND", b"")


def interlaced_png(grey: NDArray) -> bytes:
    """Return a PNG whose rows come in seven passes."""
    passes = [(0, 0, 8, 8), (0, 4, 8, 8), (4, 0, 8, 4), (0, 2, 4, 4), (2, 0, 4, 2), (0, 1, 2, 2)]
    rows = [grey[y::down, x::right] for y, x, down, right in [*passes, (1, 0, 2, 1)]]
    body = b"".join(b"\0" + row.tobytes() for part in rows for row in part)
    header = struct.pack(">IIBBBBB", grey.shape[1], grey.shape[0], 8, 0, 0, 0, 1)
    chunks = png_chunk(b"IHDR", header) + png_chunk(b"IDAT", zlib.compress(body))
    return b"\x89PNG\r\n\x1a\n" + chunks + png_chunk(b"IEND", b"")


def ycck_jpeg(inks: NDArray) -> bytes:
    """Return a JPEG as Adobe stores inks [H, W, 4]: the first three as brightness and colour."""
    three = np.asarray(Image.fromarray(inks[:, :, :3]).convert("YCbCr"))
    planes = 255 - np.dstack([three, 255 - inks[:, :, 3]])  # Pillow inverts them once more
    file = bytearray(encoded(Image.fromarray(planes, "CMYK"), "JPEG", quality=98, subsampling=0))
    file[file.index(b"Adobe") + 11] = 2
    return bytes(file)


def seen(inks: NDArray) -> NDArray:
    """Return how inks [H, W, 4] look, by the formula of a school book."""
    light = 255.0 - inks.astype(float)
    return np.round(light[:, :, :3] * light[:, :, 3:] / 255).astype(np.uint8)


def stacked(*channels: NDArray) -> NDArray:
    return np.ascontiguousarray(np.dstack(channels))


class Kind(NamedTuple):
    """A file, and its pixels; None where it is to be refused."""

    content: bytes
    pixels: NDArray | None
    near: float = 0  # how far a pixel may be off


PALETTE = Image.fromarray(NOISE).quantize(16)
SHOWN = np.asarray(PALETTE.convert("RGB"))
INKS = stacked(COLOUR, SMOOTH // 4)
EIGHTH = np.packbits(GREY > 127, axis=1)
BAD_PROFILE = b"not a colour profile" * 9
FRAMES = [Image.fromarray(frame) for frame in (COLOUR, 255 - COLOUR)]
WHOLE = encoded(NOISE, "JPEG", quality=90)
ANIMATED = {"save_all": True, "append_images": FRAMES[1:]}

ZOO: dict[str, Kind] = {
    "jpeg 4:4:4": Kind(encoded(COLOUR, "JPEG", quality=95, subsampling=0), COLOUR, 4),
    "jpeg 4:2:0": Kind(encoded(COLOUR, "JPEG", quality=95, subsampling=2), COLOUR, 4),
    "jpeg progressive": Kind(encoded(COLOUR, "JPEG", quality=95, progressive=True), COLOUR, 4),
    "jpeg grey": Kind(encoded(GREY, "JPEG", quality=95), stacked(GREY), 4),
    "jpeg cmyk": Kind(
        encoded(Image.fromarray(INKS, "CMYK"), "JPEG", quality=98, subsampling=0), seen(INKS), 2
    ),
    "jpeg ycck": Kind(ycck_jpeg(INKS), seen(INKS), 5),
    "jpeg huge exif": Kind(
        encoded(COLOUR, "JPEG", quality=95, exif=with_orientation(1, b"x" * 65000)), COLOUR, 12
    ),
    "jpeg bad profile": Kind(
        encoded(COLOUR, "JPEG", quality=95, icc_profile=BAD_PROFILE), COLOUR, 12
    ),
    "jpeg short profile": Kind(  # Pillow alone refuses it
        encoded(COLOUR, "JPEG", quality=95).replace(
            b"\xff\xdb", b"\xff\xe2\0\x0eICC_PROFILE\0\xff\xdb", 1
        ),
        COLOUR,
        4,
    ),
    "jpeg cut at 1 %": Kind(WHOLE[: len(WHOLE) // 100], None),
    "jpeg cut at 10 %": Kind(WHOLE[: len(WHOLE) // 10], None),
    "jpeg cut at 50 %": Kind(WHOLE[: len(WHOLE) // 2], None),
    "jpeg cut at 99 %": Kind(WHOLE[: len(WHOLE) * 99 // 100], None),
    "png 1 bit": Kind(png(1, 0, EIGHTH, 64), stacked((GREY > 127) * np.uint8(255))),
    "png 2 bits": Kind(
        png(2, 0, np.full((3, 1), 0b00011011, np.uint8), 4),
        stacked(np.tile(np.array([0, 85, 170, 255], np.uint8), (3, 1))),
    ),
    "png 4 bits": Kind(
        png(4, 0, np.full((3, 1), 0x0F, np.uint8), 2),
        stacked(np.tile(np.array([0, 255], np.uint8), (3, 1))),
    ),
    "png 8 bits": Kind(encoded(NOISE[:, :, 0]), stacked(NOISE[:, :, 0])),
    "png 16 bits": Kind(encoded(DEEP), stacked(DEEP)),
    "png colour": Kind(encoded(NOISE), NOISE),
    "png palette": Kind(encoded(PALETTE), SHOWN),
    "png palette, transparent": Kind(encoded(PALETTE, transparency=bytes(range(16))), SHOWN),
    "png palette, one colour transparent": Kind(encoded(PALETTE, transparency=3), SHOWN),
    "png grey, alpha": Kind(encoded(Image.fromarray(NOISE[:, :, :2], "LA")), NOISE[:, :, :1]),
    "png colour, alpha": Kind(encoded(np.dstack([NOISE, GREY])), NOISE),
    "png colour 16 bits": Kind(  # Pillow keeps the upper 8
        png(16, 2, BANDS[:, :, :3].astype(">u2"), 64), (BANDS[:, :, :3] >> 8).astype(np.uint8)
    ),
    "png interlaced": Kind(interlaced_png(NOISE[:, :, 0].copy()), stacked(NOISE[:, :, 0])),
    "png bad profile": Kind(encoded(NOISE, icc_profile=BAD_PROFILE), NOISE),
    "png cut": Kind(encoded(NOISE)[:-300], None),
    "gif": Kind(encoded(PALETTE, "GIF"), SHOWN),
    "gif grey": Kind(encoded(NOISE[:, :, 0], "GIF"), stacked(NOISE[:, :, 0])),
    "gif animated": Kind(
        encoded(PALETTE, "GIF", save_all=True, append_images=[PALETTE.rotate(180)]), SHOWN
    ),
    "gif cut": Kind(encoded(PALETTE, "GIF")[:-100], None),
    "webp": Kind(encoded(COLOUR, "WEBP", quality=95), COLOUR, 6),
    "webp lossless": Kind(encoded(NOISE, "WEBP", lossless=True), NOISE),
    "webp lossless, alpha": Kind(
        encoded(np.dstack([NOISE, SMOOTH]), "WEBP", lossless=True, exact=True), NOISE
    ),
    "webp animated": Kind(encoded(FRAMES[0], "WEBP", lossless=True, **ANIMATED), COLOUR),
    "webp cut": Kind(encoded(NOISE, "WEBP")[:200], None),
    "bmp": Kind(encoded(NOISE, "BMP"), NOISE),
    "bmp 1 bit": Kind(encoded(GREY > 127, "BMP"), stacked((GREY > 127) * np.uint8(255))),
    "bmp palette": Kind(encoded(PALETTE, "BMP"), SHOWN),
    "bmp cut": Kind(encoded(NOISE, "BMP")[:500], None),
    "ppm": Kind(encoded(NOISE, "PPM"), NOISE),
    "ppm text": Kind(b"P3 2 1 255\n0 1 2  30 40 50\n", np.array([[[0, 1, 2], [30, 40, 50]]], "u1")),
    "pgm": Kind(encoded(GREY, "PPM"), stacked(GREY)),
    "pgm 16 bits": Kind(b"P5 64 48 65535\n" + DEEP.astype(">u2").tobytes(), stacked(DEEP)),
    "pgm to 1023": Kind(b"P5 2 1 1023\n\x00\x00\x03\xff", np.array([[[0], [65535]]], "u2")),
    "pgm to 15": Kind(b"P5 3 1 15\n\x00\x05\x0f", np.array([[[0], [85], [255]]], "u1")),
    "pbm": Kind(b"P4 64 48\n" + (255 - EIGHTH).tobytes(), stacked((GREY > 127) * np.uint8(255))),
    "pfm": Kind(b"Pf\n64 48\n-1.0\n" + FLOAT[::-1].astype("<f4").tobytes(), stacked(FLOAT)),
    "ppm cut": Kind(encoded(NOISE, "PPM")[:-9], None),
    "tiff": Kind(encoded(NOISE, "TIFF"), NOISE),
    "tiff 1 bit": Kind(encoded(GREY > 127, "TIFF"), stacked((GREY > 127) * np.uint8(255))),
    "tiff fax": Kind(
        encoded(GREY > 127, "TIFF", compression="group4"), stacked((GREY > 127) * np.uint8(255))
    ),
    "tiff lzw": Kind(encoded(NOISE, "TIFF", compression="tiff_lzw"), NOISE),
    "tiff jpeg": Kind(encoded(COLOUR, "TIFF", compression="jpeg", quality=95), COLOUR, 4),
    "tiff palette": Kind(encoded(PALETTE, "TIFF"), SHOWN),
    "tiff alpha": Kind(encoded(np.dstack([NOISE, GREY]), "TIFF"), NOISE),
    "tiff grey, alpha": Kind(
        encoded(Image.fromarray(NOISE[:, :, :2], "LA"), "TIFF"), NOISE[:, :, :1]
    ),
    "tiff cmyk": Kind(encoded(Image.fromarray(INKS, "CMYK"), "TIFF"), seen(INKS), 1),
    "tiff white is zero": Kind(tiff(GREY, photometric="miniswhite"), stacked(255 - GREY)),
    "tiff 16 bits": Kind(tiff(DEEP), stacked(DEEP)),
    "tiff 16 bits, big-endian": Kind(tiff(DEEP, byteorder=">"), stacked(DEEP)),
    "tiff 16 bits, lzw": Kind(encoded(DEEP, "TIFF", compression="tiff_lzw"), stacked(DEEP)),
    "tiff 16 bits, big": Kind(tiff(DEEP, bigtiff=True), stacked(DEEP)),
    "tiff int16": Kind(
        tiff((DEEP // 2 - 9000).astype(np.int16)), stacked(DEEP // 2 - np.float32(9000))
    ),
    "tiff int32": Kind(
        tiff(DEEP.astype(np.int32) * -3), stacked(DEEP.astype(np.float32) * np.float32(-3))
    ),
    "tiff uint32": Kind(tiff(np.full((2, 3), 2**32 - 1, "u4")), np.full((2, 3, 1), 2**32, "f4")),
    "tiff int8": Kind(tiff(GREY.astype(np.int8)), None),
    "tiff float": Kind(tiff(FLOAT), stacked(FLOAT)),
    "tiff float, big-endian": Kind(tiff(FLOAT, byteorder=">"), stacked(FLOAT)),
    "tiff double": Kind(tiff(FLOAT.astype(float)), stacked(FLOAT)),
    "tiff colour 16 bits": Kind(tiff(BANDS[:, :, :3], photometric="rgb"), BANDS[:, :, :3].copy()),
    "tiff colour 16 bits, alpha": Kind(
        tiff(BANDS[:, :, :4], photometric="rgb", extrasamples=["unassalpha"]),
        BANDS[:, :, :3].copy(),
    ),
    "tiff near infrared": Kind(
        tiff(np.dstack([NOISE, GREY]), photometric="rgb", extrasamples=["unspecified"]),
        stacked(NOISE, GREY),
    ),
    "tiff colour, planes": Kind(
        tiff(np.moveaxis(NOISE, 2, 0), photometric="rgb", planarconfig="separate"), NOISE
    ),
    "tiff 12 bands": Kind(tiff(BANDS, photometric="minisblack", planarconfig="contig"), BANDS),
    "tiff 12 bands, planes": Kind(
        tiff(np.moveaxis(BANDS, 2, 0), photometric="minisblack", planarconfig="separate"), BANDS
    ),
    "tiff 12 bands, big-endian": Kind(
        tiff(BANDS, photometric="minisblack", planarconfig="contig", byteorder=">"), BANDS
    ),
    "tiff 12 bands, tiles, deflate": Kind(
        tiff(
            BANDS,
            photometric="minisblack",
            planarconfig="contig",
            tile=(16, 32),
            compression="zlib",
            predictor=True,
        ),
        BANDS,
    ),
    "tiff 12 bands, lzw": Kind(
        tiff(BANDS, photometric="minisblack", planarconfig="contig", compression="lzw"), BANDS
    ),
    "tiff 12 bands, jpeg 2000": Kind(
        tiff(
            BANDS[:, :, :2].astype(np.uint8),
            photometric="minisblack",
            planarconfig="contig",
            compression="jpeg2000",
        ),
        None,
    ),
    "tiff of pages": Kind(
        tiff(np.stack([DEEP, DEEP[::-1]]), photometric="minisblack", metadata=None), stacked(DEEP)
    ),
    "tiff not finite": Kind(tiff(np.where(FLOAT > 1, np.float32(np.nan), FLOAT)), None),
    "tiff complex": Kind(tiff(FLOAT.astype(np.complex64)), None),
    "tiff cut": Kind(tiff(NOISE)[:3000], None),
    "tiff 12 bands, cut": Kind(
        tiff(BANDS, photometric="minisblack", planarconfig="contig")[:-9], None
    ),
    "npy grey": Kind(array_file(GREY), stacked(GREY)),
    "npy bands": Kind(array_file(BANDS), BANDS),
    "npy bands first": Kind(array_file(np.moveaxis(BANDS, 2, 0)), BANDS),
    "npy big-endian": Kind(array_file(DEEP.astype(">u2")), stacked(DEEP)),
    "npy by columns": Kind(array_file(np.asfortranarray(NOISE)), NOISE),
    "npy double": Kind(array_file(FLOAT.astype(float)), stacked(FLOAT)),
    "npy int64": Kind(array_file(DEEP.astype(np.int64)), None),
    "npy not finite": Kind(array_file(np.where(FLOAT > 1, np.float32(np.inf), FLOAT)), None),
    "npy of objects": Kind(
        b"\x93NUMPY\x01\0\x46\0{'descr': '|O', 'fortran_order': False, 'shape': (4, 4), }".ljust(80)
        + bytes(128),
        None,
    ),
    "npy cut": Kind(array_file(BANDS)[:-1], None),
    "npy longer than declared": Kind(array_file(BANDS) + b"\0", None),
    "one pixel": Kind(encoded(NOISE[:1, :1]), NOISE[:1, :1]),
    "one column": Kind(
        encoded(np.full((5000, 1), 7, np.uint8)), np.full((5000, 1, 1), 7, np.uint8)
    ),
    "web page": Kind(b"<!DOCTYPE html><html><body>404</body></html>", None),
    "empty": Kind(b"", None),
    "nothing but zeros": Kind(bytes(1000), None),
    "archive": Kind(b"PK\x03\x04" + bytes(50), None),
    "jpeg 2000": Kind(encoded(COLOUR, "JPEG2000"), None),
    "postscript": Kind(b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 20 20\nshowpage\n", None),
}


@pytest.mark.parametrize("name", [name for name in ZOO if ZOO[name].pixels is not None])
def test_pixels_are_those_of_the_picture(name: str) -> None:
    content, expected, near = ZOO[name]
    assert expected is not None
    pixels = decode(content, "a.jpg")
    assert (pixels.shape, pixels.dtype) == (expected.shape, expected.dtype)
    assert np.abs(pixels.astype(float) - expected).max() <= near
    assert pixels.flags.c_contiguous
    assert pixels.flags.writeable


@pytest.mark.parametrize("name", [name for name in ZOO if ZOO[name].pixels is None])
def test_what_cannot_be_used_has_a_reason(name: str) -> None:
    with pytest.raises(UnreadableImageError) as caught:
        decode(ZOO[name].content, "a.jpg")
    reason = str(caught.value)
    assert reason.isprintable()
    assert 5 < len(reason) <= 200
    assert " object at " not in reason
