"""Files of other projects: every tensor of the backbone used, and its network's own features."""

from __future__ import annotations

import pickle
import re
import sys
import types
from pathlib import Path
from typing import Any

import numpy as np
import official_files as made
import pytest
import timm
import torch
import torchvision
from safetensors.torch import save_file
from test_official_weights import embeddings, features, pictures
from torch import Tensor, nn

from moco.errors import CheckpointError, UsageError
from moco.foreign import read_foreign
from moco.foreign.architecture import find_transformer
from moco.vision_transformer import sin_cos_positions


@pytest.fixture
def lightning(monkeypatch: pytest.MonkeyPatch) -> dict[str, Any]:
    """What Lightning and others leave in a checkpoint: objects of their own classes, too."""
    made_of = {}
    for name, kind in (("omegaconf", "DictConfig"), ("mmengine", "HistoryBuffer")):
        module = types.ModuleType(name)
        made_of[kind] = type(kind, (), {"__module__": name})
        setattr(module, kind, made_of[kind])
        monkeypatch.setitem(sys.modules, name, module)
    settings, history = made_of["DictConfig"](), made_of["HistoryBuffer"]()
    settings.content, history.values = {"lr": 0.3}, torch.arange(4).numpy()
    return {
        "epoch": 10,
        "global_step": 990,
        "pytorch-lightning_version": "2.5.0",
        "hyper_parameters": settings,
        "callbacks": {"ModelCheckpoint": {"best_model_score": torch.tensor(1.0)}},
        "message_hub": {"log_scalars": {"train/loss": history}},
    }


def two_layers() -> nn.Sequential:
    return nn.Sequential(nn.Linear(512, 512), nn.ReLU(), nn.Linear(512, 32)).eval()


def twice(state: dict[str, Tensor], names: dict[str, str]) -> dict[str, Tensor]:
    """Return a state with a key encoder: other numbers, names' beginnings turned."""
    keys = {}
    for name, value in state.items():
        for begin, other in names.items():
            if name.startswith(begin):
                moved = value * 0.9 if value.is_floating_point() else value
                keys[other + name.removeprefix(begin)] = moved
    return state | keys


def test_lightly_as_its_example_saves_it(tmp_path: Path, lightning: dict[str, Any]) -> None:
    network = torchvision.models.resnet18()
    made.stirred(network)
    backbone, head = nn.Sequential(*list(network.children())[:-1]), two_layers()
    state = made.under("backbone.", backbone) | made.under("projection_head.layers.", head)
    state = twice(
        state,
        {
            "backbone.": "backbone_momentum.",
            "projection_head.": "projection_head_momentum.",
        },
    )
    bank = torch.randn(32, 64)
    state |= {"criterion.memory_bank.bank": bank}
    state |= {"criterion.memory_bank.bank_ptr": torch.tensor([8])}
    weights = read_foreign(made.save(tmp_path / "last.ckpt", state, **lightning))
    assert (weights.kind, weights.epoch, weights.optimizer) == ("lightly", 10, None)
    assert set(weights.used) == set(state)
    images = pictures()
    assert torch.equal(features(weights, images), backbone(images).flatten(1))
    assert torch.equal(embeddings(weights, torch.ones(2, 512)), head(torch.ones(2, 512)))
    assert weights.queue is not None
    assert torch.equal(weights.queue, bank.T)
    assert weights.queue_next == 8
    key = state["backbone_momentum.7.1.bn2.running_mean"]
    assert torch.equal(weights.key_backbone["layer4.1.bn2.running_mean"], key)


def test_lightly_as_its_benchmark_saves_it(tmp_path: Path) -> None:
    backbone = made.torchvision_resnet()
    head = two_layers()
    state = made.under("backbone.", backbone) | made.under("projection_head.layers.", head)
    state = twice(state, {"backbone.": "key_backbone.", "projection_head.": "key_projection_head."})
    state["online_classifier.linear.weight"] = torch.ones(10, 512)
    weights = read_foreign(made.save(tmp_path / "last.ckpt", state))
    assert weights.ignored == ("online_classifier.linear.weight",)
    assert set(weights.used) | set(weights.ignored) == set(state)
    images = pictures()
    assert torch.equal(features(weights, images), backbone(images))


