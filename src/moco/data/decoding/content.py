"""Which decoder a file's bytes are for: its content decides, never its name."""

from __future__ import annotations

import os
from collections.abc import Callable
from functools import partial

from PIL import Image

from moco.data.decoding.bounds import short_reason
from moco.data.decoding.jpeg import decode_jpeg
from moco.data.decoding.npy import decode_npy
from moco.data.decoding.pillow import decode_with_pillow
from moco.data.decoding.tiff import decode_tiff
from moco.data.images import Pixels, UnreadableImageError

_TIFF = (b"II*\0", b"MM\0*", b"II+\0", b"MM\0+")
_PPM = tuple(b"P%c" % kind for kind in b"123456f")
_DECODERS: tuple[tuple[str, tuple[bytes, ...], Callable[[bytes], Pixels]], ...] = (
    ("JPEG", (b"\xff\xd8\xff",), decode_jpeg),
    ("PNG", (b"\x89PNG\r\n\x1a\n",), partial(decode_with_pillow, kind="PNG")),
    ("TIFF", _TIFF, decode_tiff),
    ("npy", (b"\x93NUMPY",), decode_npy),
    ("WebP", (b"RIFF",), partial(decode_with_pillow, kind="WEBP")),
    ("GIF", (b"GIF87a", b"GIF89a"), partial(decode_with_pillow, kind="GIF")),
    ("BMP", (b"BM",), partial(decode_with_pillow, kind="BMP")),
    ("PPM", _PPM, partial(decode_with_pillow, kind="PPM")),
)
_NOT_READ = {
    b"\0\0\0\x0cjP  ": "JPEG 2000",
    b"\xff\x4f\xff\x51": "JPEG 2000",
    b"\0\0\0\x0cJXL ": "JPEG XL",
    b"%PDF": "PDF",
    b"%!PS": "PostScript",
    b"PK\x03\x04": "a zip archive",
    b"\x1f\x8b": "a gzip archive",
    b"\x89HDF": "HDF5",
}


def decode(data: bytes, name: str = "") -> Pixels:
    """Return the image in a file's bytes: its first picture, upright, [H, W, C].

    Args:
        name: the file's name, for the reason only.

    Raises:
        UnreadableImageError: It is damaged, of a kind that is not read, over the limit of pixels
            or not finite; never another exception, whatever the bytes are.
    """
    kind, decoder = _kind_of(data, name)
    try:
        return decoder(data)
    except UnreadableImageError as error:
        raise UnreadableImageError(short_reason(str(error) or "damaged")) from error
    except Image.DecompressionBombError as error:
        raise UnreadableImageError(
            short_reason(f"{error}".partition(",")[0] or "a bomb")
        ) from error
    except Exception as error:
        reason = short_reason(f"damaged {kind}: {str(error) or type(error).__name__}")
        raise UnreadableImageError(reason) from error


def _kind_of(data: bytes, name: str) -> tuple[str, Callable[[bytes], Pixels]]:
    if not data:
        raise UnreadableImageError("an empty file")
    for kind, beginnings, decoder in _DECODERS:
        if data.startswith(beginnings):
            return kind, decoder
    for beginning, kind in _NOT_READ.items():
        if data.startswith(beginning):
            raise UnreadableImageError(f"{kind} is not read")
    if data[4:8] == b"ftyp":
        raise UnreadableImageError("HEIF, AVIF and films are not read")
    suffix = short_reason(os.path.splitext(name)[1])[:20]
    although = f" although its name ends in {suffix}" if suffix else ""
    text = data[:16].decode("latin-1")
    start = f": it begins with {text}" if text.isascii() and text.isprintable() else ""
    raise UnreadableImageError(short_reason(f"no image of a kind that is read{although}{start}"))
