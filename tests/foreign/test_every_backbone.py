"""Every layout with every network of the papers: the table of docs/import.md (`pytest -s`)."""

from __future__ import annotations

import pickle
from pathlib import Path
from typing import Any

import official_files as made
import pytest
import torch
import torchvision
from safetensors.torch import save_file
from test_official_weights import features, pictures
from test_other_projects import detectron2_name, mm_name
from torch import Tensor, nn
from torchvision.models.resnet import Bottleneck

from moco.foreign import read_foreign

State = dict[str, Tensor]
TRANSFORMERS = {"ViT-S": "moco_v3_vit_small", "ViT-B": "moco_v3_vit_base"}


def twice_as_wide() -> nn.Module:
    """Return the paper's R50w2x, put together of torchvision's parts."""
    network = torchvision.models.ResNet(Bottleneck, [3, 4, 6, 3])
    network.inplanes = 128
    network.conv1 = nn.Conv2d(3, 128, 7, stride=2, padding=3, bias=False)
    network.bn1 = nn.BatchNorm2d(128)
    for stage, (blocks, stride) in enumerate(((3, 1), (4, 2), (6, 2), (3, 2))):
        layer = network._make_layer(Bottleneck, 128 * 2**stage, blocks, stride)
        setattr(network, f"layer{stage + 1}", layer)
    return network


def source(name: str) -> nn.Module:
    """Return the network as its own library has it, with random weights and statistics."""
    match name:
        case "R18" | "R50":
            network = torchvision.models.get_model(f"resnet{name[1:]}")
        case "RX50":
            network = torchvision.models.ResNet(
                Bottleneck, [3, 4, 6, 3], groups=32, width_per_group=8
            )
        case "R50w2x":
            network = twice_as_wide()
        case _:
            return made.moco_v3_transformer(384 if name == "ViT-S" else 768)
    network.fc = nn.Identity()
    return made.stirred(network)


def in_sequence(state: State) -> State:
    """Return a ResNet's tensors as nn.Sequential calls them."""
    places = {"conv1": "0", "bn1": "1", **{f"layer{n}": str(n + 3) for n in (1, 2, 3, 4)}}
    names = {name: name.split(".", 1) for name in state}
    return {f"backbone.{places[at]}.{rest}": state[name] for name, (at, rest) in names.items()}


def under(prefix: str, state: State) -> State:
    return {prefix + name: value for name, value in state.items()}


def content_of(kind: str, state: State) -> dict[str, Any]:
    """Return what a project's script gives to torch.save."""
    match kind:
        case "official v1/v2":
            return {"state_dict": under("module.encoder_q.", state)}
        case "official v3":
            return {"state_dict": under("module.base_encoder.", state)}
        case "lightly":
            return {"state_dict": in_sequence(state)}
        case "solo-learn":
            projector = {"projector.0.weight": torch.ones(8, 4)}
            return {"state_dict": under("backbone.", state) | projector}
        case "mmselfsup":
            neck = {"neck.fc.weight": torch.ones(8, 4), "neck.fc.bias": torch.ones(8)}
            names = {f"backbone.{mm_name(name)}": value for name, value in state.items()}
            return {"state_dict": names | neck}
    trunk = {"trunk": under("_feature_blocks.", state), "heads": {}}
    return {"classy_state_dict": {"base_model": {"model": trunk}}}


def saved(kind: str, state: State, at: Path) -> Path:
    """Write a file in a project's layout, torch's old one where such are of 2020."""
    if kind == "official detection":
        arrays = {detectron2_name(name): value.numpy() for name, value in state.items()}
        at.write_bytes(pickle.dumps({"model": arrays, "matching_heuristics": True}, 4))
    elif kind == "torchvision, timm":
        save_file(state, at)
    else:
        is_new = kind != "official v1/v2"
        torch.save(content_of(kind, state), at, _use_new_zipfile_serialization=is_new)
    return at


OF_RESNETS = (
    *("official v1/v2", "official v3", "official detection", "lightly", "solo-learn", "mmselfsup"),
    *("vissl", "torchvision, timm"),
)
OF_TRANSFORMERS = ("official v3", "solo-learn", "mmselfsup", "torchvision, timm")


@pytest.mark.slow
@pytest.mark.parametrize("name", ["R18", "R50", "RX50", "R50w2x", *TRANSFORMERS])
def test_features_are_those_of_the_source(name: str, tmp_path: Path) -> None:
    network, images = source(name), pictures(224)
    with torch.no_grad():
        expected = network(images)
    state, found = network.state_dict(), dict[str, float]()
    is_transformer = name in TRANSFORMERS
    for kind in OF_TRANSFORMERS if is_transformer else OF_RESNETS:
        file = saved(kind, state, tmp_path / "weights.pth")
        weights = read_foreign(file, backbone=TRANSFORMERS.get(name))
        assert len(weights.backbone) == len(state)
        found[kind] = float((features(weights, images) - expected).abs().max())
        file.unlink()
    print(f"\n{name}: {found}")  # noqa: T201  the table of the page
    assert max(found.values()) <= (1e-5 if is_transformer else 0)