def test_a_head_with_batch_norm_of_other_kind_is_left_out(tmp_path: Path) -> None:
    backbone = made.torchvision_resnet()
    layers = [nn.Linear(512, 64, bias=False), nn.BatchNorm1d(64), nn.ReLU()]
    head = nn.Sequential(*layers, nn.Linear(64, 32, bias=False), nn.BatchNorm1d(32))
    state = made.under("backbone.", backbone) | made.under("projection_head.layers.", head)
    weights = read_foreign(made.save(tmp_path / "last.ckpt", state))
    assert weights.head == {}
    assert len(weights.ignored) == len(head.state_dict())
    assert weights.notes[-1] == "its head is none that this library has: left out"


def test_lightlys_own_resnet_is_refused(tmp_path: Path) -> None:
    """Its Sequential has no ReLU behind the first batch norm: equal shapes, other features."""
    stages = [
        module
        for name, module in torchvision.models.resnet18().named_children()
        if name.startswith("layer")
    ]
    stem = [nn.Conv2d(3, 64, 3, padding=1, bias=False), nn.BatchNorm2d(64)]
    state = made.under("backbone.", nn.Sequential(*stem, *stages))
    with pytest.raises(CheckpointError, match="leaves out the ReLU"):
        read_foreign(made.save(tmp_path / "last.ckpt", state), stem="small")


@pytest.mark.parametrize("name", ["backbone", "encoder"])
def test_solo_learn(tmp_path: Path, lightning: dict[str, Any], name: str) -> None:
    backbone, head = made.torchvision_resnet(), two_layers()
    state = made.under(f"{name}.", backbone) | made.under("projector.", head)
    state |= made.under("classifier.", nn.Linear(512, 10))
    state = twice(
        state,
        {
            f"{name}.": f"momentum_{name}.",
            "projector.": "momentum_projector.",
            "classifier.": "momentum_classifier.",
        },
    )
    state |= {"queue": torch.randn(2, 32, 64), "queue_ptr": torch.tensor([0])}
    weights = read_foreign(made.save(tmp_path / "ep=10.ckpt", state, **lightning))
    assert (weights.kind, weights.queue) == ("solo-learn", None)
    assert {part.partition(".")[0] for part in weights.ignored} == {
        *("classifier", "momentum_classifier", "queue", "queue_ptr")
    }
    images = pictures()
    assert torch.equal(features(weights, images), backbone(images))
    assert torch.equal(embeddings(weights, torch.ones(2, 512)), head(torch.ones(2, 512)))


def test_solo_learns_resnet_for_cifar_is_refused(tmp_path: Path) -> None:
    backbone = made.torchvision_resnet()
    backbone.conv1 = nn.Conv2d(3, 64, 3, padding=2, bias=False)
    state = made.under("backbone.", backbone) | made.under("projector.", two_layers())
    with pytest.raises(CheckpointError, match="pads its first convolution by 2 pixels"):
        read_foreign(made.save(tmp_path / "x.ckpt", state), stem="small")


def test_solo_learns_moco_v3_has_12_heads(tmp_path: Path) -> None:
    backbone = made.moco_v3_transformer(384)
    state = made.under("backbone.", backbone)
    state |= made.under("projector.", made.mlp([384, 64, 64, 32], last_batch_norm=True))
    state |= made.under("predictor.", made.mlp([32, 64, 32], last_batch_norm=True))
    weights = read_foreign(made.save(tmp_path / "x.ckpt", state))
    assert weights.encoder.backbone == "moco_v3_vit_small"
    state["backbone.pos_embed"] = torch.randn(1, 197, 384)  # learned ones: some other method's
    with pytest.raises(UsageError, match="12 heads in MoCo v3, and 6 in timm"):
        read_foreign(made.save(tmp_path / "x.ckpt", state))


