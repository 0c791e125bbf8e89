"""Files that other libraries want as pickles: written here, of tensors and plain values only."""

from __future__ import annotations

import io
import pickle
from collections.abc import Mapping
from pathlib import Path

import torch
from torch import Tensor


def write_state_dict(path: Path, content: Mapping[str, object]) -> None:
    """Write a dict as `torch.save` does; raises OSError."""
    buffer = io.BytesIO()  # torch's own writer hides why a disk refuses
    torch.save(dict(content), buffer)
    path.write_bytes(buffer.getbuffer())


def plain_pickle(content: Mapping[str, object]) -> bytes:
    """Return the pickle of a dict of NumPy arrays and plain values, the same for equal ones."""
    return pickle.dumps(dict(content), protocol=4)


def as_arrays(state: Mapping[str, Tensor]) -> dict[str, object]:
    """Return the tensors as NumPy arrays."""
    return {name: value.numpy() for name, value in state.items()}
