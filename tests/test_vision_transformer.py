from __future__ import annotations

import dataclasses
import math
import re
from dataclasses import replace

import pytest
import timm
import torch
from torch import Tensor, nn

from moco.batch_norm import GroupedBatchNorm, group_batch_norm
from moco.encoders import parameter_count
from moco.errors import UsageError
from moco.vision_transformer import MOCO_V3_VITS, ConvStem, build_moco_v3_vit, sin_cos_positions

TINY = replace(MOCO_V3_VITS["moco_v3_vit_small"], width=96, depth=2)
SHALLOW = replace(MOCO_V3_VITS["moco_v3_vit_small"], depth=1)
FROZEN_PROJECTION = {"patch_embed.proj.weight", "patch_embed.proj.bias"}
STEM_STEPS = [(3, 48), (48, 96), (96, 192), (192, 384)]  # of the conv ViT-S, channels in and out


@pytest.fixture(autouse=True)
def _small_copies(monkeypatch: pytest.MonkeyPatch) -> None:
    for name, shape in (("tiny", TINY), ("shallow", SHALLOW)):
        monkeypatch.setitem(MOCO_V3_VITS, name, shape)
        monkeypatch.setitem(MOCO_V3_VITS, f"{name}_conv", replace(shape, stem="conv"))


def shapes(module: nn.Module) -> dict[str, torch.Size]:
    return {name: value.shape for name, value in module.state_dict().items()}


def without_gradient(module: nn.Module) -> set[str]:
    return {name for name, weight in module.named_parameters() if not weight.requires_grad}


def assert_uniform(weight: Tensor, bound: float) -> None:
    """Both edges are nearly reached and never passed; spread and centre are the uniform one's."""
    assert -bound <= weight.min().item() < -0.98 * bound
    assert 0.98 * bound < weight.max().item() <= bound
    assert weight.std().item() == pytest.approx(bound / math.sqrt(3), rel=0.03)
    assert abs(weight.mean().item()) < 0.03 * bound


