from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

import moco.build
from moco.batch_norm import GroupedBatchNorm, SyncedBatchNorm, has_batch_norm
from moco.build import build_contrast, build_optimizer
from moco.contrast import Contrast
from moco.dictionaries import InBatch, MemoryBank, Queue
from moco.errors import UsageError
from moco.info_nce import NO_KEY
from moco.recipe import Recipe
from moco.recipes import CIFAR10_RESNET18
from moco.specs import DictionarySpec, EncoderSpec, OptimizerSpec

IMAGES, GROUPS = 16, 4
TINY = replace(
    CIFAR10_RESNET18,
    encoder=EncoderSpec(
        backbone="resnet18", stem="small", width=0.125, stage_blocks=(1, 1, 1, 1), dim=6
    ),
    dictionary=DictionarySpec(size=40),
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
    contrast = build_contrast(TINY, images=IMAGES, seed=0)
    for encoder in (contrast.encoder, contrast.key_encoder):
        assert groups_of(encoder) == [GROUPS] * 12
    assert contrast.shuffle_keys


def test_shuffled_keys_in_groups_differ_from_those_of_plain_batch_norm() -> None:
    keys = {}
    for groups in (1, GROUPS):
        contrast = build_contrast(
            replace(TINY, batch_norm_groups=groups), images=IMAGES, seed=0
        ).train()
        assert contrast.shuffle_keys == (groups > 1)
        keys[groups] = contrast(*views(), 0).keys
        contrast.shuffle_keys = not contrast.shuffle_keys
        swapped = contrast(*views(), 0).keys
        difference = (swapped - keys[groups]).abs().max()
        assert difference < 1e-4 if groups == 1 else difference > 1e-2
    assert (keys[1] - keys[GROUPS]).abs().max() > 1e-2


def test_groups_are_shared_out_among_processes(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(moco.build, "world_size", lambda: 2)
    contrast = build_contrast(TINY, images=IMAGES, seed=0)
    assert groups_of(contrast.encoder) == [2] * 12
    assert contrast.shuffle_keys
    monkeypatch.setattr(moco.build, "world_size", lambda: 4)
    contrast = build_contrast(TINY, images=IMAGES, seed=0)
    assert groups_of(contrast.encoder) == [1] * 12
    assert contrast.shuffle_keys  # the processes are the groups


@pytest.mark.parametrize(("processes", "unfit"), [(3, "batch_size 16"), (8, "batch_norm_groups 4")])
def test_refuses_processes_that_batch_or_groups_do_not_split_over(
    monkeypatch: pytest.MonkeyPatch, processes: int, unfit: str
) -> None:
    monkeypatch.setattr(moco.build, "world_size", lambda: processes)
    with pytest.raises(UsageError, match=f"{unfit} does not split over {processes} "):
        build_contrast(TINY, images=IMAGES, seed=0)


def test_nothing_is_shuffled_without_batch_norm() -> None:
    contrast = build_contrast(WITHOUT_BATCH_NORM, images=IMAGES, seed=0)
    assert not has_batch_norm(contrast)
    assert not contrast.shuffle_keys


def test_takes_its_settings_from_the_recipe() -> None:
    contrast = build_contrast(TINY, images=IMAGES, seed=5, precision=torch.bfloat16)
    assert contrast.temperature == TINY.temperature
    assert not contrast.symmetric
    assert contrast.seed == 5
    assert contrast.encoder.precision == contrast.key_encoder.precision == torch.bfloat16
    assert contrast.dictionary.keys.shape == (40, 6)
    assert not contrast.dictionary.exclude_same_image
    other = replace(
        TINY, symmetric=True, dictionary=DictionarySpec(size=17, exclude_same_image=True)
    )
    contrast = build_contrast(other, images=IMAGES, seed=0)
    assert contrast.symmetric
    assert contrast.dictionary.exclude_same_image
    assert len(contrast.dictionary.keys) == 17


def test_same_seed_same_weights_and_queue() -> None:
    states = []
    for seed in (0, 0, 1):
        torch.rand(3)  # whatever the process drew before
        states.append(build_contrast(TINY, images=IMAGES, seed=seed).state_dict())
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
    contrast = build_contrast(TINY, images=IMAGES, seed=0)
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
    contrast = build_contrast(TINY, images=IMAGES, seed=0)
    before = {name: value.detach().clone() for name, value in contrast.named_parameters()}
    train_one_step(TINY, contrast)
    for name, weight in contrast.named_parameters():
        assert torch.equal(weight, before[name]) == name.startswith("key_encoder."), name


@pytest.mark.parametrize(
    ("mechanism", "keys_from", "dictionary", "shuffled"),
    [
        ("queue", "momentum_encoder", Queue, True),
        ("in_batch", "momentum_encoder", InBatch, True),
        ("end_to_end", "query_encoder", InBatch, True),
        ("memory_bank", "query_itself", MemoryBank, False),
    ],
)
def test_a_mechanism_is_where_keys_come_from_and_what_they_are_compared_with(
    mechanism: str, keys_from: str, dictionary: type, shuffled: bool
) -> None:
    contrast = build_contrast(replace(TINY, mechanism=mechanism), images=33, seed=0)
    assert contrast.keys_from == keys_from
    assert type(contrast.dictionary) is dictionary
    assert contrast.shuffle_keys == shuffled
    assert hasattr(contrast, "key_encoder") == (keys_from == "momentum_encoder")
    assert groups_of(contrast.encoder) == [GROUPS] * 12


@pytest.mark.parametrize("mechanism", ["in_batch", "end_to_end", "memory_bank"])
def test_all_else_is_equal_between_mechanisms(mechanism: str) -> None:
    queue = build_contrast(TINY, images=33, seed=0)
    rival = build_contrast(replace(TINY, mechanism=mechanism), images=33, seed=0)
    torch.testing.assert_close(
        dict(rival.encoder.state_dict()), dict(queue.encoder.state_dict()), rtol=0, atol=0
    )
    assert (rival.temperature, rival.symmetric, rival.seed) == (TINY.temperature, False, 0)


def test_a_bank_has_a_row_for_each_image_and_its_recipe_s_settings() -> None:
    spec = DictionarySpec(size=77, bank_momentum=0.3)
    recipe = replace(TINY, mechanism="memory_bank", dictionary=spec)
    bank = build_contrast(recipe, images=33, seed=0).dictionary
    assert bank.vectors.shape == (33, 6)
    assert (bank.negatives, bank.bank_momentum) == (77, 0.3)


def test_a_queue_is_told_to_count_only_what_it_holds() -> None:
    spec = DictionarySpec(size=40, filled_only=True)
    queue = build_contrast(replace(TINY, dictionary=spec), images=33, seed=0).dictionary
    assert queue.image_ids.tolist() == [NO_KEY] * 40


def test_a_queue_keeps_its_keys_in_the_precision_that_it_is_told() -> None:
    spec = DictionarySpec(size=40, key_precision="bfloat16")
    kinds = [
        build_contrast(recipe, images=33, seed=0).dictionary.keys.dtype
        for recipe in (TINY, replace(TINY, dictionary=spec))
    ]
    assert kinds == [torch.float32, torch.bfloat16]


def test_the_predictor_belongs_to_the_queries_alone() -> None:
    encoder = replace(TINY.encoder, head="mlp_bn", predictor="mlp", head_width=8)
    recipe = replace(TINY, encoder=encoder, mechanism="in_batch", batch_norm_groups=1)
    contrast = build_contrast(recipe, images=33, seed=0)
    assert not contrast.shuffle_keys
    assert list(contrast.key_encoder.state_dict()) == list(contrast.encoder.state_dict())
    held = {
        id(weight)
        for group in build_optimizer(recipe.optimizer, contrast).param_groups
        for weight in group["params"]
    }
    wanted = [*contrast.encoder.parameters(), *contrast.predictor.parameters()]
    assert held == {id(weight) for weight in wanted}


def test_one_group_over_several_processes_is_shared_by_all_of_them(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(moco.build, "world_size", lambda: 4)
    encoder = replace(TINY.encoder, head="mlp_bn", predictor="mlp_bn", head_width=8)
    recipe = replace(TINY, encoder=encoder, mechanism="in_batch", batch_norm_groups=1)
    contrast = build_contrast(recipe, images=33, seed=0)
    for module in (contrast.encoder, contrast.key_encoder, contrast.predictor):
        layers = [layer for layer in module.modules() if isinstance(layer, _BatchNorm)]
        assert layers
        assert {type(layer) for layer in layers} == {SyncedBatchNorm}


def test_lars_is_built_with_the_recipe_s_settings() -> None:
    contrast = build_contrast(TINY, images=33, seed=0)
    spec = OptimizerSpec(algorithm="lars", learning_rate=4.8, weight_decay=1.5e-6)
    (group,) = build_optimizer(spec, contrast).param_groups
    settings = (group["lr"], group["weight_decay"], group["sgd_momentum"], group["trust"])
    assert settings == (4.8, 1.5e-6, 0.9, 0.001)
