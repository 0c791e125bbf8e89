"""A batch in parts is the batch: loss, gradients, keys, running statistics, for every method."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from moco.build import build_contrast, build_optimizer
from moco.cli.main import main
from moco.cli.terminal import describe_plan
from moco.distributed import rank
from moco.errors import UsageError
from moco.plan import make_plan
from moco.pretraining import train
from moco.recipe import Recipe
from moco.recipe_files import set_fields
from moco.recipes import RECIPES
from moco.run_records import read_lines
from moco.training_step import TrainingStep

IMAGES, STEPS = 16, 3
METHODS = {
    "queue": ["moco-v2"],
    "queue, both ways": ["moco-v2", "symmetric=true"],
    "older keys of the image left out": ["moco-v2", "exclude_same_image=true"],
    "in batch": ["moco-v3-resnet50", "optimizer.algorithm=lars"],
    "end to end": ["moco-v2", "mechanism=end_to_end"],
    "end to end, both ways": ["moco-v2", "mechanism=end_to_end", "symmetric=true"],
    "memory bank": ["moco-v2", "mechanism=memory_bank"],
}


def recipe_of(method: str, tiny: list[str], *more: str) -> Recipe:
    name, *settings = METHODS[method]
    if RECIPES[name].mechanism != "queue":
        tiny = [setting for setting in tiny if "dictionary.size" not in setting]
    return set_fields(RECIPES[name], [*tiny, "batch_norm_groups=4", *settings, *more])


def state_after(recipe: Recipe, parts: int, images: int = IMAGES) -> dict[str, Any]:
    """Return what some steps leave, in float64, where sums in another order differ little."""
    contrast = build_contrast(recipe, images=2 * IMAGES, seed=0, accumulate=parts).double().train()
    optimizer = build_optimizer(recipe.optimizer, contrast)
    training = TrainingStep(contrast, optimizer, loss_scale=recipe.loss_scale, accumulate=parts)
    draw = torch.Generator().manual_seed(rank())
    side = recipe.views.image_size
    figures = []
    for step in range(STEPS):
        views = [
            torch.randn(images, 3, side, side, generator=draw, dtype=torch.float64) for _ in "ab"
        ]
        ids = torch.arange(images) + images * ((step + rank()) % 2)
        figures.append(training.take(*views, ids, step, 0.9))
    gradients = {
        f"gradient of {name}": weight.grad
        for name, weight in contrast.named_parameters()
        if weight.grad is not None
    }
    return {**contrast.state_dict(), **gradients, "figures": torch.stack(figures)}


def assert_equal(one: dict[str, Tensor], other: dict[str, Tensor], within: float) -> None:
    assert one.keys() == other.keys()
    for name, value in one.items():
        torch.testing.assert_close(other[name], value, rtol=within, atol=within, msg=name)


@pytest.mark.parametrize("parts", [2, 4])
@pytest.mark.parametrize("method", METHODS)
def test_a_batch_in_parts_is_the_batch(method: str, parts: int, tiny_settings: list[str]) -> None:
    recipe = recipe_of(method, tiny_settings)
    whole = state_after(recipe, 1)
    assert_equal(whole, state_after(recipe, parts), 1e-6)
    assert whole["figures"][:, -1].eq(1).all()


def states_in_a_group(recipe: Recipe) -> dict[str, dict[str, Tensor]]:
    return {str(parts): state_after(recipe, parts, IMAGES // 2) for parts in (1, 2)}


@pytest.mark.parametrize("method", ["queue", "end to end"])
def test_so_it_is_over_processes(
    method: str, tiny_settings: list[str], run_processes: Callable[..., list[Any]]
) -> None:
    recipe = recipe_of(method, tiny_settings)
    first, second = run_processes(2, states_in_a_group, recipe)
    assert_equal(first["1"], first["2"], 1e-6)
    for name, value in first["2"].items():
        if name.startswith("gradient"):
            torch.testing.assert_close(second["2"][name], value, rtol=0, atol=0)


def test_keys_are_encoded_again_as_they_were(
    tiny_settings: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """A network that draws, such as which tokens to drop, draws the same."""
    recipe = recipe_of("end to end", tiny_settings)
    contrast = build_contrast(recipe, images=IMAGES, seed=0, accumulate=2).train()
    encoded: list[Tensor] = []

    def drop(_module: nn.Module, _views: Any, output: Tensor) -> Tensor:
        dropped = output * (torch.rand_like(output) > 0.3)
        encoded.append(dropped.detach().clone())
        return dropped

    contrast.encoder.register_forward_hook(drop)
    optimizer = build_optimizer(recipe.optimizer, contrast)
    training = TrainingStep(contrast, optimizer, loss_scale=1.0, accumulate=2)
    side = recipe.views.image_size
    training.take(*torch.randn(2, IMAGES, 3, side, side), torch.arange(IMAGES), 0, 0.9)
    keys, queries, again = encoded[:2], encoded[2:4], encoded[4:]
    assert torch.equal(torch.cat(keys), torch.cat(again))
    assert not torch.equal(torch.cat(keys), torch.cat(queries))


def test_a_run_in_parts_is_the_run(
    photos: Path, tiny_settings: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    recipe = recipe_of("queue", tiny_settings, "epochs=2")
    losses = []
    for parts in ("1", "4"):
        run = tmp_path / parts
        plan = make_plan(
            photos, recipe=recipe, run=run, device="cpu", workers=0, accumulate=int(parts)
        )
        assert ("each batch in 4 parts" in describe_plan(plan)[1]) == (parts == "4")
        train(plan)
        losses.append([row["loss"] for row in read_lines(run / "metrics.jsonl")])
    assert losses[1] == pytest.approx(losses[0], rel=2e-3)
    assert losses[1] != losses[0]  # sums in another order: it did go in parts


@pytest.mark.parametrize(
    ("parts", "said"),
    [
        ("3", "16 images do not split into 3 parts"),
        ("0", "accumulate must be from 1, got 0"),
        ("8", "batch_norm_groups 4 does not split into 8 parts"),
    ],
)
def test_parts_that_are_another_step_are_refused(
    parts: str, said: str, photos: Path, tiny_settings: list[str], tmp_path: Path, capsys: Any
) -> None:
    settings = [word for one in [*tiny_settings, "batch_norm_groups=4"] for word in ("--set", one)]
    options = ["--recipe", "moco-v2", "--device", "cpu", "--workers", "0", "--accumulate", parts]
    command = ["pretrain", str(photos), *options, *settings, "--run", str(tmp_path / "run")]
    assert main(command) == 2
    (line,) = capsys.readouterr().err.strip().splitlines()
    assert said in line


def test_batch_norm_never_sees_less_than_a_group(tiny_settings: list[str]) -> None:
    recipe = set_fields(
        RECIPES["moco-v2"], [*tiny_settings, "encoder.head=mlp", "batch_norm_groups=1"]
    )
    with pytest.raises(UsageError, match="batch norm would see less than a group"):
        build_contrast(recipe, images=IMAGES, seed=0, accumulate=2)