def test_mmselfsup(tmp_path: Path, lightning: dict[str, Any]) -> None:
    backbone, head = made.torchvision_resnet(), two_layers()
    state = made.under("backbone.", backbone) | made.under("neck.mlp.", head)
    state = twice(state, {"backbone.": "encoder_k.module.0.", "neck.": "encoder_k.module.1."})
    state |= {"queue": torch.randn(32, 64), "queue_ptr": torch.tensor([16])}
    state |= {"encoder_k.steps": torch.tensor(3)}
    beside = {"meta": {"epoch": 7, "seed": 0}, "message_hub": lightning["message_hub"]}
    file = tmp_path / "epoch_7.pth"
    torch.save({"state_dict": state, **beside}, file)
    weights = read_foreign(file)
    assert (weights.kind, weights.epoch, weights.queue_next) == ("mmselfsup", 7, 16)
    assert weights.ignored == ("encoder_k.steps",)
    assert set(weights.used) | set(weights.ignored) == set(state)
    images = pictures()
    assert torch.equal(features(weights, images), backbone(images))
    assert torch.equal(embeddings(weights, torch.ones(2, 512)), head(torch.ones(2, 512)))


def mm_name(name: str) -> str:
    """Return how MMPretrain calls a tensor of timm's vision transformer."""
    name = re.sub(r"^norm\.", "ln1.", name)
    name = re.sub(r"^blocks\.(\d+)\.norm(\d)\.", r"layers.\1.ln\2.", name)
    name = re.sub(r"^blocks\.(\d+)\.mlp\.fc1\.", r"layers.\1.ffn.layers.0.0.", name)
    name = re.sub(r"^blocks\.(\d+)\.mlp\.fc2\.", r"layers.\1.ffn.layers.1.", name)
    name = re.sub(r"^blocks\.", "layers.", name)
    return name.replace("patch_embed.proj.", "patch_embed.projection.")


def test_mmselfsups_transformer(tmp_path: Path) -> None:
    backbone = made.moco_v3_transformer(384)
    plain = {mm_name(name): value for name, value in backbone.state_dict().items()}
    head = made.mlp([384, 64, 64, 32], last_batch_norm=True).eval()
    places = {"0": "fc0", "1": "bn0", "3": "fc1", "4": "bn1", "6": "fc2", "7": "bn2"}
    neck = {f"neck.{places[name[0]]}{name[1:]}": value for name, value in head.state_dict().items()}
    state = {f"backbone.{name}": value for name, value in plain.items()} | neck
    weights = read_foreign(made.save(tmp_path / "epoch_300.pth", state))
    assert weights.encoder.backbone == "moco_v3_vit_small"
    assert set(weights.used) == set(state)
    images = pictures(224)
    assert torch.allclose(features(weights, images), backbone(images), atol=1e-5)
    assert torch.equal(embeddings(weights, torch.ones(2, 384)), head(torch.ones(2, 384)))
    extracted = tmp_path / "extracted.pth"
    torch.save({"state_dict": plain, "author": "MMSelfSup"}, extracted)
    with pytest.raises(UsageError, match="--backbone moco_v3_vit_small"):
        read_foreign(extracted)  # nothing says whose heads these are
    weights = read_foreign(extracted, backbone="moco_v3_vit_small")
    assert (weights.kind, len(weights.used)) == ("mmpretrain", len(plain))
    del plain["layers.3.ffn.layers.0.0.bias"]
    torch.save({"state_dict": plain, "author": "MMSelfSup"}, extracted)
    with pytest.raises(CheckpointError, match=r"lacks layers\.3\.ffn\.layers\.0\.0\.bias$"):
        read_foreign(extracted, backbone="moco_v3_vit_small")


def test_vissl(tmp_path: Path) -> None:
    backbone, head = made.torchvision_resnet(), two_layers()
    trunk = made.under("_feature_blocks.", backbone)
    layers = head.state_dict()
    heads = {
        f"{n // 2}.clf.0.{end}": layers[f"{n}.{end}"] for n in (0, 2) for end in ("weight", "bias")
    }
    loss = {"queue": torch.randn(32, 64), "queue_ptr": torch.tensor([1])}
    model = {"model": {"trunk": trunk, "heads": heads}}
    file = tmp_path / "model_final_checkpoint_phase199.torch"
    torch.save({"phase_idx": 199, "classy_state_dict": {"base_model": model, "loss": loss}}, file)
    weights = read_foreign(file)
    assert weights.kind == "vissl"
    assert len(weights.used) == len(trunk) + len(heads) + len(loss)
    images = pictures()
    assert torch.equal(features(weights, images), backbone(images))
    assert torch.equal(embeddings(weights, torch.ones(2, 512)), head(torch.ones(2, 512)))
    torch.save(trunk, file)
    assert read_foreign(file).about == "a checkpoint of VISSL"
    trunk["_feature_blocks.layer1.0.bn1.bias_"] = trunk.pop("_feature_blocks.layer1.0.bn1.bias")
    torch.save(trunk, file)
    with pytest.raises(CheckpointError, match=r"lacks _feature_blocks\.layer1\.0\.bn1\.bias;"):
        read_foreign(file)


