"""From a file to pixels: what is read, and how, is in docs/images.md."""

from __future__ import annotations

from moco.data.decoding.content import decode
from moco.data.decoding.files import read_bytes
from moco.data.decoding.pillow import pixels_of

__all__ = ["decode", "pixels_of", "read_bytes"]
