"""A run that begins with a backbone is the same run in several processes: held, then let go."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from made_runs import made_run

from moco.checkpoint import load_newest
from moco.plan import make_plan
from moco.pretraining import train
from moco.recipe import Recipe
from moco.recipe_files import set_fields
from moco.recipes import MOCO_V1
from moco.start.asked import start_asked

COUNT = 64


def trained(photos: Path, start: Path, run: Path, settings: list[str]) -> Any:
    torch.set_default_dtype(torch.float64)
    try:
        plan = make_plan(
            photos,
            recipe=set_fields(MOCO_V1, settings),
            run=run,
            device="cpu",
            workers=0,
            precision="float32",
            start=start_asked(start, "backbone"),
        )
        train(plan)
    finally:
        torch.set_default_dtype(torch.float32)
    checkpoint = load_newest(run)
    assert checkpoint is not None
    return checkpoint.model


@pytest.mark.slow
def test_two_processes_hold_and_let_go_as_one_does(
    run_processes: Callable[..., list[Any]],
    photos: Path,
    tiny_settings: list[str],
    tmp_path: Path,
) -> None:
    settings = [*tiny_settings, "batch_norm_groups=4", "epochs=2", "start.held_epochs=0.5"]
    recipe: Recipe = set_fields(MOCO_V1, settings)
    made_run(tmp_path / "made", 3, recipe)
    alone = trained(photos, tmp_path / "made", tmp_path / "alone", settings)
    shared, again = run_processes(
        2, trained, photos, tmp_path / "made", tmp_path / "shared", settings
    )
    for name, value in alone.items():
        if value.is_floating_point():
            torch.testing.assert_close(shared[name], value, rtol=0, atol=1e-9)
        assert torch.equal(shared[name], again[name]), name
    record = json.loads((tmp_path / "shared" / "start.json").read_text())
    assert record["as"] == "backbone"
