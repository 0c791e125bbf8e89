from __future__ import annotations

import math
import re
import sys
from dataclasses import replace

import pytest
import timm
import torch
import torchvision
from torch import Tensor, nn

from moco.encoders import (
    build_backbone,
    build_encoder,
    build_head,
    build_predictor,
    parameter_count,
)
from moco.errors import UsageError
from moco.recipe import Recipe
from moco.recipes import CIFAR10_RESNET18, MOCO_V3_RESNET50, MOCO_V3_VIT_BASE, MOCO_V3_VIT_SMALL
from moco.specs import EncoderSpec, ViewsSpec

TINY = EncoderSpec(backbone="resnet18", width=0.125, stage_blocks=(1, 1, 1, 1), dim=6)


def shapes(module: nn.Module) -> dict[str, torch.Size]:
    return {name: value.shape for name, value in module.state_dict().items()}


def without_classifier(name: str) -> nn.Module:
    model = torchvision.models.get_model(name, weights=None)
    model.fc = nn.Identity()
    return model


@pytest.mark.parametrize("name", ["resnet18", "resnet50"])
def test_resnets_have_torchvision_s_names_and_compute_the_same(name: str) -> None:
    torch.manual_seed(0)
    original = without_classifier(name)
    backbone = build_backbone(EncoderSpec(backbone=name))
    assert shapes(backbone) == shapes(original)
    backbone.load_state_dict(original.state_dict())
    view = torch.randn(2, 3, 64, 64)
    with torch.no_grad():
        for mode in (True, False):
            output = backbone.train(mode)(view)
            torch.testing.assert_close(output, original.train(mode)(view), rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize(
    ("spec", "backbone", "head"),
    [
        (EncoderSpec(), 23_508_032, 262_272),
        (EncoderSpec(head="mlp"), 23_508_032, 4_458_624),
        (CIFAR10_RESNET18.encoder, 11_234_496 - 65_664, 65_664),
    ],
    ids=["v1", "v2", "cifar"],
)
def test_parameter_counts_of_the_papers(spec: EncoderSpec, backbone: int, head: int) -> None:
    with torch.device("meta"):
        encoder = build_encoder(spec)
    assert parameter_count(encoder.backbone) == backbone
    assert parameter_count(encoder.head) == head


# ALGORITHM.md, section 12: the paper's millions; parameters without a head, and with a 128-d one
PAPER_COUNTS = {
    24: (EncoderSpec(), 23_508_032, 23_770_304),
    46: (EncoderSpec(backbone="resnext50_32x8d"), 45_972_800, 46_235_072),
    94: (EncoderSpec(width=2), 93_907_072, 94_431_488),
    375: (EncoderSpec(width=4), 375_378_176, 376_426_880),
}


def paper_millions(spec: EncoderSpec) -> int:
    with torch.device("meta"):
        return round(parameter_count(build_backbone(spec)) / 1e6)


@pytest.mark.parametrize("millions", PAPER_COUNTS)
def test_backbones_have_the_sizes_that_the_paper_gives(millions: int) -> None:
    spec, bare, with_head = PAPER_COUNTS[millions]
    with torch.device("meta"):
        encoder = build_encoder(spec)
    sys.stdout.write(
        f"{spec.backbone} width {spec.width:g}: {parameter_count(encoder.backbone):,}, "
        f"{parameter_count(encoder):,} with the head, {millions} M in the paper\n"
    )
    assert parameter_count(encoder.backbone) == bare
    assert parameter_count(encoder) == with_head
    assert paper_millions(spec) == millions


@pytest.mark.parametrize(
    ("name", "paper"), [("wide_resnet50_2", 94), ("resnext50_32x4d", 46), ("resnext101_32x8d", 46)]
)
def test_other_nets_of_like_names_are_not_the_paper_s(name: str, paper: int) -> None:
    assert paper_millions(EncoderSpec(backbone=name)) != paper


def test_the_paper_s_resnext_is_torchvision_s_with_groups_of_eight() -> None:
    torch.manual_seed(0)
    block = torchvision.models.resnet.Bottleneck
    original = torchvision.models.ResNet(block, [1, 1, 1, 1], groups=32, width_per_group=8)
    original.fc = nn.Identity()
    spec = EncoderSpec(backbone="resnext50_32x8d", stage_blocks=(1, 1, 1, 1))
    backbone = build_backbone(spec)
    assert shapes(backbone) == shapes(original)
    backbone.load_state_dict(original.state_dict())
    view = torch.randn(2, 3, 32, 32)
    with torch.no_grad():
        torch.testing.assert_close(backbone(view), original(view), rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("width", [0.125, 0.5, 2.0])
def test_a_wide_resnext_is_a_multiple_of_every_layer(width: float) -> None:
    spec = EncoderSpec(backbone="resnext50_32x8d", stage_blocks=(1, 1, 1, 1))
    with torch.device("meta"):
        wide, plain = (build_backbone(replace(spec, width=share)) for share in (width, 1))
    for (name, weight), plain_weight in zip(
        wide.named_parameters(), plain.parameters(), strict=True
    ):
        assert len(weight) == width * len(plain_weight), name
    assert {layer.groups for layer in wide.modules() if isinstance(layer, nn.Conv2d)} == {1, 32}


@pytest.mark.parametrize(
    ("name", "width"),
    [("resnext50_32x8d", 0.3), ("resnext50_32x8d", 1 / 16), ("resnext50_32x4d", 1 / 8)],
)
def test_a_width_that_splits_a_group_s_channels_is_refused(name: str, width: float) -> None:
    with pytest.raises(UsageError, match=rf"encoder\.width .*'{name}'; take a multiple of 1/"):
        build_backbone(EncoderSpec(backbone=name, width=width))


def test_the_least_width_is_built() -> None:
    spec = EncoderSpec(backbone="resnet18", width=1 / 64, stage_blocks=(1, 1, 1, 1))
    with torch.no_grad():
        assert build_backbone(spec)(torch.randn(2, 3, 32, 32)).shape == (2, 8)


@pytest.mark.parametrize(
    ("recipe", "head", "predictor"),
    [  # ALGORITHM.md, section 5
        (MOCO_V3_RESNET50, 9_445_376, 2_105_344),
        (MOCO_V3_VIT_SMALL, 19_415_040, 2_105_344),
        (MOCO_V3_VIT_BASE, 20_987_904, 2_105_344),
    ],
    ids=lambda value: getattr(value, "name", None),
)
def test_parameter_counts_of_v3(recipe: Recipe, head: int, predictor: int) -> None:
    features = {"resnet50": 2048, "moco_v3_vit_small": 384, "moco_v3_vit_base": 768}
    with torch.device("meta"):
        projecting = build_head(recipe.encoder, features[recipe.encoder.backbone])
        predicting = build_predictor(recipe.encoder, features[recipe.encoder.backbone])
    assert parameter_count(projecting) == head
    assert parameter_count(predicting) == predictor


@pytest.mark.parametrize(
    ("recipe", "projector", "predictor"),
    [
        (MOCO_V3_RESNET50, ["L", "B", "R", "L", "b"], ["L", "B", "R", "L"]),
        (
            MOCO_V3_VIT_SMALL,
            ["L", "B", "R", "L", "B", "R", "L", "b"],
            ["L", "B", "R", "L", "b"],
        ),
    ],
    ids=["resnet", "vit"],
)
def test_v3s_heads_layer_by_layer(
    recipe: Recipe, projector: list[str], predictor: list[str]
) -> None:
    def letters(head: nn.Module) -> list[str]:
        found = []
        for layer in head:
            if isinstance(layer, nn.BatchNorm1d):
                found.append("B" if layer.affine else "b")
            else:
                assert isinstance(layer, nn.Linear | nn.ReLU)
                assert getattr(layer, "bias", None) is None
                found.append(type(layer).__name__[0])
        return found

    spec = replace(recipe.encoder, head_width=8)
    assert letters(build_head(spec, 5)) == projector
    assert letters(build_predictor(spec, 5)) == predictor


def test_heads_are_as_wide_as_the_features_unless_told() -> None:
    spec = EncoderSpec(head="mlp_bn", predictor="mlp", dim=6)
    assert [build_head(spec, 5)[0].out_features, build_predictor(spec, 5)[0].out_features] == [5, 5]
    spec = replace(spec, head="mlp", head_width=9)
    assert [build_head(spec, 5)[0].out_features, build_predictor(spec, 5)[0].out_features] == [9, 9]
    assert build_predictor(EncoderSpec(), 5) is None


def test_a_vit_of_v3_is_built_for_its_images_and_freezes_its_patches() -> None:
    spec = EncoderSpec(
        backbone="moco_v3_vit_conv_small", freeze_patch_projection=True, head="mlp_bn", dim=6
    )
    for name, frozen in (("moco_v3_vit_small", 3), ("moco_v3_vit_conv_small", 1)):
        encoder = build_encoder(replace(spec, backbone=name), ViewsSpec(image_size=32))
        assert encoder(torch.randn(2, 3, 32, 32)).shape == (2, 6)
        held = [n for n, weight in encoder.named_parameters() if not weight.requires_grad]
        assert len(held) == frozen, held
    with pytest.raises(UsageError, match="multiple of"):
        build_encoder(spec, ViewsSpec(image_size=30))


def test_only_v3s_vits_freeze_their_patches() -> None:
    with pytest.raises(UsageError, match=r"freeze_patch_projection.*not 'resnet18'"):
        build_backbone(EncoderSpec(backbone="resnet18", freeze_patch_projection=True))


def test_v3s_vits_take_no_setting_of_a_resnet() -> None:
    with pytest.raises(UsageError, match="need a plain ResNet, not 'moco_v3_vit_small'"):
        build_backbone(EncoderSpec(backbone="moco_v3_vit_small", width=0.5))


def test_wide_resnet_is_a_multiple_of_every_layer() -> None:
    with torch.device("meta"):
        wide, plain = (
            build_backbone(EncoderSpec(backbone="resnet18", width=width)) for width in (2, 1)
        )
    for (name, weight), (plain_name, plain_weight) in zip(
        wide.named_parameters(), plain.named_parameters(), strict=True
    ):
        assert name == plain_name
        inputs = [3] if name == "conv1.weight" else [2 * n for n in plain_weight.shape[1:2]]
        assert list(weight.shape) == [
            2 * len(plain_weight),
            *inputs,
            *plain_weight.shape[2:],
        ], name


@pytest.mark.parametrize("zero_init_residual", [False, True])
@pytest.mark.parametrize(("name", "last"), [("resnet18", "bn2"), ("resnet50", "bn3")])
def test_residual_branches_start_at_zero_only_when_asked(
    name: str, last: str, zero_init_residual: bool
) -> None:
    spec = EncoderSpec(
        backbone=name,
        width=0.125,
        stage_blocks=(1, 2, 1, 1),
        zero_init_residual=zero_init_residual,
    )
    layers = {
        layer_name: layer
        for layer_name, layer in build_backbone(spec).named_modules()
        if isinstance(layer, nn.BatchNorm2d)
    }
    assert sum(layer_name.endswith(last) for layer_name in layers) == 5
    for layer_name, layer in layers.items():
        start = float(not (zero_init_residual and layer_name.endswith(last)))
        assert layer.weight.tolist() == [start] * layer.num_features, layer_name
        assert layer.bias.tolist() == [0.0] * layer.num_features, layer_name


@pytest.mark.parametrize(
    ("stem", "width"), [("imagenet", 1.0), ("imagenet", 0.5), ("strided", 1.0), ("small", 1.0)]
)
def test_convolutions_start_as_torchvision_s_do(stem: str, width: float) -> None:
    torch.manual_seed(0)
    backbone = build_backbone(EncoderSpec(backbone="resnet18", stem=stem, width=width))
    for name, layer in backbone.named_modules():
        if isinstance(layer, nn.Conv2d):
            assert layer.bias is None
            deviation = math.sqrt(2 / (layer.out_channels * math.prod(layer.kernel_size)))
            if name == "conv1" and stem == "small":  # the notebook's new layer has PyTorch's start
                deviation = math.sqrt(1 / (3 * 3 * math.prod(layer.kernel_size)))
            assert layer.weight.std().item() == pytest.approx(deviation, rel=0.1), name
            assert abs(layer.weight.mean().item()) < 0.2 * deviation, name


def test_only_the_linear_head_comes_after_the_features() -> None:
    head = build_encoder(replace(TINY, head="linear")).head
    assert isinstance(head, nn.Linear)
    assert head.bias is not None
    layers = list(build_encoder(replace(TINY, head="mlp")).head)
    assert [type(layer) for layer in layers] == [nn.Linear, nn.ReLU, nn.Linear]
    assert layers[0].in_features == layers[0].out_features == layers[2].in_features == 64
    assert layers[2].out_features == 6
    assert all(layer.bias is not None for layer in (layers[0], layers[2]))


@pytest.mark.parametrize("width", [0.125, 1.0])
@pytest.mark.parametrize(
    ("stem", "kernel", "stride", "side"),
    [("imagenet", 7, 2, 1), ("strided", 3, 2, 1), ("small", 3, 1, 4)],
)
def test_stems(stem: str, kernel: int, stride: int, side: int, width: float) -> None:
    spec = replace(TINY, stem=stem, width=width)
    backbone = build_backbone(spec)
    convolution = backbone.conv1
    assert isinstance(convolution, nn.Conv2d)
    assert convolution.kernel_size == (kernel, kernel)
    assert convolution.stride == (stride, stride)
    assert convolution.padding == (kernel // 2, kernel // 2)
    assert convolution.out_channels == round(64 * width)
    assert isinstance(backbone.maxpool, nn.Identity if stem == "small" else nn.MaxPool2d)
    with torch.no_grad():
        maps = backbone.forward_features(torch.randn(2, 3, 32, 32))
        assert maps.shape == (2, round(512 * width), side, side)
        assert backbone(torch.randn(2, 3, 32, 32)).shape == (2, round(512 * width))


def test_same_random_state_same_weights() -> None:
    states = []
    for seed in (0, 0, 1):
        torch.manual_seed(seed)
        states.append(build_encoder(TINY).state_dict())
    torch.testing.assert_close(dict(states[0]), dict(states[1]), rtol=0, atol=0)
    for name in ("backbone.conv1.weight", "head.weight"):
        assert not torch.equal(states[0][name], states[2][name])


def test_any_timm_model_serves() -> None:
    encoder = build_encoder(EncoderSpec(backbone="test_vit", dim=6))
    assert encoder(torch.randn(2, 3, 160, 160)).shape == (2, 6)


def test_features_are_counted_before_a_classifier_s_hidden_layer() -> None:
    name = "mobilenetv3_small_050"  # its num_features are not what comes out
    encoder = build_encoder(EncoderSpec(backbone=name, dim=6)).eval()
    with torch.no_grad():
        assert encoder(torch.randn(1, 3, 32, 32)).shape == (1, 6)


def test_the_paper_s_resnext_is_a_near_name_too() -> None:
    with pytest.raises(UsageError, match="did you mean resnext50_32x8d"):
        build_encoder(EncoderSpec(backbone="resnext50_32x8"))


@pytest.mark.parametrize("typed", ["resnet5", "resnt50", "ResNet50", "resnet_50"])
def test_an_unknown_model_is_answered_with_a_near_name(typed: str) -> None:
    with pytest.raises(UsageError, match=f"timm has no model '{typed}'") as caught:
        build_encoder(EncoderSpec(backbone=typed))
    assert re.search(r"did you mean .*\bresnet50\b", str(caught.value))


def test_a_name_near_to_none_is_answered_with_where_to_look() -> None:
    with pytest.raises(UsageError, match="list_models"):
        build_encoder(EncoderSpec(backbone="zzzzzzzzzzzz"))


@pytest.mark.parametrize(
    "change", [{"stem": "small"}, {"width": 2.0}, {"stage_blocks": (1, 1, 1, 1)}]
)
@pytest.mark.parametrize("name", ["test_vit", "test_efficientnet"])
def test_settings_that_only_resnets_have_are_refused_for_others(
    name: str, change: dict[str, object]
) -> None:
    with pytest.raises(UsageError, match=f"need a plain ResNet.* not '{name}'"):
        build_encoder(replace(EncoderSpec(backbone=name), **change))


def test_a_resnet_with_another_norm_is_built_and_refuses_widths_that_its_norm_does_not_divide() -> (
    None
):
    name = "resnet50_gn"
    with torch.device("meta"):
        for stem in ("imagenet", "small"):
            assert (
                build_encoder(EncoderSpec(backbone=name, stem=stem)).backbone.num_features == 2048
            )
        with pytest.raises(UsageError, match=rf"encoder\.width .* not '{name}'"):
            build_encoder(EncoderSpec(backbone=name, width=0.5))


def test_stored_pixels_are_normalized_and_numbers_are_taken_as_they_are() -> None:
    torch.manual_seed(0)
    views = ViewsSpec(mean=(0.1, 0.2, 0.3), std=(0.5, 0.25, 2.0))
    encoder = build_encoder(replace(TINY, stem="small"), views)
    pixels = torch.randint(256, (4, 3, 8, 8), dtype=torch.uint8)
    by_hand = torch.stack(
        [(pixels[:, c] / 255 - views.mean[c]) / views.std[c] for c in range(3)], dim=1
    )
    torch.testing.assert_close(encoder(pixels), encoder(by_hand))
    assert not torch.allclose(encoder(pixels), encoder(pixels / 255))


def test_lower_precision_gives_float32_embeddings_and_gradients() -> None:
    torch.manual_seed(0)
    encoder = build_encoder(replace(TINY, stem="small", head="mlp"))
    encoder.precision = torch.bfloat16
    seen: list[torch.dtype] = []

    def see(_layer: nn.Module, _inputs: object, output: Tensor) -> None:
        seen.append(output.dtype)

    encoder.head.register_forward_hook(see)
    embedding = encoder(torch.randn(4, 3, 8, 8))
    embedding.square().sum().backward()
    assert seen == [torch.bfloat16]
    assert embedding.dtype == torch.float32
    assert {weight.dtype for weight in encoder.parameters()} == {torch.float32}
    assert {weight.grad.dtype for weight in encoder.parameters()} == {torch.float32}


def test_torchvision_names_are_timm_s() -> None:
    with torch.device("meta"):
        model = timm.create_model("resnet50", pretrained=False)
        assert shapes(model) == shapes(torchvision.models.resnet50())
