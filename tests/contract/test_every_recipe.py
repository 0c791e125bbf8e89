"""What every recipe and every mechanism keeps: builds, learns, saves, loads, goes on."""

from __future__ import annotations

import importlib
import json
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from torch import Tensor

import moco
from moco.build import build_contrast, build_optimizer
from moco.checkpoint import load_newest
from moco.contrast import Contrast
from moco.errors import InterruptedRunError
from moco.plan import Plan, make_plan
from moco.recipe import Recipe
from moco.recipe_files import set_fields
from moco.recipes import RECIPES
from moco.small import small_recipe
from moco.vision_transformer import MOCO_V3_VITS

train = importlib.import_module("moco.pretraining").train

IMAGES, BATCH, SIDE = 64, 16, 16
SMALL = small_recipe(1000, "cpu")[0]
RIVALS = ("queue", "in_batch", "end_to_end", "memory_bank")
VARIANTS = {
    **{name: (recipe, []) for name, recipe in {**RECIPES, "small": SMALL}.items()},
    **{
        f"{name} {mechanism}": (RECIPES[name], [f"mechanism={mechanism}"])
        for name in ("moco-v1", "moco-v3-resnet50", "cifar10-resnet18-symmetric")
        for mechanism in RIVALS
        if RECIPES[name].mechanism != mechanism
    },
    "v3 conv stem": (
        RECIPES["moco-v3-vit-small"],
        ["encoder.backbone=moco_v3_vit_conv_small"],
    ),
    "schedules": (
        RECIPES["moco-v2"],
        ["last_temperature=0.1", "key_momentum_schedule=cosine", "filled_only=true"],
    ),
}
each_variant = pytest.mark.parametrize("name", VARIANTS)


@pytest.fixture(autouse=True)
def _tiny_vits(monkeypatch: pytest.MonkeyPatch) -> None:
    for name, shape in MOCO_V3_VITS.items():
        monkeypatch.setitem(MOCO_V3_VITS, name, replace(shape, width=24, depth=2))


def tiny(name: str, tiny_settings: list[str]) -> Recipe:
    recipe, settings = VARIANTS[name]
    changes = {setting.partition("=")[0]: setting for setting in tiny_settings}
    if recipe.encoder.backbone.startswith("moco_v3"):
        for field in ("encoder.backbone", "encoder.width", "encoder.stage_blocks"):
            del changes[field]
    if recipe.batch_norm_groups == 1:
        del changes["batch_norm_groups"]
    if recipe.optimizer.warmup_epochs:
        settings = [*settings, "warmup_epochs=0.5"]
    return set_fields(recipe, [*changes.values(), "epochs=2", "head_width=24", *settings])


def batch(step: int) -> tuple[Tensor, Tensor, Tensor]:
    generator = torch.Generator().manual_seed(step)
    view_a, view_b = torch.randn(2, BATCH, 3, SIDE, SIDE, generator=generator)
    return view_a, view_b, torch.randperm(IMAGES, generator=generator)[:BATCH]


def contents(contrast: Contrast) -> dict[str, Tensor]:
    """Return every weight and what the dictionary holds; batch norm's statistics may move."""
    names = {name for name, _ in contrast.named_parameters()}
    return {
        name: value.detach().clone()
        for name, value in contrast.state_dict().items()
        if name in names or name.startswith("dictionary.")
    }


@each_variant
def test_steps_reach_every_weight_that_trains_and_no_other(
    name: str, tiny_settings: list[str]
) -> None:
    recipe = tiny(name, tiny_settings)
    contrast = build_contrast(recipe, images=IMAGES, seed=0).train()
    optimizer = build_optimizer(recipe.optimizer, contrast)
    start = contents(contrast)
    trained = {n for n, weight in contrast.named_parameters() if weight.requires_grad}
    assert all(n.startswith(("encoder.", "predictor.")) for n in trained)
    assert any(n.startswith("predictor.") for n in trained) == (recipe.encoder.predictor != "none")

    reached = set()
    for step in range(3):  # residual branches that start at zero let the gradient in at step 1
        view_a, view_b, image_ids = batch(step)
        before = contents(contrast)
        loss, keys, _ = contrast(view_a, view_b, image_ids, step)
        optimizer.zero_grad()
        (recipe.loss_scale * loss).backward()
        for n, weight in contrast.named_parameters():
            assert (weight.grad is not None) == (n in trained), n
            if weight.grad is not None:
                assert weight.grad.isfinite().all(), n
                reached |= {n} if weight.grad.any() else set()
        optimizer.step()
        for n, value in contents(contrast).items():
            assert n in trained or torch.equal(value, before[n]), f"{n} moved before its time"
        contrast.advance(keys, image_ids, 0.5)
        for n, value in contents(contrast).items():
            if n.startswith("key_encoder."):
                query_weight = contrast.get_parameter(n.removeprefix("key_"))
                torch.testing.assert_close(value, (before[n] + query_weight) / 2)
    assert reached == trained

    left = contents(contrast)
    held = [n for n in left if n.startswith("dictionary.")]
    assert len(held) == {"queue": 3, "memory_bank": 1}.get(recipe.mechanism, 0)
    assert not any(torch.equal(left[n], start[n]) for n in held if n != "dictionary.next_slot")
    frozen = {n for n in left if n.startswith("encoder.")} - trained
    assert all(torch.equal(left[n], start[n]) for n in frozen)
    assert bool(frozen) == recipe.encoder.backbone.startswith("moco_v3")


class StopAfter:
    def __init__(self, steps: int) -> None:
        self.left = steps

    def __call__(self) -> int | None:
        self.left -= 1
        return None if self.left else 75


def plan_of(recipe: Recipe, photos: Path, run: Path) -> Plan:
    return make_plan(photos, recipe=recipe, run=run, device="cpu", workers=0)


def losses_of(run: Path) -> list[float]:
    return [json.loads(line)["loss"] for line in (run / "metrics.jsonl").read_text().splitlines()]


@each_variant
def test_saves_loads_and_goes_on(
    name: str, tiny_settings: list[str], photos: Path, tmp_path: Path
) -> None:
    recipe = tiny(name, tiny_settings)
    unbroken, stopped = tmp_path / "unbroken", tmp_path / "stopped"
    train(plan_of(recipe, photos, unbroken))
    with pytest.raises(InterruptedRunError):
        train(plan_of(recipe, photos, stopped), stop=StopAfter(3))
    train(plan_of(recipe, photos, stopped))

    whole, resumed = load_newest(unbroken), load_newest(stopped)
    assert whole is not None
    assert resumed is not None
    assert whole.step == resumed.step == 8
    assert whole.model.keys() == resumed.model.keys()
    for key, value in whole.model.items():
        assert torch.equal(value, resumed.model[key]), key
    assert losses_of(unbroken) == losses_of(stopped)
    assert len(losses_of(unbroken)) == 8

    backbone = moco.load(unbroken)
    for key, value in backbone.state_dict().items():
        assert torch.equal(value, whole.model[f"encoder.backbone.{key}"]), key
    assert backbone(torch.randn(2, 3, SIDE, SIDE)).ndim == 2
