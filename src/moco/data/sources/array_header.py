"""What a NumPy file says it holds, without running or unpacking anything."""

from __future__ import annotations

import math
import tokenize
import warnings
from dataclasses import dataclass
from typing import IO, Any

import numpy as np


@dataclass(frozen=True)
class ArrayHeader:
    """Shape and type of a stored array, and where its values begin, in bytes."""

    shape: tuple[int, ...]
    dtype: np.dtype[Any]
    fortran_order: bool
    begin: int

    @property
    def nbytes(self) -> int:
        """Bytes of all values."""
        return math.prod(self.shape) * self.dtype.itemsize


def read_header(file: IO[bytes]) -> ArrayHeader:
    """Return the header at the beginning of a NumPy file.

    Raises:
        ValueError: It is none, or one of Python objects, which loading would run as a program.
    """
    try:
        version = np.lib.format.read_magic(file)
        if version not in ((1, 0), (2, 0)):
            raise ValueError(f"version {version} of the format is not read")
        is_first = version == (1, 0)
        read = (
            np.lib.format.read_array_header_1_0 if is_first else np.lib.format.read_array_header_2_0
        )
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # doubts about a header that Python 2 wrote
            shape, fortran_order, dtype = read(file)
    except (SyntaxError, TypeError, RecursionError, MemoryError, tokenize.TokenError) as error:
        raise ValueError("its header is damaged") from error
    if dtype.hasobject:
        raise ValueError("it holds Python objects, which are not read; store numbers")
    if any(isinstance(side, bool) or side < 0 for side in shape):
        raise ValueError("its header is damaged")
    return ArrayHeader(shape, dtype, fortran_order, file.tell())
