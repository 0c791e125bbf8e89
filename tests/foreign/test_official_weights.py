"""Official MoCo checkpoints: every tensor used, features equal, anything else refused by name."""

from __future__ import annotations

from pathlib import Path

import official_files as made
import pytest
import torch
import torchvision
from torch import Tensor, nn

from moco.encoders import build_backbone, build_encoder, build_predictor, feature_count
from moco.errors import CheckpointError, UsageError
from moco.foreign import ForeignWeights, read_foreign
from moco.foreign.architecture import find_resnet
from moco.specs import EncoderSpec


def features(weights: ForeignWeights, images: Tensor) -> Tensor:
    """Return [N, D] of the network that the weights are loaded into, strictly."""
    encoder = build_encoder(weights.encoder, weights.views).eval()
    encoder.backbone.load_state_dict(weights.backbone, strict=True)
    with torch.no_grad():
        return encoder.backbone(images)  # type: ignore[no-any-return]


def embeddings(weights: ForeignWeights, rows: Tensor) -> Tensor:
    encoder = build_encoder(weights.encoder, weights.views).eval()
    encoder.head.load_state_dict(weights.head, strict=True)
    with torch.no_grad():
        return encoder.head(rows)  # type: ignore[no-any-return]


def pictures(side: int = 64, channels: int = 3) -> Tensor:
    """Return images whose channels differ, so that their order counts."""
    return torch.randn(2, channels, side, side) * torch.arange(1, channels + 1)[:, None, None]


@pytest.mark.parametrize(("version", "old"), [(1, True), (2, False)])
def test_v1_and_v2_are_read_whole(tmp_path: Path, version: int, old: bool) -> None:
    backbone = made.torchvision_resnet("resnet18")
    head: nn.Module = nn.Linear(512, 128)
    if version == 2:
        head = nn.Sequential(nn.Linear(512, 512), nn.ReLU(), head)
    state = made.official_queue_state(backbone, head)
    optimizer = {"state": {}, "param_groups": [{"lr": 0.03, "params": [0]}]}
    file = made.save(tmp_path / "checkpoint.pth.tar", state, old=old, optimizer=optimizer)
    weights = read_foreign(file)
    assert weights.kind == f"official-v{version}"
    assert set(weights.used) == set(state)
    assert (weights.ignored, weights.missing) == ((), ())
    images = pictures()
    assert torch.equal(features(weights, images), backbone(images))
    rows = torch.randn(3, 512)
    assert torch.equal(embeddings(weights, rows), head(rows))
    key = weights.key_backbone["layer4.1.bn2.running_var"]
    assert torch.equal(key, state["module.encoder_k.layer4.1.bn2.running_var"])
    assert set(weights.key_head) == set(weights.head)
    assert weights.queue is not None
    assert torch.equal(weights.queue, state["module.queue"].T)
    assert (weights.queue_next, weights.epoch, weights.optimizer) == (32, 200, optimizer)


@pytest.mark.parametrize(
    "spec",
    [
        EncoderSpec(backbone="resnet18"),
        EncoderSpec(backbone="resnet34", width=0.5),
        EncoderSpec(backbone="resnet50"),
        EncoderSpec(backbone="resnet50", width=2),
        EncoderSpec(backbone="resnet50", width=4),
        EncoderSpec(backbone="resnet101"),
        EncoderSpec(backbone="resnet152"),
        EncoderSpec(backbone="resnext50_32x8d"),
        EncoderSpec(backbone="resnext50_32x4d"),
        EncoderSpec(backbone="wide_resnet50_2"),
        EncoderSpec(backbone="resnet18", stage_blocks=(1, 1, 1, 1)),
    ],
    ids=lambda spec: f"{spec.backbone}-{spec.width}",
)
def test_the_resnet_is_found_by_its_shapes(spec: EncoderSpec) -> None:
    with torch.device("meta"):
        tensors = build_backbone(spec).state_dict()
    assert find_resnet(tensors, None) == spec
    for name in ("conv1.weight", "layer1.0.conv1.weight", "layer2.0.conv2.weight"):
        some = {other: value for other, value in tensors.items() if other != name}
        assert find_resnet(some, None) == spec, "one missing tensor must not make it another"


def test_a_stem_that_no_shape_tells_is_asked_about(tmp_path: Path) -> None:
    backbone = made.torchvision_resnet()
    backbone.conv1 = nn.Conv2d(3, 64, 3, stride=2, padding=1, bias=False)
    file = made.save(tmp_path / "file.pth.tar", made.under("module.encoder_q.", backbone))
    with pytest.raises(UsageError, match=r"--stem small .* or --stem strided"):
        read_foreign(file)
    weights = read_foreign(file, stem="strided")
    images = pictures()
    assert torch.equal(features(weights, images), backbone(images))


def test_v3_resnet_with_head_and_predictor(tmp_path: Path) -> None:
    backbone = made.torchvision_resnet("resnet50")
    head = made.mlp([2048, 96, 32], last_batch_norm=True)
    predictor = made.mlp([32, 96, 32], last_batch_norm=False)
    state = made.official_v3_state(backbone, head, predictor, of_head="fc")
    weights = read_foreign(made.save(tmp_path / "r-50.pth.tar", state))
    assert weights.kind == "official-v3"
    assert set(weights.used) == set(state)
    images = pictures()
    assert torch.equal(features(weights, images), backbone(images))
    assert torch.equal(embeddings(weights, torch.ones(2, 2048)), head.eval()(torch.ones(2, 2048)))
    ours = build_predictor(weights.encoder, 2048)
    assert ours is not None
    ours.load_state_dict(weights.predictor, strict=True)