def position_table(rows: int, columns: int, width: int) -> list[list[float]]:
    """ALGORITHM.md, section 5, as one loop per letter."""
    table = [[0.0] * width]
    for row in range(rows):
        for column in range(columns):
            entry = [0.0] * width
            for d in range(width // 4):
                omega = 1 / 10000 ** (d / (width / 4))
                entry[d] = math.sin(row * omega)
                entry[width // 4 + d] = math.cos(row * omega)
                entry[width // 2 + d] = math.sin(column * omega)
                entry[3 * width // 4 + d] = math.cos(column * omega)
            table.append(entry)
    return table


@pytest.mark.parametrize(
    ("name", "blocks", "count"),
    [
        ("moco_v3_vit_small", 12, 21_665_664),
        ("moco_v3_vit_base", 12, 85_798_656),
        ("moco_v3_vit_conv_small", 11, 20_617_392),
        ("moco_v3_vit_conv_base", 11, 82_199_904),
    ],
)
def test_sizes_of_the_paper(name: str, blocks: int, count: int) -> None:
    transformer = build_moco_v3_vit(name)
    assert parameter_count(transformer) == count  # the fixed positions counted
    assert len(transformer.blocks) == blocks
    assert {block.attn.num_heads for block in transformer.blocks} == {12}
    norms = [layer for layer in transformer.modules() if isinstance(layer, nn.LayerNorm)]
    assert {norm.eps for norm in norms} == {1e-6}
    assert len(norms) == 2 * blocks + 1


def test_shapes_are_values_that_cannot_change() -> None:
    with pytest.raises(dataclasses.FrozenInstanceError):
        TINY.width = 3  # type: ignore[misc]


def both_features(
    name: str, timm_name: str, image_size: int, **options: int
) -> tuple[Tensor, Tensor]:
    """Return what `name` and timm's model with its weights make of the same two images."""
    torch.manual_seed(0)
    ours = build_moco_v3_vit(name, image_size=image_size).double().eval()
    theirs = timm.create_model(
        timm_name, num_classes=0, img_size=image_size, weight_init="skip", **options
    )
    theirs.double().eval()
    with torch.no_grad():
        for weight in ours.parameters():  # so that no norm is the identity and no bias is zero
            weight.add_(torch.randn_like(weight), alpha=0.02)
        theirs.load_state_dict(ours.state_dict(), strict=True)
        view = torch.randn(2, 3, image_size, image_size, dtype=torch.float64)
        return ours(view), theirs(view)


def test_vit_small_s_weights_load_into_timm_s_and_give_its_features() -> None:
    ours, theirs = both_features("moco_v3_vit_small", "vit_small_patch16_224", 64, num_heads=12)
    assert ours.shape == (2, 384)
    torch.testing.assert_close(ours, theirs, rtol=0, atol=1e-9)


def test_vit_base_s_weights_load_into_timm_s_and_give_its_features(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    shallow_base = replace(MOCO_V3_VITS["moco_v3_vit_base"], depth=2)
    monkeypatch.setitem(MOCO_V3_VITS, "moco_v3_vit_base", shallow_base)
    ours, theirs = both_features("moco_v3_vit_base", "vit_base_patch16_224", 48, depth=2)
    assert ours.shape == (2, 768)
    torch.testing.assert_close(ours, theirs, rtol=0, atol=1e-9)


@pytest.mark.parametrize(("options", "equal"), [({"num_heads": 12}, True), ({}, False)])
def test_timm_s_own_heads_give_vit_small_s_weights_other_features(
    options: dict[str, int], equal: bool
) -> None:
    ours, theirs = both_features("shallow", "vit_small_patch16_224", 48, depth=1, **options)
    difference = (ours - theirs).abs().max().item()
    assert difference < 1e-9 if equal else difference > 0.01


def test_timm_s_own_vit_small_has_6_heads_and_the_same_names_and_shapes() -> None:
    theirs = timm.create_model("vit_small_patch16_224", num_classes=0)
    assert theirs.blocks[0].attn.num_heads == 6
    assert shapes(build_moco_v3_vit("moco_v3_vit_small")) == shapes(theirs)


@pytest.mark.parametrize(
    ("rows", "columns", "width"), [(14, 14, 384), (3, 5, 16), (5, 3, 16), (1, 1, 4), (28, 2, 768)]
)
def test_positions_are_the_formula_s(rows: int, columns: int, width: int) -> None:
    table = sin_cos_positions(rows, columns, width)
    assert table.dtype == torch.float32
    expected = torch.tensor([position_table(rows, columns, width)], dtype=torch.float64)
    assert table.shape == (1, 1 + rows * columns, width)
    torch.testing.assert_close(table.double(), expected, rtol=0, atol=1e-7)


def test_positions_go_row_by_row_with_the_row_first() -> None:
    class_token, *patches = sin_cos_positions(3, 5, 16)[0]
    assert class_token.tolist() == [0.0] * 16
    for number, patch in enumerate(patches):
        row, column = divmod(number, 5)
        # the first frequency is 1: channel 0 is the row's sine, half the width on the column's
        assert patch[0].item() == pytest.approx(math.sin(row), abs=1e-6)
        assert patch[8].item() == pytest.approx(math.sin(column), abs=1e-6)


@pytest.mark.parametrize("name", ["tiny", "tiny_conv"])
def test_the_model_s_positions_are_the_table_behind_a_class_token(name: str) -> None:
    transformer = build_moco_v3_vit(name, image_size=48)
    assert isinstance(transformer.pos_embed, nn.Parameter)
    assert torch.equal(transformer.pos_embed, sin_cos_positions(3, 3, 96))
    assert not transformer.no_embed_class  # else timm adds no row for the class token
    tokens = transformer._pos_embed(torch.zeros(1, 9, 96))
    torch.testing.assert_close(tokens, transformer.pos_embed.detach(), rtol=0, atol=1e-4)


@pytest.mark.parametrize("name", ["tiny", "tiny_conv"])
def test_tokens_of_an_image_go_row_by_row(name: str) -> None:
    stem = build_moco_v3_vit(name, image_size=48).patch_embed.eval()
    view = torch.randn(2, 3, 48, 48)
    maps = stem.proj(view)
    assert maps.shape == (2, 96, 3, 3)
    for row in range(3):
        for column in range(3):
            assert torch.equal(stem(view)[:, 3 * row + column], maps[:, :, row, column])


@pytest.mark.parametrize(
    ("name", "freeze", "expected"),
    [
        ("tiny", False, {"pos_embed"}),
        ("tiny", True, {"pos_embed"} | FROZEN_PROJECTION),
        ("tiny_conv", False, {"pos_embed"}),
        ("tiny_conv", True, {"pos_embed"}),
    ],
)
def test_gradients_reach_all_but_what_is_fixed(name: str, freeze: bool, expected: set[str]) -> None:
    torch.manual_seed(0)
    transformer = build_moco_v3_vit(name, image_size=32, freeze_patch_projection=freeze)
    assert without_gradient(transformer) == expected
    # a random direction: the final norm makes the sum of squares a constant
    features = transformer(torch.randn(4, 3, 32, 32))
    (features * torch.randn_like(features)).sum().backward()
    for parameter, weight in transformer.named_parameters():
        if parameter in expected:
            assert weight.grad is None, parameter
        else:
            assert weight.grad is not None, parameter
            assert weight.grad.abs().max() > 0, parameter


def test_the_class_token_comes_out_after_the_final_norm() -> None:
    transformer = build_moco_v3_vit("tiny", image_size=32).eval()
    with torch.no_grad():
        features = transformer(torch.randn(4, 3, 32, 32))
        torch.testing.assert_close(features.mean(dim=1), torch.zeros(4), rtol=0, atol=1e-5)
        torch.testing.assert_close(features.var(dim=1, correction=0), torch.ones(4))
        transformer.norm.bias.fill_(7.0)
        transformer.norm.weight.zero_()
        assert torch.equal(transformer(torch.randn(2, 3, 32, 32)), torch.full((2, 96), 7.0))


@pytest.mark.parametrize("name", ["shallow", "shallow_conv"])
def test_linear_layers_start_xavier_uniform_with_q_k_and_v_apart(name: str) -> None:
    torch.manual_seed(0)
    transformer = build_moco_v3_vit(name, image_size=32)
    bounds = {
        "attn.qkv": math.sqrt(6 / (384 + 384)),
        "attn.proj": math.sqrt(6 / (384 + 384)),
        "mlp.fc1": math.sqrt(6 / (384 + 1536)),
        "mlp.fc2": math.sqrt(6 / (1536 + 384)),
    }
    layers = {
        name.removeprefix("blocks.0."): layer
        for name, layer in transformer.named_modules()
        if isinstance(layer, nn.Linear)
    }
    assert layers.keys() == bounds.keys()
    for name, layer in layers.items():
        for weight in layer.weight.chunk(3 if name == "attn.qkv" else 1):
            assert_uniform(weight, bounds[name])
        assert not layer.bias.any(), name


def test_patch_projection_class_token_and_norms_at_the_start() -> None:
    torch.manual_seed(0)
    transformer = build_moco_v3_vit("shallow", image_size=32, freeze_patch_projection=True)
    assert_uniform(transformer.patch_embed.proj.weight, math.sqrt(6 / (3 * 16 * 16 + 384)))
    assert not transformer.patch_embed.proj.bias.any()
    assert transformer.cls_token.std().item() == pytest.approx(1e-6, rel=0.15)
    assert abs(transformer.cls_token.mean().item()) < 3e-7
    for layer in transformer.modules():
        if isinstance(layer, nn.LayerNorm):
            assert (layer.weight == 1).all()
            assert not layer.bias.any()


def test_conv_stem_has_the_papers_layers_and_names() -> None:
    names = shapes(build_moco_v3_vit("shallow_conv"))
    expected: dict[str, tuple[int, ...]] = {}
    for step, (inputs, outputs) in enumerate(STEM_STEPS):
        expected[f"{3 * step}.weight"] = (outputs, inputs, 3, 3)
        for entry in ("weight", "bias", "running_mean", "running_var"):
            expected[f"{3 * step + 1}.{entry}"] = (outputs,)
        expected[f"{3 * step + 1}.num_batches_tracked"] = ()
    expected |= {"12.weight": (384, 384, 1, 1), "12.bias": (384,)}
    prefix = "patch_embed.proj."
    stem = {name: tuple(size) for name, size in names.items() if name.startswith("patch_embed")}
    assert stem == {prefix + name: size for name, size in expected.items()}


def test_conv_stem_halves_the_image_four_times_and_starts_as_pytorch_does() -> None:
    torch.manual_seed(0)
    stem = build_moco_v3_vit("shallow_conv", image_size=48).patch_embed
    assert isinstance(stem, ConvStem)
    assert stem.proj[:12](torch.randn(2, 3, 48, 48)).min() == 0  # the last of them is a ReLU
    kinds = [nn.Conv2d, nn.BatchNorm2d, nn.ReLU] * 4 + [nn.Conv2d]
    assert [type(layer) for layer in stem.proj] == kinds
    for layer in stem.proj[1:12:3]:
        assert (layer.weight == 1).all()
        assert not layer.bias.any()
    for layer in stem.proj[:12:3]:
        assert (layer.stride, layer.padding) == ((2, 2), (1, 1))
    for layer in stem.proj[::3]:
        bound = 1 / math.sqrt(layer.in_channels * math.prod(layer.kernel_size))
        assert bound >= layer.weight.abs().max().item() > 0.97 * bound
        assert layer.weight.std().item() == pytest.approx(bound / math.sqrt(3), rel=0.05)
    last = stem.proj[12]
    assert last.bias.std().item() == pytest.approx(1 / math.sqrt(3 * 384), rel=0.15)


def test_batch_norms_of_the_conv_stem_can_be_put_into_groups() -> None:
    torch.manual_seed(0)
    transformer = build_moco_v3_vit("tiny_conv", image_size=32)
    view = torch.randn(4, 3, 32, 32)
    halves = torch.cat([transformer(view[:2]), transformer(view[2:])])
    group_batch_norm(transformer, groups=2)
    grouped = [layer for layer in transformer.modules() if isinstance(layer, GroupedBatchNorm)]
    assert len(grouped) == 4
    torch.testing.assert_close(transformer(view), halves, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("name", ["tiny", "tiny_conv"])
@pytest.mark.parametrize("image_size", [16, 32, 96, 240])
def test_any_multiple_of_the_patch_size_serves(name: str, image_size: int) -> None:
    transformer = build_moco_v3_vit(name, image_size=image_size).eval()
    tokens = 1 + (image_size // 16) ** 2
    assert transformer.pos_embed.shape == (1, tokens, 96)
    with torch.no_grad():
        view = torch.randn(2, 3, image_size, image_size)
        assert transformer.forward_features(view).shape == (2, tokens, 96)
        assert transformer(view).shape == (2, 96)


@pytest.mark.parametrize("name", ["tiny", "tiny_conv"])
def test_same_random_state_same_weights(name: str) -> None:
    states = []
    for seed in (0, 0, 1):
        torch.manual_seed(seed)
        states.append(build_moco_v3_vit(name, image_size=32).state_dict())
    torch.testing.assert_close(dict(states[0]), dict(states[1]), rtol=0, atol=0)
    assert torch.equal(states[0]["pos_embed"], states[2]["pos_embed"])
    for drawn in ("cls_token", "patch_embed.proj.0.weight", "blocks.1.mlp.fc2.weight"):
        weight = drawn if drawn in states[0] else "patch_embed.proj.weight"
        assert not torch.equal(states[0][weight], states[2][weight])


def test_an_unknown_name_is_answered_with_the_names() -> None:
    with pytest.raises(UsageError, match="no vision transformer 'vit_small'") as caught:
        build_moco_v3_vit("vit_small")
    for name in MOCO_V3_VITS:
        assert re.search(rf"\b{name}\b", str(caught.value))


@pytest.mark.parametrize(
    ("image_size", "remedy"),
    [(225, "224 or 240"), (40, "32 or 48"), (15, "16 or 32"), (0, "16 or 32"), (-16, "16 or 32")],
)
def test_an_image_that_does_not_split_into_patches_is_refused(image_size: int, remedy: str) -> None:
    message = f"patch size 16, got {image_size}; take {remedy}"
    with pytest.raises(UsageError, match=message) as caught:
        build_moco_v3_vit("tiny", image_size=image_size)
    assert isinstance(caught.value, ValueError)


def test_a_width_that_does_not_split_into_four_is_refused() -> None:
    with pytest.raises(UsageError, match="multiple of 4 to hold positions, got 6; take 8"):
        sin_cos_positions(2, 2, 6)
