from __future__ import annotations

import pytest
import torch
from torch import nn

from moco.encoders import Encoder, build_backbone, feature_count
from moco.evaluation.layer_rates import layer_groups, parameter_groups
from moco.specs import EncoderSpec


def built(backbone: str, size: int = 32) -> Encoder:
    with torch.device("meta"):  # names and shapes are enough
        network = build_backbone(EncoderSpec(backbone=backbone), size)
        return Encoder(network, nn.Linear(feature_count(network), 3))


def test_a_resnet_goes_by_stem_stages_and_classifier() -> None:
    groups = layer_groups(built("resnet50"), 0.5)
    assert [(group.title, group.rate) for group in groups] == [
        ("stem", 1 / 32),
        ("layer1", 1 / 16),
        ("layer2", 1 / 8),
        ("layer3", 1 / 4),
        ("layer4", 1 / 2),
        ("head", 1.0),
    ]
    of = {name: group.title for group in groups for name in group.names}
    assert of["backbone.conv1.weight"] == of["backbone.bn1.bias"] == "stem"
    assert of["backbone.layer2.3.conv3.weight"] == "layer2"
    assert of["backbone.layer4.0.downsample.1.weight"] == "layer4"
    assert of["head.weight"] == of["head.bias"] == "head"


@pytest.mark.parametrize(
    ("backbone", "blocks"), [("moco_v3_vit_small", 12), ("moco_v3_vit_conv_small", 11)]
)
def test_a_vit_goes_by_patch_embedding_blocks_and_classifier(backbone: str, blocks: int) -> None:
    groups = layer_groups(built(backbone), 0.75)
    titles = [group.title for group in groups]
    assert titles == ["patch_embed", *(f"blocks.{place}" for place in range(blocks)), "head"]
    rates = [group.rate for group in groups]
    assert rates == pytest.approx([0.75 ** (blocks + 1 - place) for place in range(blocks + 2)])
    of = {name: group.title for group in groups for name in group.names}
    for name in ("cls_token", "pos_embed"):
        assert of[f"backbone.{name}"] == "patch_embed"
    stem = "proj.12.weight" if "conv" in backbone else "proj.weight"
    assert of[f"backbone.patch_embed.{stem}"] == "patch_embed"
    assert of["backbone.blocks.10.attn.qkv.weight"] == "blocks.10"
    assert of["backbone.norm.weight"] == of["head.weight"] == "head"


@pytest.mark.parametrize(
    "backbone", ["resnet18", "moco_v3_vit_small", "convnext_atto", "efficientnet_b0"]
)
def test_every_weight_is_in_one_group_and_later_ones_learn_faster(backbone: str) -> None:
    encoder = built(backbone, 64)
    groups = layer_groups(encoder, 0.8)
    named = [name for group in groups for name in group.names]
    assert sorted(named) == sorted(name for name, _ in encoder.named_parameters())
    assert [group.rate for group in groups] == sorted(group.rate for group in groups)
    assert groups[-1].title == "head"
    assert groups[-1].rate == 1.0
    assert len(groups) > 4


def test_norms_biases_and_tokens_are_not_decayed() -> None:
    encoder = built("moco_v3_vit_small")
    names = {id(weight): name for name, weight in encoder.named_parameters()}
    groups = parameter_groups(encoder, layer_groups(encoder, 0.75), 0.05)
    decays = {names[id(weight)]: g["weight_decay"] for g in groups for weight in g["params"]}
    assert len(decays) == len(names)
    for name, decay in decays.items():
        matrix = "proj.weight" in name or "qkv.weight" in name or "fc" in name or "head" in name
        assert decay == (0.05 if matrix and name.endswith("weight") else 0.0), name


def test_no_decay_of_rates_is_the_same_rate_for_all() -> None:
    assert {group.rate for group in layer_groups(built("resnet18"), 1.0)} == {1.0}
