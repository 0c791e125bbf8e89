"""Patches that training forwards of v3's ViTs leave out."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import moco
from moco.build import build_contrast
from moco.checkpoint import load_checkpoint
from moco.contrast import Contrast
from moco.errors import InterruptedRunError, UsageError
from moco.plan import make_plan
from moco.pretraining import train
from moco.recipe import Recipe
from moco.recipe_files import set_fields
from moco.recipes import MOCO_V2, MOCO_V3_VIT_SMALL
from moco.vision_transformer import MOCO_V3_VITS, TokenDrop, VisionTransformerShape

STEPS = 4


@pytest.fixture(scope="module")
def recipe() -> Recipe:
    """Return v3's ViT recipe on 32 pixels, four patches of which two go; patch it to be shallow."""
    sizes = [f"views.{name}=32" for name in ("image_size", "evaluation_resize", "evaluation_size")]
    return set_fields(
        MOCO_V3_VIT_SMALL,
        [
            *sizes,
            "token_drop=0.5",
            "head_width=16",
            "dim=8",
            "batch_size=16",
            "epochs=1",
            "warmup_epochs=0",
        ],
    )


@pytest.fixture(autouse=True)
def _shallow(monkeypatch: pytest.MonkeyPatch) -> None:
    shape = VisionTransformerShape(width=48, depth=1, attention_heads=12, stem="patch")
    monkeypatch.setitem(MOCO_V3_VITS, "moco_v3_vit_small", shape)


@pytest.mark.parametrize(
    ("share", "patches", "kept"),
    [(0.5, 196, 98), (0.9, 100, 10), (0.3, 100, 70), (0.75, 196, 49), (0.99, 4, 1), (0.0, 9, 9)],
)
def test_it_leaves_out_exactly_its_share(share: float, patches: int, kept: int) -> None:
    tokens = torch.arange(1.0 + patches).expand(3, -1)[:, :, None].repeat(1, 1, 2)
    seen = TokenDrop(share).train()(tokens)
    assert seen.shape == (3, 1 + kept, 2)
    for row in seen[:, :, 0].tolist():
        assert row[0] == 0.0  # the class token, in its place
        assert len(set(row)) == 1 + kept
        assert set(row) <= set(range(1 + patches))


def test_each_image_and_each_forward_has_its_own_draw_and_all_patches_their_turn() -> None:
    tokens = torch.arange(17.0).expand(400, -1)[:, :, None]
    drop = TokenDrop(0.5).train()
    one, other = (drop(tokens)[:, 1:, 0] for _ in range(2))
    assert len({tuple(sorted(row)) for row in one.tolist()}) > 300
    assert not torch.equal(one, other)
    counts = one.flatten().long().bincount(minlength=17)[1:]
    assert counts.min() > 150  # of 200 expected, deviation 10
    assert counts.max() < 250


def test_gradients_reach_the_patches_that_stay_and_no_other() -> None:
    tokens = torch.ones(2, 9, 3, requires_grad=True)
    TokenDrop(0.5).train()(tokens).sum().backward()
    assert tokens.grad is not None
    assert tokens.grad[:, 0].eq(1).all()
    assert tokens.grad[:, 1:].sum((1, 2)).tolist() == [12.0, 12.0]


def contrast_of(recipe: Recipe) -> Contrast:
    return build_contrast(recipe, images=64, seed=0)


def tokens_in_blocks(backbone: nn.Module, view: Tensor) -> int:
    seen: list[int] = []
    block: Any = backbone.blocks[0]
    handle = block.register_forward_pre_hook(lambda _, given: seen.append(given[0].shape[1]))
    backbone(view)
    handle.remove()
    return seen[0]


def test_both_encoders_drop_in_training_and_neither_in_evaluation(recipe: Recipe) -> None:
    contrast, view = contrast_of(recipe), torch.randn(16, 3, 32, 32)
    for encoder in (contrast.encoder, contrast.key_encoder):
        backbone: Any = encoder.backbone
        assert tokens_in_blocks(backbone.train(), view) == 3
        assert tokens_in_blocks(backbone.eval(), view) == 5
        state = torch.get_rng_state()
        assert torch.equal(backbone(view), backbone(view))
        assert torch.equal(torch.get_rng_state(), state)  # evaluation draws nothing


def test_queries_and_keys_are_of_patches_drawn_apart(recipe: Recipe) -> None:
    contrast = contrast_of(recipe).train()
    kept: list[Tensor] = []
    for encoder in (contrast.encoder, contrast.key_encoder):
        backbone: Any = encoder.backbone
        backbone.patch_drop.register_forward_hook(lambda _, __, out: kept.append(out.detach()))
    view = torch.randint(0, 256, (16, 3, 32, 32), dtype=torch.uint8)
    contrast(view, view, torch.arange(16), 0)
    assert len(kept) == 4  # symmetric: two queries, two keys
    assert not any(torch.equal(kept[0], other) for other in kept[1:])


def test_weights_are_those_of_the_same_seed_without(recipe: Recipe) -> None:
    plain = contrast_of(set_fields(recipe, ["token_drop=0"])).state_dict()
    for name, values in contrast_of(recipe).state_dict().items():
        assert torch.equal(values, plain[name]), name
    assert len(plain) == len(contrast_of(recipe).state_dict())


def test_other_networks_are_refused() -> None:
    with pytest.raises(UsageError, match=r"token_drop needs a ViT of MoCo v3 .* not 'resnet50'"):
        contrast_of(set_fields(MOCO_V2, ["token_drop=0.5"]))


@pytest.fixture(scope="module")
def whole(photos: Path, recipe: Recipe, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("whole") / "run"


@pytest.mark.parametrize("workers", [0, 2])
def test_a_stopped_run_goes_on_to_the_same_bytes(
    photos: Path, recipe: Recipe, whole: Path, tmp_path: Path, workers: int
) -> None:
    if not whole.exists():
        train(make_plan(photos, recipe=recipe, run=whole, device="cpu", workers=0))
    plan = make_plan(photos, recipe=recipe, run=tmp_path, device="cpu", workers=workers)
    left = iter([None, 75])
    with pytest.raises(InterruptedRunError):
        train(plan, stop=lambda: next(left))
    torch.manual_seed(99)  # whatever else drew in between
    train(plan)
    last = f"checkpoints/step_{STEPS:08d}"
    for name in ("model.safetensors", "recipe.json"):
        assert (whole / last / name).read_bytes() == (tmp_path / last / name).read_bytes()
    one, other = (load_checkpoint(run / last).train_state for run in (whole, tmp_path))
    assert torch.equal(one["cpu_random_state"], other["cpu_random_state"])


def test_a_loaded_backbone_sees_all_patches_even_as_its_user_trains_it(
    photos: Path, recipe: Recipe, tmp_path: Path
) -> None:
    plan = make_plan(photos, recipe=recipe, run=tmp_path, device="cpu", workers=0)
    left = iter([75])
    with pytest.raises(InterruptedRunError):
        train(plan, stop=lambda: next(left))
    assert tokens_in_blocks(moco.load(tmp_path).train(), torch.randn(2, 3, 32, 32)) == 5
