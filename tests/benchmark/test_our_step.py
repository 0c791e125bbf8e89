"""The step that is timed as ours is the step that a run takes."""

from __future__ import annotations

import importlib
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from moco.benchmark.steps.our_step import OurStep
from moco.build import build_contrast
from moco.plan import make_plan
from moco.recipe_files import set_fields
from moco.recipes import RECIPES

pretraining = importlib.import_module("moco.pretraining")


def test_leaves_what_a_run_leaves(
    tiny_settings: list[str], photos: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    recipe = set_fields(RECIPES["moco-v2"], [*tiny_settings, "epochs=1", "schedule=step"])
    seen: list[tuple[Tensor, Tensor]] = []
    built: list[Any] = []
    to_device, build_plan = pretraining.to_device, pretraining.build_plan

    def see_views(*given: Any) -> Any:
        found = to_device(*given)
        seen.append((found[0].clone(), found[1].clone()))
        return found

    def see_contrast(*given: Any) -> Any:
        built.append(build_plan(*given))
        return built[-1]

    monkeypatch.setattr(pretraining, "to_device", see_views)
    monkeypatch.setattr(pretraining, "build_plan", see_contrast)
    plan = make_plan(photos, recipe=recipe, run=tmp_path / "run", device="cpu", workers=0)
    pretraining.train(plan)
    assert len(seen) == plan.steps >= 2

    contrast = build_contrast(plan.recipe, images=len(plan.images), seed=0)
    ours = OurStep(plan.recipe, contrast)
    for views in seen:
        ours.step(*views)
    (of_run,) = built
    of_ours = contrast.state_dict()
    for name, value in of_run.state_dict().items():
        if name != "dictionary.image_ids":  # the step numbers images by their place in the batch
            assert torch.equal(value, of_ours[name]), name
