"""The guard of every probe: the network that it looks at stays as it was, to the bit."""

from __future__ import annotations

import hashlib
import itertools
from collections.abc import Iterator

import torch
from torch import Tensor, nn

from moco.errors import ChangedNetworkError


def fingerprint(network: nn.Module) -> str:
    """Return a SHA-256 of every parameter and buffer: names, dtypes, shapes and bytes.

    Equal on every device and in every memory layout; -0 differs from 0.
    """
    digest = hashlib.sha256()
    for name, of_one in _fingerprints(network).items():
        digest.update(f"{name}\0{of_one}\n".encode())
    return digest.hexdigest()


class FrozenNetwork:
    """Remembers a network as it is now.

    Args:
        network: whose parameters and buffers are remembered, by their fingerprints.
    """

    def __init__(self, network: nn.Module) -> None:
        self._before = _fingerprints(network)

    def check(self, network: nn.Module, when: str) -> None:
        """Refuse a network that is no longer the one remembered.

        Args:
            network: the same, or a copy of it that has done the work.
            when: words for the message, such as "after epoch 1".

        Raises:
            ChangedNetworkError: A parameter or buffer differs in a bit, has come or is gone.
        """
        now = _fingerprints(network)
        names = [*self._before, *(name for name in now if name not in self._before)]
        changed = [name for name in names if self._before.get(name) != now.get(name)]
        if changed:
            more = f" and {len(changed) - 1} more" if len(changed) > 1 else ""
            raise ChangedNetworkError(
                f"the frozen network is not what it was {when}: {changed[0]}{more} changed, so "
                "these are not its scores; its forward must change nothing in eval mode"
            )


def _fingerprints(network: nn.Module) -> dict[str, str]:
    return {name: _of_tensor(value) for name, value in _tensors(network)}


def _tensors(network: nn.Module) -> Iterator[tuple[str, Tensor]]:
    """Yield also buffers that no state dict has, and shared tensors under each of their names."""
    return itertools.chain(
        network.named_parameters(remove_duplicate=False),
        network.named_buffers(remove_duplicate=False),
    )


def _of_tensor(value: Tensor) -> str:
    digest = hashlib.sha256(f"{value.dtype} {list(value.shape)} ".encode())
    plain = value.detach().cpu().contiguous().reshape(-1)
    digest.update(plain.view(torch.uint8).numpy().data)
    return digest.hexdigest()
