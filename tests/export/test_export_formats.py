from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
import timm
import torch
from made_sources import changed, made_source, views_of
from safetensors.torch import load_file

from moco.errors import UsageError
from moco.export.catalogue import FORMATS, able_formats
from moco.export.check import WrongExportError
from moco.export.exporting import Exported, export_model
from moco.export.format_names import FORMAT_NAMES, README
from moco.export.source import ExportSource

TINY = (1, 1, 1, 1)
WRONGS = (
    "two statistics of a layer swapped",
    "statistics of two layers swapped",
    "colours in reverse",
    "nothing loaded",
)
EQUAL = [
    ("torchvision", "resnet18", {}),
    ("torchvision", "resnext50_32x8d", {"stage_blocks": TINY}),
    ("torchvision", "resnet18", {"stem": "small", "stage_blocks": TINY}),
    ("torchvision", "resnet50", {"stem": "strided", "stage_blocks": TINY}),
    ("safetensors", "resnet18", {"width": 0.5}),
    pytest.param("safetensors", "moco_v3_vit_conv_small", {}, marks=pytest.mark.slow),
    ("timm", "resnet18", {}),
    ("timm", "resnext50_32x8d", {"stage_blocks": TINY}),
    ("timm", "moco_v3_vit_small", {}),
    ("timm", "test_convnext", {}),
]


def run_card(folder: Path) -> Callable[[torch.Tensor], torch.Tensor]:
    """Run the card's lines in its directory, as they stand there, and return its model."""
    code = (folder / README).read_text().partition("```python\n")[2].partition("\n```")[0]
    names: dict[str, object] = {}
    with pytest.MonkeyPatch.context() as patch, torch.random.fork_rng():
        patch.chdir(folder)
        exec(compile(code, str(folder / README), "exec"), names)
    model = names["model"]
    assert callable(model)
    return model


def exported(source: ExportSource, to: str, folder: Path) -> Exported:
    return export_model(source, to, folder / "out")


@pytest.mark.parametrize(("to", "backbone", "fields"), EQUAL)
def test_the_library_gives_the_same_features(
    to: str, backbone: str, fields: dict[str, object], tmp_path: Path
) -> None:
    source = made_source(backbone, **fields)
    done = exported(source, to, tmp_path)
    assert done.check.difference == 0
    assert to in done.check.by
    model = run_card(tmp_path / "out")
    images = source.images(3)
    with torch.no_grad():
        ours = source.backbone(images)
        assert torch.equal(model(images), ours)
    assert ours.abs().max() > 0.1  # features that are 0 would be equal, too


@pytest.mark.parametrize("to", ["torchvision", "safetensors", "timm"])
def test_other_channels_stay_as_they_are(to: str, tmp_path: Path) -> None:
    source = made_source("resnet18", views_of(channels=5), stage_blocks=TINY)
    assert exported(source, to, tmp_path).check.difference == 0


def test_timm_s_small_vit_has_other_heads_and_would_load_silently_wrong(tmp_path: Path) -> None:
    source = made_source("moco_v3_vit_small")
    exported(source, "timm", tmp_path)
    config = tmp_path / "out" / "config.json"
    config.write_text(config.read_text().replace('"num_heads": 12', '"num_heads": 6'))
    kind = next(each for each in FORMATS if each.name == "timm")
    with pytest.raises(WrongExportError, match="differ by"):
        kind.check(source, tmp_path / "out")


@pytest.mark.parametrize("wrong", WRONGS)
@pytest.mark.parametrize("to", ["torchvision", "safetensors", "timm"])
def test_a_wrong_conversion_is_seen(to: str, wrong: str, tmp_path: Path) -> None:
    source = made_source("resnet18", stage_blocks=TINY)
    kind = next(each for each in FORMATS if each.name == to)
    kind.write(changed(source, wrong), tmp_path)
    with pytest.raises(WrongExportError, match="nothing is kept"):
        kind.check(source, tmp_path)
    (again := tmp_path / "right").mkdir()
    kind.write(source, again)
    kind.check(source, again)


@pytest.mark.parametrize(
    ("to", "backbone", "fields", "reason"),
    [
        ("torchvision", "moco_v3_vit_small", {}, "no network with the parameters of"),
        ("torchvision", "resnet18", {"width": 2.0}, "wider or narrower"),
        ("torchvision", "resnet18d", {}, "no network with the parameters of"),
        ("timm", "resnet18", {"width": 2.0}, "first layer or width"),
        ("timm", "resnet18", {"stem": "small"}, "first layer or width"),
        ("timm", "moco_v3_vit_conv_small", {}, "first layer or width"),
    ],
)
def test_what_a_format_cannot_hold_is_refused_and_who_can_is_told(
    to: str, backbone: str, fields: dict[str, object], reason: str, tmp_path: Path
) -> None:
    source = made_source(backbone, **fields)
    with pytest.raises(UsageError, match=reason) as refused:
        exported(source, to, tmp_path)
    able = str(refused.value).partition("; --to ")[2].removesuffix(" can hold it").split(", ")
    assert able == able_formats(source)
    assert to not in able
    assert "safetensors" in able
    assert not list(tmp_path.iterdir())


def test_every_format_has_a_name_on_the_command_line() -> None:
    assert [each.name for each in FORMATS] == list(FORMAT_NAMES)


def test_fine_tuning_in_timm_gets_a_classifier_and_other_colours(tmp_path: Path) -> None:
    exported(made_source("resnet18", stage_blocks=TINY), "timm", tmp_path)
    model = timm.create_model(
        f"local-dir:{tmp_path}/out", pretrained=True, num_classes=5, in_chans=1
    )
    assert model(torch.zeros(2, 1, 32, 32)).shape == (2, 5)
    written = load_file(tmp_path / "out" / "model.safetensors")
    first = written["conv1.weight"].sum(dim=1, keepdim=True)
    torch.testing.assert_close(model.conv1.weight.data, first)
