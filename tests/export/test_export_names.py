from __future__ import annotations

import pickle
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from export_steps import WRONGS, exported
from made_sources import changed, made_source

from moco.export.catalogue import FORMATS
from moco.export.check import WrongExportError, compare_features
from moco.export.detectron2_names import NamedResNet, detectron2_names
from moco.export.format_names import README
from moco.export.resnet_shape import resnet_shape

BY_NAMES = [
    ("detectron2", "resnet18", {}),
    ("mmdet", "resnet18", {}),
    ("mmpretrain", "resnet18", {"stem": "small"}),
    ("mmpretrain", "moco_v3_vit_small", {}),
    *(
        pytest.param(to, "resnet50", fields, marks=pytest.mark.slow)
        for to in ("detectron2", "mmdet", "mmpretrain")
        for fields in ({}, {"width": 2.0})
    ),
    pytest.param("detectron2", "resnext50_32x8d", {}, marks=pytest.mark.slow),
    pytest.param("mmdet", "resnext50_32x8d", {}, marks=pytest.mark.slow),
]


@pytest.mark.parametrize(("to", "backbone", "fields"), BY_NAMES)
def test_names_are_compared_where_the_library_is_not_there_and_told_so(
    to: str, backbone: str, fields: dict[str, object], tmp_path: Path
) -> None:
    source = made_source(backbone, **fields)
    done = exported(source, to, tmp_path)
    assert not done.check.is_loaded
    assert done.check.keys == len(source.state)
    assert done.check.difference <= 1e-5 * done.check.largest
    assert "did not load it here" in (tmp_path / "out" / README).read_text()


def test_a_wrong_conversion_to_names_is_seen() -> None:
    right, wrong = (
        made_source("resnet18"),
        changed(made_source("resnet18"), "statistics of two layers swapped"),
    )
    shape = resnet_shape(right.backbone)
    assert shape is not None
    network = NamedResNet(shape)
    network.load_state_dict(detectron2_names(right.state))
    assert compare_features(right, network.eval(), "names").difference < 1e-4
    network.load_state_dict(detectron2_names(wrong.state))
    with pytest.raises(WrongExportError, match="differ by"):
        compare_features(right, network.eval(), "names")


@pytest.mark.parametrize("to", ["mmpretrain", "official"])  # mmdet has the same file
@pytest.mark.parametrize("wrong", WRONGS)
def test_a_wrong_conversion_is_seen_in_state_dicts_of_others(
    to: str, wrong: str, tmp_path: Path
) -> None:
    kind = next(each for each in FORMATS if each.name == to)
    kind.write(changed(made_source("resnet18"), wrong), tmp_path)
    with pytest.raises(WrongExportError, match="differ by"):
        kind.check(made_source("resnet18"), tmp_path)


@pytest.mark.slow
def test_a_wrong_vit_is_seen_in_transformers_and_openmmlab(tmp_path: Path) -> None:
    right = made_source("moco_v3_vit_small")
    for to in ("hf", "mmpretrain"):
        (folder := tmp_path / to / "right").mkdir(parents=True)
        kind = next(each for each in FORMATS if each.name == to)
        kind.write(right, folder)
        kind.check(right, folder)
        for wrong in ("colours in reverse", "norms of two blocks swapped"):
            (folder := tmp_path / to / wrong).mkdir()
            kind.write(changed(right, wrong), folder)
            with pytest.raises(WrongExportError, match="differ by"):
                kind.check(right, folder)


@pytest.mark.parametrize("backbone", [pytest.param("resnet18", marks=pytest.mark.slow), "resnet50"])
def test_detectron2_s_file_has_each_name_of_c4_and_fpn_and_no_other(
    backbone: str, tmp_path: Path
) -> None:
    source = made_source(backbone)
    exported(source, "detectron2", tmp_path)
    content = pickle.loads((tmp_path / "out" / "backbone.pkl").read_bytes())
    assert content["__author__"] == "MOCO"
    assert content["matching_heuristics"] is True
    assert set(content) == {"model", "__author__", "matching_heuristics"}
    written = {name: value.shape for name, value in content["model"].items()}
    counts = {"resnet18": (2, 2, 2, 2), "resnet50": (3, 4, 6, 3)}[backbone]
    expected = set(names_by_the_table(counts, convolutions=2 if backbone == "resnet18" else 3))
    assert set(written) == expected
    for prefixes in (
        {"roi_heads.": ("res5",), "backbone.": ("stem", "res2", "res3", "res4")},
        {"backbone.bottom_up.": ("stem", "res2", "res3", "res4", "res5")},
    ):
        asked = [
            before + name
            for before, parts in prefixes.items()
            for name in expected
            if name.partition(".")[0] in parts
        ]
        assert len(asked) == len(written)
        for name in asked:  # Detectron2 matches names by their longest common end
            assert sum(name.endswith(f".{mine}") for mine in written) == 1
    state = source.state
    table = {"conv1.weight": "stem.conv1.weight", "layer4.1.bn2.bias": "res5.1.conv2.norm.bias"}
    table |= {"layer3.0.downsample.1.running_var": "res4.0.shortcut.norm.running_var"}
    for mine, theirs in table.items():
        assert torch.equal(torch.from_numpy(content["model"][theirs]), state[mine])


def names_by_the_table(counts: tuple[int, ...], convolutions: int) -> Iterator[str]:
    """Yield Detectron2's names, put together by the rules of its modules."""
    norm = ("weight", "bias", "running_mean", "running_var", "num_batches_tracked")
    layers = ["stem.conv1"]
    for stage, count in enumerate(counts):
        for block in range(count):
            before = f"res{stage + 2}.{block}"
            layers += [f"{before}.conv{number + 1}" for number in range(convolutions)]
            if block == 0 and (stage > 0 or convolutions == 3):
                layers.append(f"{before}.shortcut")
    for layer in layers:
        yield f"{layer}.weight"
        yield from (f"{layer}.norm.{name}" for name in norm)
