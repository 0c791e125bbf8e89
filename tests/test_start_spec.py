"""How a run begins with a backbone that was trained before: first held, then by small steps."""

from __future__ import annotations

import importlib
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from moco.contrast import Contrast
from moco.errors import UsageError
from moco.plan import make_plan
from moco.recipe_files import set_fields
from moco.recipes import MOCO_V2
from moco.start_spec import StartSpec
from moco.training_step import TrainingStep

pretrain_module = importlib.import_module("moco.pretraining")


def test_rates_rise_once_the_backbone_is_let_go() -> None:
    start = StartSpec(held_epochs=0.5, rise_epochs=0.75)
    assert [start.holds_backbone(step, 4) for step in range(6)] == [True] * 2 + [False] * 4
    shares = [start.rate_share(step, 4) for step in range(7)]
    assert shares == [1, 1, 0.25, 0.5, 0.75, 1, 1]


def test_without_it_nothing_is_held_and_rates_are_the_schedules() -> None:
    start = StartSpec()
    assert not start.holds_backbone(0, 4)
    assert start.rate_share(0, 4) == 1


def test_a_step_in_which_an_epoch_part_ends_is_still_held() -> None:
    start = StartSpec(held_epochs=0.3, rise_epochs=0.5)
    assert [start.holds_backbone(step, 4) for step in range(3)] == [True, True, False]
    assert start.rate_share(1, 4) == 1
    assert start.rate_share(2, 4) < 1


@pytest.mark.parametrize(
    ("setting", "reason"),
    [("start.held_epochs=-1", "from 0, got -1"), ("start.rise_epochs=201", "201 of epochs 200")],
)
def test_impossible_starts_are_refused(setting: str, reason: str) -> None:
    with pytest.raises(UsageError, match=reason):
        set_fields(MOCO_V2, [setting])


@pytest.mark.parametrize("algorithm", ["sgd", "adamw", "lars"])
def test_a_held_backbone_stays_to_the_bit_while_the_head_learns(
    algorithm: str,
    photos: Path,
    tiny_settings: list[str],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    recipe = set_fields(
        MOCO_V2,
        [*tiny_settings, f"algorithm={algorithm}", "epochs=2", "held_epochs=1", "key_momentum=0.5"],
    )
    seen: list[dict[str, Tensor]] = []
    take = TrainingStep.take

    def see(training: TrainingStep, *inputs: Any) -> Tensor:
        seen.append(weights_of(training.contrast))
        return take(training, *inputs)

    monkeypatch.setattr(TrainingStep, "take", see)
    pretrain_module.train(
        make_plan(photos, recipe=recipe, run=tmp_path / "run", device="cpu", workers=0)
    )
    first, last_held, let_go = seen[0], seen[4], seen[5]
    for name, value in first.items():
        if "encoder.backbone" in name:  # the key encoder's too: it follows what stands still
            assert torch.equal(value, last_held[name]), name
    assert not torch.equal(first["encoder.head.0.weight"], last_held["encoder.head.0.weight"])
    for encoder in ("encoder", "key_encoder"):
        name = f"{encoder}.backbone.conv1.weight"
        assert not torch.equal(last_held[name], let_go[name])


def weights_of(contrast: Contrast) -> dict[str, Tensor]:
    return {name: weight.detach().clone() for name, weight in contrast.named_parameters()}
