"""Whether two states are the same to the last bit."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch


def assert_bitwise(one: Any, other: Any) -> None:
    assert type(one) is type(other)
    if isinstance(one, Mapping):
        assert one.keys() == other.keys()
        for key in one:
            assert_bitwise(one[key], other[key])
    elif isinstance(one, list | tuple):
        assert len(one) == len(other)
        for item, its_other in zip(one, other, strict=True):
            assert_bitwise(item, its_other)
    elif torch.is_tensor(one):
        assert one.dtype == other.dtype
        assert torch.equal(one, other)
    else:
        assert one == other
