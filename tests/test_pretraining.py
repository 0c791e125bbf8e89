"""What the loop gives each step of a run, against formulas written out here."""

from __future__ import annotations

import importlib
import json
import math
import tarfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from torch import Tensor

from moco.contrast import Contrast, Contrasted
from moco.data.order import Order
from moco.errors import UsageError
from moco.plan import make_plan
from moco.recipe import Recipe
from moco.recipe_files import set_fields
from moco.recipes import MOCO_V3_RESNET50

pretrain_module = importlib.import_module("moco.pretraining")
STEPS = 12  # three epochs of four


@pytest.fixture
def recipe(tiny_settings: list[str]) -> Recipe:
    settings = [*tiny_settings, "batch_norm_groups=1", "head_width=24", "epochs=3"]
    return set_fields(
        MOCO_V3_RESNET50, [*settings, "warmup_epochs=1", "last_temperature=0.25", "loss_scale=0.7"]
    )


def test_each_step_has_its_values(
    recipe: Recipe, photos: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    temperatures: list[float] = []
    losses: list[float] = []
    key_momenta: list[float] = []
    rates: list[float] = []
    forward, advance = Contrast.forward, Contrast.advance
    set_learning_rate = pretrain_module.set_learning_rate

    def see_forward(contrast: Contrast, *inputs: Any) -> Contrasted:
        temperatures.append(contrast.temperature)
        contrasted = forward(contrast, *inputs)
        losses.append(contrasted.loss.item())
        return contrasted

    def see_advance(
        contrast: Contrast, keys: Tensor, image_ids: Tensor, m: float, taken: Tensor
    ) -> None:
        key_momenta.append(m)
        advance(contrast, keys, image_ids, m, taken)

    def see_rate(optimizer: Any, rate: float) -> None:
        rates.append(rate)
        set_learning_rate(optimizer, rate)
        assert {group["lr"] for group in optimizer.param_groups} == {rate}

    monkeypatch.setattr(Contrast, "forward", see_forward)
    monkeypatch.setattr(Contrast, "advance", see_advance)
    monkeypatch.setattr(pretrain_module, "set_learning_rate", see_rate)
    plan = make_plan(photos, recipe=recipe, run=tmp_path / "run", device="cpu", workers=0)
    pretrain_module.train(plan)

    # the official code moves the key encoder in step s's forward with m(s): ours after step s - 1
    assert key_momenta == pytest.approx(
        [1 - 0.5 * (1 + math.cos(math.pi * s / STEPS)) * 0.01 for s in range(1, STEPS + 1)]
    )
    assert temperatures == pytest.approx(
        [0.25 + 0.75 * 0.5 * (1 + math.cos(math.pi * s / STEPS)) for s in range(STEPS)]
    )
    warm = [9.6 * s / 4 for s in range(4)]
    cold = [9.6 * 0.5 * (1 + math.cos(math.pi * (s - 4) / 8)) for s in range(4, STEPS)]
    assert rates == pytest.approx([*warm, *cold])
    lines = (tmp_path / "run" / "metrics.jsonl").read_text().splitlines()
    rows = [json.loads(line) for line in lines]
    assert [row["loss"] for row in rows] == pytest.approx([0.7 * loss for loss in losses])
    assert [row["key_momentum"] for row in rows] == key_momenta
    assert [row["learning_rate"] for row in rows] == rates


@pytest.mark.parametrize("window", [0, 2])
def test_batches_come_in_the_order_of_the_plans_seed_and_window(
    window: int, tiny_settings: list[str], photos: Path, tmp_path: Path
) -> None:
    files = sorted(photos.rglob("*.png"))
    (tmp_path / "shards").mkdir()
    for shard in range(8):
        with tarfile.open(tmp_path / "shards" / f"{shard}.tar", "w") as archive:
            for file in files[8 * shard : 8 * shard + 8]:
                archive.add(file, file.name)
    plan = make_plan(
        tmp_path / "shards",
        settings=[*tiny_settings, f"shard_window={window}", "epochs=2"],
        device="cpu",
        workers=0,
        seed=9,
    )
    batches = pretrain_module.load_plan(plan, start=0, stop=plan.steps)
    seen = [image_id for batch in batches for image_id in batch.image_ids.tolist()]
    order = Order(np.full(8, 8), seed=9, window=window)
    wanted = [order.images_at(epoch, np.arange(64)).tolist() for epoch in (0, 1)]
    assert seen == wanted[0] + wanted[1]


def test_a_list_of_arrays_is_told_how_to_serve() -> None:
    with pytest.raises(UsageError, match=r"got a list; wrap .* in .*SequenceImages"):
        make_plan([np.zeros((8, 8, 3), np.uint8)] * 4)  # type: ignore[arg-type]
