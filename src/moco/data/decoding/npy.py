"""NumPy's own files: satellite tiles and spectra that no image format holds."""

from __future__ import annotations

from io import BytesIO

import numpy as np
from numpy.lib import format as npy

from moco.data.decoding.bounds import Silence, check_byte_count, with_few_types
from moco.data.images import Pixels, UnreadableImageError

MAX_HEADER_BYTES = 1024
_READERS = {(1, 0): npy.read_array_header_1_0, (2, 0): npy.read_array_header_2_0}


def decode_npy(data: bytes) -> Pixels:
    """Return an array [H, W], [H, W, C] or [C, H, W] as [H, W, C]; no code in it is ever run.

    The last axis holds the channels if it is not longer than the first, else the first does.

    Raises:
        UnreadableImageError: The header does not fit the bytes, or there is no such image in it.
    """
    file = BytesIO(data)
    version = npy.read_magic(file)
    if version not in _READERS:
        raise UnreadableImageError(f"npy files of version {version[0]}.{version[1]} are not read")
    with Silence():
        shape, by_columns, dtype = _READERS[version](file, max_header_size=MAX_HEADER_BYTES)
    values = _values(data, file.tell(), shape, dtype)
    return with_few_types(_channels_last(values.reshape(shape, order="F" if by_columns else "C")))


def _values(data: bytes, start: int, shape: tuple[int, ...], dtype: np.dtype) -> Pixels:
    if dtype.hasobject or dtype.kind not in "biufcSUVmM" or dtype.names is not None:
        raise UnreadableImageError("values that are no numbers are not read")
    count = 1
    for length in shape:
        count *= length
    if len(shape) not in (2, 3) or min(shape) <= 0:
        raise UnreadableImageError(f"an array of shape {shape} is no image [H, W] or [H, W, C]")
    check_byte_count(count * dtype.itemsize)
    if count * dtype.itemsize != len(data) - start:
        size = count * dtype.itemsize
        raise UnreadableImageError(f"{len(data) - start} bytes of values where {size} are declared")
    return np.frombuffer(data, dtype, count, start)


def _channels_last(values: Pixels) -> Pixels:
    if values.ndim == 2:
        return values[:, :, None]
    return values if values.shape[2] <= values.shape[0] else np.moveaxis(values, 0, 2)
