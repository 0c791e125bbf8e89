"""What is exported can be read as a stranger's file, and goes out from there again."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
import torch
from export_steps import exported
from made_sources import made_source
from torch import nn

import moco
from moco.cli.main import main
from moco.encoders import build_head
from moco.errors import CheckpointError, UsageError
from moco.export.exporting import export_model
from moco.export.safetensors_format import write_tensors
from moco.export.source import ExportSource, read_source
from moco.foreign.models import encoder_of
from moco.foreign.official_state import from_official
from moco.foreign.reading import read_foreign
from moco.loading import find_checkpoint


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


@pytest.mark.parametrize("stem", ["strided", "small"])
def test_what_no_shape_tells_goes_out_with_the_tensors(stem: str, tmp_path: Path) -> None:
    source = made_source("resnet18", stem=stem, width=0.5, stage_blocks=(1, 1, 1, 1))
    exported(source, "safetensors", tmp_path)
    file = tmp_path / "out" / "model.safetensors"
    found = read_foreign(file)
    fields = ("backbone", "stem", "width", "stage_blocks")
    assert [getattr(found.encoder, name) for name in fields] == [
        getattr(source.encoder, name) for name in fields
    ]
    assert found.views == source.views
    images = source.images()
    with torch.no_grad():
        assert torch.equal(moco.load(file)(images), source.backbone(images))


def test_a_damaged_note_is_told(tmp_path: Path) -> None:
    source = made_source("resnet18")
    write_tensors(tmp_path / "x.safetensors", source.state, {"moco_network": "{"})
    with pytest.raises(CheckpointError, match="note of moco export that is damaged"):
        read_foreign(tmp_path / "x.safetensors")


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


def test_a_run_goes_out_whole_and_comes_back_to_the_bit(photos: Path, tmp_path: Path) -> None:
    settings = [
        *("encoder.backbone=resnet18", "batch_size=32", "dictionary.size=48", "epochs=1"),
        *("views.image_size=32", "views.evaluation_size=32", "views.evaluation_resize=32"),
        "batch_norm_groups=2",
    ]
    run = tmp_path / "run"
    moco.pretrain(
        photos,
        recipe="moco-v2",
        run=run,
        settings=settings,
        device="cpu",
        workers=0,
        signals_every=1000,
    )
    before = find_checkpoint(run)
    assert main(["export", str(run), "--to", "official", "--out", str(tmp_path / "out")]) == 0
    file = tmp_path / "out" / "checkpoint.pth.tar"
    content = torch.load(file, weights_only=True)
    assert "module.queue" in content["state_dict"]
    after = from_official(content)
    assert after.step == before.step == 2
    assert after.identity == before.identity
    assert set(after.model) == set(before.model)
    for name, value in before.model.items():
        assert torch.equal(after.model[name], value), name
    momenta = [
        [state["momentum_buffer"] for state in each.train_state["optimizer"]["state"].values()]
        for each in (before, after)
    ]
    assert len(momenta[0]) == len(momenta[1]) > 60
    assert all(torch.equal(one, two) for one, two in zip(*momenta, strict=True))


@pytest.mark.slow
def test_a_vit_comes_back_with_twelve_heads(tmp_path: Path) -> None:
    source = made_source("moco_v3_vit_small")
    for to, file in (("timm", "model.safetensors"), ("mmpretrain", "backbone.pth")):
        export_model(source, to, tmp_path / to)
        asked = None
        if to == "mmpretrain":  # its file has no place for a note
            asked = "moco_v3_vit_small"
            with pytest.raises(UsageError, match="12 heads"):  # or 6, of the same shapes
                read_source(tmp_path / to / file)
        found = read_foreign(tmp_path / to / file, backbone=asked)
        images = source.images(2)
        with torch.no_grad():
            assert torch.equal(encoder_of(found).backbone(images), source.backbone(images)), to
