"""What takes the steps that are timed: the same for ours and for others'."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor, nn

FORWARD_QUERY = "forward of query"
FORWARD_KEY = "forward of key"
LOSS = "loss"
BACKWARD = "backward"
OPTIMIZER = "optimizer"
KEY_UPDATE = "key update"
STORE = "store"
PARTS = (FORWARD_QUERY, FORWARD_KEY, LOSS, BACKWARD, OPTIMIZER, KEY_UPDATE, STORE)


Parts = Callable[[str], AbstractContextManager[None]]
"""Tells which part of a step is done within a block; one may lie within another."""


def untold(_name: str) -> AbstractContextManager[None]:
    """Tell nobody."""
    return nullcontext()


class Learner(Protocol):
    """Takes one training step after the other."""

    moves_keys_first: bool
    """Moves the key encoder as a step begins, not as it ends: it is a step behind."""

    @property
    def encoder(self) -> nn.Module:
        """What encodes queries and learns, its head included."""
        ...

    @property
    def key_encoder(self) -> nn.Module:
        """What encodes keys and follows."""
        ...

    @property
    def queue(self) -> Tensor:
        """The stored keys, [K, C] or [C, K]."""
        ...

    def step(self, view_a: Tensor, view_b: Tensor) -> Tensor:
        """Take a step on two views [N, channels, S, S] of each image; return the loss."""
        ...

    def tell(self, parts: Parts) -> Callable[[], None]:
        """Tell the parts of each step from now on; return what ends that."""
        ...


@dataclass(frozen=True)
class StepRow:
    """A row of the comparison."""

    name: str
    """What it is called in the JSON file."""
    title: str
    includes: str
    """What it does, and where that departs from the others."""
    images: int
    """N."""
    learner: Learner
    views: list[tuple[Tensor, Tensor]]
    """The batches that it goes through, over and over."""
    device: torch.device
    exact: bool = True
    """Computes in float32 alone."""
    has_our_queue: bool = True
    """Stores the same keys in the same queue as ours, so that later losses are alike too."""

    @property
    def is_per_core(self) -> bool:
        """Say whether its rate is one of a processor core, or of a whole device."""
        return self.device.type == "cpu"

    def run(self, number: int) -> Tensor:
        """Take a step, numbered from 0; return its loss."""
        return self.learner.step(*self.views[number % len(self.views)])
