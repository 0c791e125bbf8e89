"""Checkpoints written beside training: the loop waits for a copy of the state, not for the disk."""

from __future__ import annotations

import threading
import time
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from moco.checkpoint import Checkpoint, save_checkpoint
from moco.distributed import rank
from moco.processes import gather_lists


class Saver:
    """Writes one checkpoint at a time in a thread of its own; a failure reaches whoever waits.

    Args:
        run: the run directory.
    """

    def __init__(self, run: Path) -> None:
        self.run = run
        self.seconds = 0.0
        """How long the last one took, copy and disk."""
        self._thread: threading.Thread | None = None
        self._failure: BaseException | None = None

    def begin(self, checkpoint: Checkpoint) -> None:
        """Copy the state and begin to write it, after the one before.

        Raises:
            StorageError: The one before could not be written.
        """
        self.wait()
        began = time.monotonic()
        own = replace(
            checkpoint,
            model=copied(checkpoint.model),
            train_state=copied(checkpoint.train_state),
        )
        # a daemon, so that a second Ctrl-C waits for no disk; what it leaves is collected later
        self._thread = threading.Thread(
            target=self._write, args=(own, began), name="checkpoint", daemon=True
        )
        self._thread.start()

    def wait(self) -> None:
        """Return when nothing is being written any more.

        Raises:
            StorageError: The last one could not be written; told once.
        """
        if self._thread is not None:
            self._thread.join()
            self._thread = None
        failure, self._failure = self._failure, None
        if failure is not None:
            raise failure

    def is_busy(self) -> bool:
        """Say whether a checkpoint is being written."""
        return self._thread is not None and self._thread.is_alive()

    def has_failed(self) -> bool:
        """Say whether the last one could not be written, and nobody was told."""
        return self._failure is not None

    def _write(self, checkpoint: Checkpoint, began: float) -> None:
        try:
            save_checkpoint(self.run, checkpoint)
        except BaseException as error:  # noqa: BLE001  raised again by `wait`
            self._failure = error
        self.seconds = time.monotonic() - began


def copied(state: Any) -> Any:
    """Return plain containers of plain values and tensors, the tensors copied to the CPU."""
    if isinstance(state, torch.Tensor):
        return state.detach().to("cpu", copy=True)
    if isinstance(state, Mapping):
        return {name: copied(value) for name, value in state.items()}
    if isinstance(state, list | tuple):
        return type(state)(copied(value) for value in state)
    return state


def random_states(own: Tensor) -> Tensor:
    """Return the random states of all processes, a row each, for the checkpoint."""
    return torch.tensor(gather_lists([own.tolist()]), dtype=torch.uint8)


def own_random_state(train_state: Mapping[str, Any], kind: str) -> Tensor | None:
    """Return this process's random state, None where as many processes did not run before."""
    states = train_state.get(f"{kind}_random_state")
    if states is None:
        return None
    rows: Tensor = states.view(-1, states.shape[-1])
    return rows[rank()].clone() if rank() < len(rows) else None  # torch crashes on a slice
