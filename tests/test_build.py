from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from torch import Tensor, nn

import moco.build
from moco.batch_norm import GroupedBatchNorm, has_batch_norm
from moco.build import build_contrast, build_optimizer
from moco.contrast import Contrast
from moco.errors import UsageError
from moco.recipes import CIFAR10_RESNET18, Recipe
from moco.specs import EncoderSpec, OptimizerSpec, QueueSpec

IMAGES, GROUPS = 16, 4
TINY = replace(
    CIFAR10_RESNET18,
    encoder=EncoderSpec(
        backbone="resnet18", stem="small", width=0.125, stage_blocks=(1, 1, 1, 1), dim=6
    ),
    dictionary=QueueSpec(size=40),
    batch_size=IMAGES,
    batch_norm_groups=GROUPS,
)
WITHOUT_BATCH_NORM = replace(TINY, encoder=EncoderSpec(backbone="test_vit", dim=6))


def views() -> tuple[Tensor, Tensor, Tensor]:
    generator = torch.Generator().manual_seed(0)
    view_a, view_b = torch.randn(2, IMAGES, 3, 8, 8, generator=generator)
    return view_a, view_b, torch.arange(IMAGES)


def groups_of(module: nn.Module) -> list[int]:
    """Return the groups of every batch norm, 1 for a plain one."""
    own = (layer for layer in module.modules() if not list(layer.children()) or _is_grouped(layer))
    return [layer.groups if _is_grouped(layer) else 1 for layer in own if has_batch_norm(layer)]


def _is_grouped(layer: nn.Module) -> bool:
    return isinstance(layer, GroupedBatchNorm)


def test_one_process_puts_every_batch_norm_of_both_encoders_in_groups() -> None:
    contrast = build_contrast(TINY, seed=0)
    for encoder in (contrast.encoder, contrast.key_encoder):
        assert groups_of(encoder) == [GROUPS] * 12
    assert contrast.shuffle_keys


def test_shuffled_keys_in_groups_differ_from_those_of_plain_batch_norm() -> None:
    keys = {}
    for groups in (1, GROUPS):
        contrast = build_contrast(replace(TINY, batch_norm_groups=groups), seed=0).train()
        assert contrast.shuffle_keys == (groups > 1)
        keys[groups] = contrast(*views(), 0).keys
        contrast.shuffle_keys = not contrast.shuffle_keys
        swapped = contrast(*views(), 0).keys
        difference = (swapped - keys[groups]).abs().max()
        assert difference < 1e-4 if groups == 1 else difference > 1e-2
    assert (keys[1] - keys[GROUPS]).abs().max() > 1e-2


def test_groups_are_shared_out_among_processes(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(moco.build, "world_size", lambda: 2)
    contrast = build_contrast(TINY, seed=0)
    assert groups_of(contrast.encoder) == [2] * 12
    assert contrast.shuffle_keys
    monkeypatch.setattr(moco.build, "world_size", lambda: 4)
    contrast = build_contrast(TINY, seed=0)
    assert groups_of(contrast.encoder) == [1] * 12
    assert contrast.shuffle_keys  # the processes are the groups


@pytest.mark.parametrize("processes", [3, 8])
def test_refuses_processes_that_the_groups_do_not_split_over(
    monkeypatch: pytest.MonkeyPatch, processes: int
) -> None:
    monkeypatch.setattr(moco.build, "world_size", lambda: processes)
    with pytest.raises(UsageError, match=f"batch_norm_groups 4 does not split .* {processes} "):
        build_contrast(TINY, seed=0)


def test_nothing_is_shuffled_without_batch_norm() -> None:
    contrast = build_contrast(WITHOUT_BATCH_NORM, seed=0)
    assert not has_batch_norm(contrast)
    assert not contrast.shuffle_keys


def test_takes_its_settings_from_the_recipe() -> None:
    contrast = build_contrast(TINY, seed=5, precision=torch.bfloat16)
    assert contrast.temperature == TINY.temperature
    assert not contrast.symmetric
    assert contrast.shuffle_seed == 5
    assert contrast.encoder.precision == contrast.key_encoder.precision == torch.bfloat16
    assert contrast.dictionary.keys.shape == (40, 6)
    assert not contrast.dictionary.exclude_same_image
    other = replace(TINY, symmetric=True, dictionary=QueueSpec(size=17, exclude_same_image=True))
    contrast = build_contrast(other, seed=0)
    assert contrast.symmetric
    assert contrast.dictionary.exclude_same_image
    assert len(contrast.dictionary.keys) == 17


def test_same_seed_same_weights_and_queue() -> None:
    states = []
    for seed in (0, 0, 1):
        torch.rand(3)  # whatever the process drew before
        states.append(build_contrast(TINY, seed=seed).state_dict())
    torch.testing.assert_close(dict(states[0]), dict(states[1]), rtol=0, atol=0)
    for name in ("encoder.backbone.conv1.weight", "encoder.head.weight", "dictionary.keys"):
        assert not torch.equal(states[0][name], states[2][name])


def train_one_step(recipe: Recipe, contrast: Contrast) -> None:
    optimizer = build_optimizer(recipe.optimizer, contrast)
    contrast.train()(*views(), 0).loss.backward()
    optimizer.step()


@pytest.mark.parametrize("algorithm", ["sgd", "adamw"])
def test_optimizer_decays_every_weight_of_the_encoder_and_holds_no_key_weight(
    algorithm: str,
) -> None:
    contrast = build_contrast(TINY, seed=0)
    spec = OptimizerSpec(
        algorithm=algorithm, learning_rate=0.3, weight_decay=0.02, sgd_momentum=0.8
    )
    (group,) = build_optimizer(spec, contrast).param_groups  # biases and batch norm too
    held = [id(weight) for weight in group["params"]]
    assert held == [id(weight) for weight in contrast.encoder.parameters()]
    assert not set(held) & {id(weight) for weight in contrast.key_encoder.parameters()}
    assert (group["lr"], group["weight_decay"]) == (0.3, 0.02)
    if algorithm == "sgd":
        assert (group["momentum"], group["nesterov"], group["dampening"]) == (0.8, False, 0)
    else:
        assert (group["betas"], group["eps"]) == ((0.9, 0.999), 1e-8)


def test_one_step_moves_every_weight_of_the_encoder_and_no_key_weight() -> None:
    contrast = build_contrast(TINY, seed=0)
    before = {name: value.detach().clone() for name, value in contrast.named_parameters()}
    train_one_step(TINY, contrast)
    for name, weight in contrast.named_parameters():
        assert torch.equal(weight, before[name]) == name.startswith("key_encoder."), name