@pytest.mark.parametrize("wrapper", ["", "model"])
def test_torchvision_and_timm_resnets(tmp_path: Path, wrapper: str) -> None:
    network = torchvision.models.resnet18()
    made.stirred(network)
    state, file = network.state_dict(), tmp_path / "resnet18.pth"
    torch.save({wrapper: state} if wrapper else state, file)
    weights = read_foreign(file)
    assert (weights.kind, weights.encoder.backbone) == ("torchvision", "resnet18")
    assert weights.ignored == ("fc.weight", "fc.bias")
    network.fc = nn.Identity()
    images = pictures()
    assert torch.equal(features(weights, images), network(images))
    save_file(state, tmp_path / "resnet18.safetensors")
    again = read_foreign(tmp_path / "resnet18.safetensors").backbone
    assert all(torch.equal(again[name], value) for name, value in weights.backbone.items())


def test_a_transformer_of_torchvision(tmp_path: Path) -> None:
    network = torchvision.models.VisionTransformer(224, 16, 12, 3, 192, 768).eval()
    for name, value in network.state_dict().items():
        if "ln" in name or name == "class_token":
            value.add_(torch.randn_like(value) * 0.1)
    torch.save(network.state_dict(), tmp_path / "vit.pth")
    weights = read_foreign(tmp_path / "vit.pth", backbone="vit_tiny_patch16_224")
    assert weights.ignored == ("heads.head.weight", "heads.head.bias")
    network.heads = nn.Identity()
    images = pictures(224)
    assert torch.allclose(features(weights, images), network(images), atol=1e-5)


def test_any_timm_model_by_its_name(tmp_path: Path) -> None:
    network = timm.create_model("test_convnext", num_classes=0).eval()
    torch.save(network.state_dict(), tmp_path / "x.pth")
    with pytest.raises(CheckpointError, match=r"none of the layouts .*add --from KIND and"):
        read_foreign(tmp_path / "x.pth")
    weights = read_foreign(tmp_path / "x.pth", backbone="test_convnext")
    images = pictures(64)
    assert torch.equal(features(weights, images), network(images))
    with pytest.raises(CheckpointError, match="not a whole test_vit: it lacks cls_token"):
        read_foreign(tmp_path / "x.pth", backbone="test_vit")


@pytest.mark.parametrize(
    ("channels", "scale"), [(13, 10_000 / 65_535), (12, 10_000 / 65_535), (11, 1)]
)
def test_satellite_resnets(tmp_path: Path, channels: int, scale: float) -> None:
    network = made.torchvision_resnet()
    network.conv1 = nn.Conv2d(channels, 64, 7, stride=2, padding=3, bias=False)
    torch.save(network.state_dict(), tmp_path / "resnet18_sentinel2_all_moco.pth")
    weights = read_foreign(tmp_path / "resnet18_sentinel2_all_moco.pth")
    assert (weights.kind, weights.channels) == ("torchgeo", channels)
    assert weights.views.std == (scale,) * channels
    assert weights.views.mean == (0,) * channels
    assert "order" in weights.notes[0]
    images = pictures(64, channels)
    assert torch.equal(features(weights, images), network(images))


@pytest.mark.slow
def test_a_satellite_transformer_has_6_heads_where_that_is_told(tmp_path: Path) -> None:
    network = timm.create_model("vit_small_patch16_224", in_chans=13, num_classes=0).eval()
    nn.init.normal_(network.patch_embed.proj.bias)
    torch.save(network.state_dict(), tmp_path / "vits.pth")
    with pytest.raises(UsageError, match="12 heads in MoCo v3, and 6 in timm"):
        read_foreign(tmp_path / "vits.pth")
    weights = read_foreign(tmp_path / "vits.pth", kind="torchgeo")
    images = pictures(224, 13)
    assert torch.allclose(features(weights, images), network(images), atol=1e-5)


