"""Run directories with a checkpoint that nobody trained: made in milliseconds."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import torch
from torch import Tensor, nn

from moco.checkpoint import Checkpoint, Identity, save_checkpoint
from moco.encoders import Encoder, build_encoder
from moco.found_model import FoundModel
from moco.recipe import Recipe
from moco.recipes import MOCO_V2

RECIPE = replace(
    MOCO_V2,
    name="tiny",
    encoder=replace(
        MOCO_V2.encoder, backbone="resnet18", width=0.125, stage_blocks=(1, 1, 1, 1), dim=16
    ),
    views=replace(MOCO_V2.views, image_size=16, evaluation_resize=18, evaluation_size=16),
)


def made_encoder(seed: int, recipe: Recipe = RECIPE) -> Encoder:
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        return build_encoder(recipe.encoder, recipe.views).eval()


def made_run(
    path: Path, seed: int, recipe: Recipe = RECIPE, *, encoder: Encoder | None = None
) -> Path:
    path.mkdir()
    state = (encoder or made_encoder(seed, recipe)).state_dict()
    model = {f"encoder.{name}": value for name, value in state.items()}
    save_checkpoint(path, Checkpoint(1, model, {}, Identity(recipe, 0, 8, "x")))
    return path


def answers(model: FoundModel | nn.Module, side: int = 16) -> Tensor:
    network = model if isinstance(model, nn.Module) else model.network
    assert network is not None
    assert not any(module.training for module in network.modules())
    pictures = torch.randn(2, 3, side, side, generator=torch.Generator().manual_seed(1))
    with torch.no_grad():
        return torch.as_tensor(network(pictures))
