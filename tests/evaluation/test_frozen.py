"""A bit of a network that changes is seen, whatever it belongs to; nothing else counts."""

from __future__ import annotations

import copy
from collections.abc import Callable

import pytest
import torch
from torch import nn

from moco.errors import ChangedNetworkError
from moco.evaluation.frozen import FrozenNetwork, fingerprint


class Network(nn.Module):
    """A bit of everything."""

    def __init__(self) -> None:
        super().__init__()
        draw = torch.Generator().manual_seed(0)
        self.first = nn.Conv2d(3, 4, 3)
        self.norm = nn.BatchNorm2d(4)
        self.rough = nn.Parameter(torch.randn(5, generator=draw).bfloat16())
        self.zero = nn.Parameter(torch.zeros(2))
        self.shared = self.zero
        self.register_buffer("mask", torch.tensor([True, False]), persistent=False)
        self.register_buffer("nothing", torch.empty(0))
        nn.init.normal_(self.first.weight, generator=draw)
        nn.init.zeros_(self.first.bias)


def flip_a_bit(value: torch.Tensor) -> None:
    kinds = {2: torch.int16, 4: torch.int32, 8: torch.int64}
    value.data.reshape(-1)[-1:].view(kinds[value.element_size()]).bitwise_xor_(1)


def square(norm: nn.BatchNorm2d) -> None:
    norm.weight = nn.Parameter(norm.weight.detach().reshape(2, 2))


CHANGES: dict[str, Callable[[Network], object]] = {
    "first.weight": lambda network: flip_a_bit(network.first.weight),
    "norm.bias": lambda network: flip_a_bit(network.norm.bias),
    "norm.running_mean": lambda network: flip_a_bit(network.norm.running_mean),
    "norm.num_batches_tracked": lambda network: network.norm.num_batches_tracked.add_(1),
    "rough": lambda network: flip_a_bit(network.rough),
    "zero and 1 more": lambda network: network.zero.data.neg_(),  # -0, under two names
    "mask": lambda network: network.mask.logical_not_(),
    "norm.weight": lambda network: square(network.norm),  # the bytes are equal
    "nothing": lambda network: setattr(network, "nothing", network.nothing.double()),
    "more": lambda network: network.register_buffer("more", torch.empty(0)),
}


@pytest.mark.parametrize("name", CHANGES)
def test_one_bit_of_anything_is_seen_and_named(name: str) -> None:
    network = Network()
    before, frozen = fingerprint(network), FrozenNetwork(network)
    CHANGES[name](network)
    assert fingerprint(network) != before
    with pytest.raises(ChangedNetworkError, match=rf"not what it was at the end: {name} changed"):
        frozen.check(network, "at the end")


def test_copies_layouts_modes_and_gradients_are_no_change() -> None:
    network = Network()
    before, frozen = fingerprint(network), FrozenNetwork(network)
    other = copy.deepcopy(network).to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    assert other.first.weight.stride() != network.first.weight.stride()
    other.eval().requires_grad_(False)
    frozen.check(other, "at the end")
    assert fingerprint(other) == fingerprint(network) == before


def test_names_count() -> None:
    one, other = nn.ModuleDict({"a": nn.Linear(2, 2)}), nn.ModuleDict()
    other["b"] = one["a"]
    assert fingerprint(one) != fingerprint(other)
