"""A linear probe on disk, while it is trained and afterwards: safetensors, no pickles.

DIR/linear.safetensors   layer.weight [Y, D], layer.bias [Y], the optimizer's, and each epoch's
                         figures: everything that decides the next epoch
"""

from __future__ import annotations

import hashlib
import json
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from torch import nn

from moco.errors import CheckpointError, UsageError
from moco.evaluation.finetune_files import moments, read_kept, under, write_tensors
from moco.evaluation.frozen import fingerprint
from moco.evaluation.labelled_part import Labelled
from moco.evaluation.linear_protocols import LinearProtocol
from moco.evaluation.linear_training import LinearEpoch
from moco.specs import ViewsSpec

PROBE = "linear.safetensors"


def probe_fingerprint(
    backbone: nn.Module,
    train: Labelled,
    test: Labelled,
    protocol: LinearProtocol,
    *,
    views: ViewsSpec,
    seed: int,
    precision: torch.dtype | None = None,
) -> str:
    """Return a SHA-256 of all that a continuation must have in common with its beginning."""
    names = [[each.name(number) for number in range(len(each))] for each in (train, test)]
    labels = [each.labels.tolist() for each in (train, test)]
    settings = [asdict(protocol), asdict(views), seed, str(precision)]
    about = [*settings, list(train.classes), names, labels, fingerprint(backbone)]
    return hashlib.sha256(json.dumps(about).encode("utf-8", "surrogateescape")).hexdigest()


class ProbeFile:
    """Keeps a probe in DIR/linear.safetensors at each epoch's end, replaced at once.

    Args:
        folder: DIR, which is there.
        fingerprint: of this probe, by `probe_fingerprint`.
    """

    def __init__(self, folder: Path, fingerprint: str) -> None:
        self.path, self.fingerprint = folder / PROBE, fingerprint

    def load(self) -> dict[str, Any] | None:
        """Return what was kept, None for nothing.

        Raises:
            CheckpointError: The file is damaged.
            UsageError: It is of another probe.
        """
        if not self.path.exists():
            return None
        try:
            about, tensors = read_kept(self.path)
            kept = {
                "layer": under("layer.", tensors),
                "optimizer": {
                    "state": moments(under("optimizer/", tensors)),
                    "param_groups": about["param_groups"],
                },
                "history": [LinearEpoch(**figures) for figures in about["history"]],
                "skipped": dict(about["skipped"]),
            }
            of_this = about["fingerprint"] == self.fingerprint
        except (OSError, SafetensorError, ValueError, KeyError, TypeError) as error:
            raise CheckpointError(
                f"{self.path} is damaged ({error!s:.200}); remove it to begin again"
            ) from error
        if not of_this:
            raise UsageError(
                f"{self.path} is of a probe with other images, weights, settings or seed; name "
                "another --out, or remove it to begin again"
            )
        return kept

    def keep(self, state: dict[str, Any]) -> None:
        """Write it aside, then put it in place.

        Raises:
            StorageError: It cannot be written; what was kept before is untouched.
        """
        tensors = {f"layer.{name}": value for name, value in state["layer"].items()}
        for number, of_weight in state["optimizer"]["state"].items():
            tensors |= {f"optimizer/{number}/{name}": value for name, value in of_weight.items()}
        about = {
            "fingerprint": self.fingerprint,
            "history": [asdict(figures) for figures in state["history"]],
            "skipped": state["skipped"],
            "param_groups": state["optimizer"]["param_groups"],
        }
        write_tensors(self.path, tensors, {"about": json.dumps(about)})
