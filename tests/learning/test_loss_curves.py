"""What is learnt does not change: loss curves of every fast path beside a plain float64 loop's.

Training multiplies a difference of rounding by ten every few steps, so that any two runs that round
differently part in the end, whoever is right. So the run's own step is compared in float64, where
nothing hides a mistake, and in float32 for as long as it has not parted. Each mistake is seen.
"""

from __future__ import annotations

import importlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from curves import plain_losses, plan_of, run_losses
from torch import Tensor

import moco.info_nce_chunks as chunks
from moco.contrast import Contrast
from moco.plan import Plan

pretraining = importlib.import_module("moco.pretraining")

FIRST = 8
"""Steps, two epochs, after which float32 has not parted from float64: 2e-6 were measured."""
BAND = 2e-4
MISTAKES = [
    "temperature=0.21",
    "temperature=0.19",
    "key_momentum=0.98",
    "exclude_same_image=false",
    "filled_only=false",
    "shuffle_keys=false",
]


@pytest.fixture(autouse=True)
def _several_chunks(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(chunks, "CHUNK_ENTRIES", 1)
    monkeypatch.setattr(chunks, "FEWEST_KEYS", 70)  # of 300 keys, the last chunk has 20


@pytest.fixture(scope="module")
def plain(tmp_path_factory: pytest.TempPathFactory) -> Tensor:
    return plain_losses(plan_of(tmp_path_factory.mktemp("plain")), FIRST)


@pytest.fixture
def _in_float64(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Let a run start from the same weights and compute in float64; bfloat16 keys stay so."""
    build = pretraining.build_plan

    def widened(plan: Plan) -> Contrast:
        contrast: Contrast = build(plan)
        keys = contrast.dictionary.keys
        contrast.double()
        if keys.dtype == torch.bfloat16:
            contrast.dictionary.keys = keys
        torch.set_default_dtype(torch.float64)
        return contrast

    monkeypatch.setattr(pretraining, "build_plan", widened)
    yield
    torch.set_default_dtype(torch.float32)


@pytest.mark.usefixtures("_in_float64")
@pytest.mark.parametrize("changes", [[], ["key_precision=bfloat16"]], ids=["float32", "bfloat16"])
def test_in_float64_the_step_is_the_plain_one(changes: list[str], tmp_path: Path) -> None:
    plan = plan_of(tmp_path, changes)
    wanted = plain_losses(plan, FIRST + 4)
    torch.testing.assert_close(run_losses(plan, FIRST + 4), wanted, rtol=0, atol=1e-9)


def furthest(losses: Tensor, plain: Tensor) -> float:
    return (losses - plain).abs().max().item()


def test_in_float32_it_stays_in_the_band(plain: Tensor, tmp_path: Path) -> None:
    assert furthest(run_losses(plan_of(tmp_path), FIRST), plain) < BAND


@pytest.mark.parametrize("mistake", MISTAKES)
def test_a_mistake_leaves_the_band(mistake: str, plain: Tensor, tmp_path: Path) -> None:
    assert furthest(run_losses(plan_of(tmp_path, [mistake]), FIRST), plain) > 2 * BAND


def test_a_gradient_of_an_older_scale_leaves_the_band(
    plain: Tensor, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def unscaled(ctx: Any, *gradients: Tensor) -> tuple[Tensor | None, ...]:
        return (ctx.saved_tensors[0], None, None, None, None, None)

    monkeypatch.setattr(chunks._ScoreInChunks, "backward", staticmethod(unscaled))
    assert furthest(run_losses(plan_of(tmp_path), FIRST), plain) > 2 * BAND