@pytest.mark.parametrize(
    ("width", "depth", "conv", "name"),
    [
        (384, 12, False, "moco_v3_vit_small"),
        pytest.param(768, 12, False, "moco_v3_vit_base", marks=pytest.mark.slow),
        pytest.param(384, 11, True, "moco_v3_vit_conv_small", marks=pytest.mark.slow),
    ],
)
def test_v3_transformers_have_12_heads(
    tmp_path: Path, width: int, depth: int, conv: bool, name: str
) -> None:
    backbone = made.moco_v3_transformer(width, depth, conv=conv)
    head = made.mlp([width, 96, 96, 32], last_batch_norm=True)
    predictor = made.mlp([32, 96, 32], last_batch_norm=True)
    state = made.official_v3_state(backbone, head, predictor, of_head="head")
    weights = read_foreign(made.save(tmp_path / "vit.pth.tar", state, arch="vit_small"))
    assert (weights.encoder.backbone, weights.encoder.head_layers) == (name, 3)
    assert weights.encoder.predictor == "mlp_bn"
    assert set(weights.used) == set(state)
    images = pictures(224)
    assert torch.allclose(features(weights, images), backbone(images), atol=1e-5)


def test_a_small_transformer_of_unknown_heads_is_asked_about(tmp_path: Path) -> None:
    """SSL4EO-S12 trained one with 6 heads, and its file has official v3's names."""
    backbone = made.moco_v3_transformer(384)
    state = made.under("module.base_encoder.", backbone)
    name = "module.base_encoder.patch_embed.proj.weight"
    state[name] = torch.randn(384, 13, 16, 16)
    file = made.save(tmp_path / "vits16.pth.tar", state)
    with pytest.raises(
        UsageError, match="--backbone moco_v3_vit_small or --backbone vit_small_pat"
    ):
        read_foreign(file)
    assert read_foreign(file, backbone="vit_small_patch16_224").channels == 13


def test_the_notebook_of_cifar(tmp_path: Path) -> None:
    network = made.notebook_network()
    state = made.notebook_state(network)
    weights = read_foreign(made.save(tmp_path / "model_last.pth", state))
    assert (weights.kind, weights.encoder.stem) == ("official-cifar", "small")
    assert weights.views.evaluation_size == 32
    assert set(weights.used) == set(state)
    images = pictures(32)
    assert torch.equal(features(weights, images), network[:-1](images))
    assert torch.equal(embeddings(weights, torch.ones(2, 512)), network[-1](torch.ones(2, 512)))


def test_a_linear_classifier_keeps_its_backbone(tmp_path: Path) -> None:
    network = torchvision.models.resnet18()
    file = made.save(
        tmp_path / "model_best.pth.tar", made.under("module.", network), best_acc1=torch.tensor([6])
    )
    weights = read_foreign(file)
    assert weights.kind == "official-linear"
    assert weights.ignored == ("module.fc.weight", "module.fc.bias")
    assert len(weights.used) == len(network.state_dict()) - 2


@pytest.fixture
def state() -> dict[str, Tensor]:
    return made.official_queue_state(made.torchvision_resnet(), nn.Linear(512, 128))


def refused(tmp_path: Path, state: dict[str, Tensor], reason: str) -> None:
    with pytest.raises(CheckpointError, match=reason):
        read_foreign(made.save(tmp_path / "file.pth.tar", state))


@pytest.mark.parametrize("part", ["encoder_q", "encoder_k"])
def test_a_renamed_key_is_refused_by_name(
    tmp_path: Path, state: dict[str, Tensor], part: str
) -> None:
    name = f"module.{part}.layer3.0.bn2.running_var"
    state[f"{name}_"] = state.pop(name)
    refused(tmp_path, state, rf"lacks {name}; it has also {name}_$")


@pytest.mark.parametrize(
    "name",
    [
        "encoder_q.conv1.weight",
        "encoder_q.layer1.0.conv2.weight",
        "encoder_k.fc.bias",
        "encoder_q.layer4.1.bn1.bias",
    ],
)
def test_a_missing_key_is_refused_by_name(
    tmp_path: Path, state: dict[str, Tensor], name: str
) -> None:
    del state[f"module.{name}"]
    refused(tmp_path, state, rf"lacks module\.{name}$")


def test_a_wrong_shape_is_refused_by_name(tmp_path: Path, state: dict[str, Tensor]) -> None:
    name = "module.encoder_q.layer2.0.downsample.0.weight"
    state[name] = state[name][:, :9]
    refused(tmp_path, state, rf"{name} of shape \[128, 9, 1, 1\] in place of \[128, 64, 1, 1\]")


def test_unknown_keys_are_refused_by_name(tmp_path: Path, state: dict[str, Tensor]) -> None:
    refused(tmp_path, state | {"module.extra": torch.ones(1)}, r"has no module\.extra;")


def test_a_file_of_nothing_is_refused(tmp_path: Path) -> None:
    refused(tmp_path, {}, "none of the layouts .*its tensors: none")
    refused(tmp_path, {"module.encoder_q.fc.weight": torch.ones(2, 2)}, "holds nothing of")


def test_old_files_may_lack_batch_norms_counters(tmp_path: Path, state: dict[str, Tensor]) -> None:
    name = "module.encoder_q.bn1.num_batches_tracked"
    del state[name]
    weights = read_foreign(made.save(tmp_path / "file.pth.tar", state))
    assert weights.missing == (name,)
    assert weights.backbone["bn1.num_batches_tracked"] == 0


def test_features_are_counted(tmp_path: Path, state: dict[str, Tensor]) -> None:
    weights = read_foreign(made.save(tmp_path / "file.pth.tar", state))
    assert feature_count(build_encoder(weights.encoder).backbone) == 512
