"""What is exported can be read as a stranger's file, and goes out from there again."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
import torch
from export_steps import exported
from made_sources import made_source
from torch import nn

from moco.cli.main import main
from moco.encoders import build_head
from moco.errors import UsageError
from moco.export.exporting import export_model
from moco.export.source import ExportSource, read_source
from moco.foreign.models import encoder_of
from moco.foreign.reading import read_foreign


def with_head() -> ExportSource:
    source = made_source("resnet18")
    spec = replace(source.encoder, head="mlp", dim=16)
    with torch.random.fork_rng():
        torch.manual_seed(4)
        head: nn.Module = build_head(spec, source.features)
    return replace(source, encoder=spec, head=head)


@pytest.mark.parametrize(
    ("to", "file"),
    [
        ("torchvision", "backbone.pth"),
        ("timm", "model.safetensors"),
        ("mmpretrain", "backbone.pth"),
        ("official", "checkpoint.pth.tar"),
    ],
)
def test_out_and_in_again_is_equal_to_the_bit(to: str, file: str, tmp_path: Path) -> None:
    source = with_head()
    exported(source, to, tmp_path)
    found = read_foreign(tmp_path / "out" / file)
    assert set(found.backbone) == set(source.state)
    for name, value in source.state.items():
        assert torch.equal(found.backbone[name], value), name
    assert not found.missing
    assert source.head is not None
    if to == "official":
        head = source.head.state_dict()
        assert set(found.head) == set(head)
        assert all(torch.equal(found.head[name], value) for name, value in head.items())


def test_a_file_of_another_project_goes_out(tmp_path: Path) -> None:
    source = with_head()
    exported(source, "official", tmp_path)
    file = tmp_path / "out" / "checkpoint.pth.tar"
    assert main(["export", str(file), "--to", "timm", "--out", str(tmp_path / "timm")]) == 0
    card = (tmp_path / "timm" / "README.md").read_text()
    assert "| read from |" in card
    assert "pre\\-trained by Momentum Contrast" not in card
    assert "Recipe" not in card
    again = read_source(tmp_path / "timm" / "model.safetensors")
    assert again.features == source.features
    for name, value in source.state.items():
        assert torch.equal(again.state[name], value), name


@pytest.mark.slow
def test_a_vit_comes_back_with_twelve_heads(tmp_path: Path) -> None:
    source = made_source("moco_v3_vit_small")
    for to, file in (("timm", "model.safetensors"), ("mmpretrain", "backbone.pth")):
        export_model(source, to, tmp_path / to)
        with pytest.raises(UsageError, match="12 heads"):  # or 6, of the same shapes
            read_source(tmp_path / to / file)
        found = read_foreign(tmp_path / to / file, backbone="moco_v3_vit_small")
        images = source.images(2)
        with torch.no_grad():
            assert torch.equal(encoder_of(found).backbone(images), source.backbone(images)), to
