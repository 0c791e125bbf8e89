"""Over 200 steps every fast path's smoothed loss curve stays nearer to the plain one than a seed.

By then any rounding has parted the curves step by step (test_loss_curves.py), so that what can
be asked is whether a path learns at the same pace: its losses, each the mean of 20 steps, are on
average within three quarters of the distance from the plain curve that another seed makes.
"""

from __future__ import annotations

import sys
from pathlib import Path

import pytest
import torch
from curves import SMOOTHED, STEPS, plain_losses, plan_of, run_losses, smoothed
from torch import Tensor

import moco.info_nce_chunks as chunks

CHANGES = [
    *(f"views.{field}=16" for field in ("image_size", "evaluation_resize", "evaluation_size")),
    "batch_norm_groups=4",
    "learning_rate=0.03",
    "loss_scale=1",
]
PATHS = {
    "float32": ([], "float32"),
    "bfloat16 keys": (["key_precision=bfloat16"], "float32"),
    "bfloat16": ([], "bfloat16"),
    "bfloat16, keys too": (["key_precision=bfloat16"], "bfloat16"),
}
SHARE = 0.75
"""Of the distance that another seed makes."""

pytestmark = [pytest.mark.slow, pytest.mark.timeout(1800)]


@pytest.fixture(autouse=True)
def _several_chunks(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(chunks, "CHUNK_ENTRIES", 1)
    monkeypatch.setattr(chunks, "FEWEST_KEYS", 70)


def distance(losses: Tensor, plain: Tensor) -> float:
    return (smoothed(losses) - smoothed(plain)).abs().mean().item()


@pytest.fixture(scope="module")
def plain(tmp_path_factory: pytest.TempPathFactory) -> Tensor:
    return plain_losses(plan_of(tmp_path_factory.mktemp("plain"), CHANGES))


@pytest.fixture(scope="module")
def spread(plain: Tensor, tmp_path_factory: pytest.TempPathFactory) -> float:
    """Return how far other seeds' curves are from the plain one, on average."""
    folder = tmp_path_factory.mktemp("seeds")
    found = [
        distance(run_losses(plan_of(folder / str(seed), CHANGES, seed=seed)), plain)
        for seed in (1, 2)
    ]
    sys.stdout.write(f"other seeds: {found}\n")
    return sum(found) / len(found)


@pytest.mark.parametrize("path", PATHS)
def test_learns_as_the_plain_loop(path: str, plain: Tensor, spread: float, tmp_path: Path) -> None:
    changes, precision = PATHS[path]
    losses = run_losses(plan_of(tmp_path, [*CHANGES, *changes], precision=precision))
    assert len(losses) == STEPS
    assert torch.isfinite(losses).all()
    sys.stdout.write(f"{path}: {distance(losses, plain):.4f} of {spread:.4f}, {SMOOTHED} steps\n")
    assert distance(losses, plain) < SHARE * spread


def test_another_key_momentum_does_not(plain: Tensor, spread: float, tmp_path: Path) -> None:
    losses = run_losses(plan_of(tmp_path, [*CHANGES, "key_momentum=0.98"]))
    sys.stdout.write(f"key momentum 0.98: {distance(losses, plain):.4f} of {spread:.4f}\n")
    assert distance(losses, plain) > SHARE * spread
