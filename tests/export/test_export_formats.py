from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import timm
import torch
from export_steps import TINY, WRONGS, exported, features_of, run_card
from made_sources import changed, made_source, views_of
from PIL import Image
from safetensors.torch import load_file

from moco.data.crops import evaluation_view
from moco.data.views import normalize
from moco.errors import UsageError
from moco.export.catalogue import FORMATS, able_formats
from moco.export.check import WrongExportError
from moco.export.format_names import FORMAT_NAMES

EQUAL = [
    ("torchvision", "resnet18", {}),
    ("torchvision", "resnext50_32x8d", {"stage_blocks": TINY}),
    ("torchvision", "resnet18", {"stem": "small", "stage_blocks": TINY}),
    ("torchvision", "resnet50", {"stem": "strided", "stage_blocks": TINY}),
    ("safetensors", "resnet18", {"width": 0.5}),
    pytest.param("safetensors", "moco_v3_vit_conv_small", {}, marks=pytest.mark.slow),
    ("timm", "resnet18", {}),
    ("timm", "resnext50_32x8d", {"stage_blocks": TINY}),
    pytest.param("timm", "moco_v3_vit_small", {}, marks=pytest.mark.slow),
    ("timm", "test_convnext", {}),
]
NEAR = [  # whose kernels may round otherwise
    pytest.param("hf", "resnet18", {"stage_blocks": TINY}, marks=pytest.mark.slow),
    ("hf", "resnet50", {"stage_blocks": TINY, "width": 2.0}),
    ("official", "resnet18", {}),
    pytest.param("official", "resnet50", {}, marks=pytest.mark.slow),
    pytest.param("hf", "resnet50", {}, marks=pytest.mark.slow),
    pytest.param("hf", "moco_v3_vit_small", {}, marks=pytest.mark.slow),
]


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


@pytest.mark.parametrize(("to", "backbone", "fields"), NEAR)
def test_the_library_gives_the_same_features_but_for_rounding(
    to: str, backbone: str, fields: dict[str, object], tmp_path: Path
) -> None:
    source = made_source(backbone, **fields)
    done = exported(source, to, tmp_path)
    model = run_card(tmp_path / "out")
    images = source.images(3)
    with torch.no_grad():
        ours, theirs = source.backbone(images), features_of(model(images))
    assert done.check.difference <= 1e-5 * ours.abs().max()
    torch.testing.assert_close(theirs, ours, rtol=1e-5, atol=1e-5 * float(ours.abs().max()))


def test_transformers_prepares_images_as_the_evaluation_does(tmp_path: Path) -> None:
    from transformers import AutoImageProcessor

    source = made_source("resnet18", views_of(side=64), stage_blocks=TINY)
    exported(source, "hf", tmp_path)
    processor = AutoImageProcessor.from_pretrained(tmp_path / "out", local_files_only=True)
    draw = np.random.default_rng(0)
    rows = draw.integers(0, 256, (9, 12, 3), dtype=np.uint8)
    image = Image.fromarray(rows).resize((120, 90), Image.Resampling.BICUBIC)
    theirs = processor(image, return_tensors="pt")["pixel_values"]
    pixels = evaluation_view(np.array(image), source.views)
    ours = normalize(pixels[None], source.views)
    assert theirs.shape == ours.shape == (1, 3, 64, 64)
    assert (theirs - ours).abs().max() < 2.1 / 255 / 0.2  # two steps of 8 bits


@pytest.mark.parametrize("to", ["torchvision", "safetensors", "timm", "hf"])
def test_other_channels_stay_as_they_are(to: str, tmp_path: Path) -> None:
    source = made_source("resnet18", views_of(channels=5), stage_blocks=TINY)
    done = exported(source, to, tmp_path).check
    assert done.difference <= 1e-5 * done.largest


def test_timm_s_small_vit_has_other_heads_and_would_load_silently_wrong(tmp_path: Path) -> None:
    source = made_source("moco_v3_vit_small")
    exported(source, "timm", tmp_path)
    config = tmp_path / "out" / "config.json"
    config.write_text(config.read_text().replace('"num_heads": 12', '"num_heads": 6'))
    kind = next(each for each in FORMATS if each.name == "timm")
    with pytest.raises(WrongExportError, match="differ by"):
        kind.check(source, tmp_path / "out")


@pytest.mark.parametrize("wrong", WRONGS)
@pytest.mark.parametrize("to", ["torchvision", "safetensors", "timm", "hf"])
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
        ("hf", "resnext50_32x8d", {"stage_blocks": TINY}, "not built as"),
        ("hf", "resnet18", {"stem": "small"}, "no small stem"),
        ("detectron2", "moco_v3_vit_small", {}, "not built as"),
        ("detectron2", "resnet18", {"stem": "small"}, "7x7"),
        ("mmdet", "resnet18", {"stem": "small"}, "no small stem"),
        ("mmdet", "resnext50_32x8d", {"width": 2.0, "stage_blocks": TINY}, "one width"),
        ("mmpretrain", "moco_v3_vit_conv_small", {}, "not built as"),
        ("official", "resnet18", {"width": 2.0}, "by name"),
        ("official", "moco_v3_vit_small", {}, "224 pixels"),
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