def detectron2_name(name: str) -> str:
    """Return how Detectron2 calls a tensor of torchvision's ResNet."""
    name = re.sub(r"\.downsample\.0\.", ".shortcut.", name)
    name = re.sub(r"\.downsample\.1\.", ".shortcut.norm.", name)
    name = re.sub(r"(^|\.)bn(\d)\.", r"\1conv\2.norm.", name)
    name = re.sub(r"^layer(\d)", lambda found: f"res{int(found[1]) + 1}", name)
    return name if name.startswith("res") else f"stem.{name}"


@pytest.mark.parametrize("protocol", [2, 4, 5])
def test_the_official_detection_file_is_read_without_unpickling(
    tmp_path: Path, protocol: int
) -> None:
    block = torchvision.models.resnet.Bottleneck
    network = torchvision.models.ResNet(block, [1, 1, 1, 1])
    network.fc = nn.Identity()
    made.stirred(network)
    arrays = {detectron2_name(name): of.numpy() for name, of in network.state_dict().items()}
    arrays["res2.0.conv1.weight"] = np.asfortranarray(arrays["res2.0.conv1.weight"])
    arrays["stem.fc.0.weight"] = torch.ones(2, 2).numpy()
    file = tmp_path / "moco.pkl"
    content = {"model": arrays, "__author__": "MOCO", "matching_heuristics": True}
    file.write_bytes(pickle.dumps(content, protocol))
    weights = read_foreign(file)
    assert (weights.kind, weights.ignored) == ("official-detection", ("stem.fc.0.weight",))
    assert weights.encoder.stage_blocks == (1, 1, 1, 1)
    images = pictures()
    assert torch.equal(features(weights, images), network(images))
    del arrays["res3.0.conv2.norm.running_var"]
    file.write_bytes(pickle.dumps(content, protocol))
    with pytest.raises(CheckpointError, match=r"lacks res3\.0\.conv2\.norm\.running_var$"):
        read_foreign(file)


def test_kind_that_is_told_must_fit(tmp_path: Path) -> None:
    file = made.save(tmp_path / "x.pth", made.torchvision_resnet().state_dict())
    with pytest.raises(CheckpointError, match="holds nothing of an official checkpoint of MoCo v3"):
        read_foreign(file, kind="official-v3")
    with pytest.raises(UsageError, match="there is no kind 'resnet' of file; take one of auto"):
        read_foreign(file, kind="resnet")
    with pytest.raises(CheckpointError, match="is no file that moco import --out wrote"):
        read_foreign(file, kind="moco")


def test_a_wider_transformer_has_as_many_heads_everywhere() -> None:
    """Base: 12 in MoCo v3 and timm; which of the two it is called shows in its positions."""
    with torch.device("meta"):
        base = timm.create_model("vit_base_patch16_224", num_classes=0).state_dict()
        large = timm.create_model("vit_large_patch16_224", num_classes=0).state_dict()
    assert find_transformer({**base, "pos_embed": torch.ones(1, 197, 768)}, "") == (
        "vit_base_patch16_224"
    )
    positions = {"pos_embed": sin_cos_positions(14, 14, 768)}
    assert find_transformer({**base, **positions}, "") == "moco_v3_vit_base"
    assert find_transformer({**large, "pos_embed": torch.ones(1, 197, 1024)}, "") == (
        "vit_large_patch16_224"
    )


@pytest.mark.parametrize("name", ["SimSiam R18.pth.tar", "größer.pt", "x"])
def test_any_file_name_will_do(tmp_path: Path, name: str) -> None:
    """torch.save calls the folder inside the file by the file's name."""
    torch.save(made.torchvision_resnet().state_dict(), tmp_path / name)
    assert read_foreign(tmp_path / name).encoder.backbone == "resnet18"


def test_a_file_of_a_checkpoint_directory_names_it(tmp_path: Path) -> None:
    save_file({"encoder.backbone.conv1.weight": torch.ones(1)}, tmp_path / "model.safetensors")
    with pytest.raises(CheckpointError, match="checkpoint of moco; name its directory"):
        read_foreign(tmp_path / "model.safetensors")
