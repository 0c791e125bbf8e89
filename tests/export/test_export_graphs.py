from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from export_steps import TINY, WRONGS, exported, run_card
from made_sources import changed, made_source

from moco.errors import UsageError
from moco.export.check import WrongExportError
from moco.export.graph_formats import ONNX, TORCH_EXPORT


@pytest.mark.slow
def test_a_graph_takes_any_size_where_asked(tmp_path: Path) -> None:
    source = replace(made_source("resnet18", stage_blocks=TINY), dynamic_size=True)
    exported(source, "torch-export", tmp_path)
    model = run_card(tmp_path / "out")
    images = torch.randn(2, 3, 70, 130)
    with torch.no_grad():
        torch.testing.assert_close(model(images), source.backbone(images))
    vit = replace(made_source("moco_v3_vit_small"), dynamic_size=True)
    with pytest.raises(UsageError, match="any size"):
        exported(vit, "torch-export", tmp_path / "vit")


def test_onnx_is_one_file_and_equal_for_any_number_of_images(tmp_path: Path) -> None:
    source = made_source("resnet18", stage_blocks=TINY, width=0.25)
    done = exported(source, "onnx", tmp_path)
    assert list(done.files) == ["backbone.onnx"]
    model: Any = run_card(tmp_path / "out")
    images = source.images(5)
    with torch.no_grad():
        ours = source.backbone(images)
    theirs = torch.from_numpy(model(images.numpy()))
    torch.testing.assert_close(theirs, ours, rtol=1e-4, atol=1e-5 * float(ours.abs().max()))
    for wrong in WRONGS:
        with pytest.raises(WrongExportError, match="differ by"):
            ONNX.check(changed(source, wrong), tmp_path / "out")


@pytest.mark.slow
def test_a_wrong_graph_is_seen(tmp_path: Path) -> None:
    source = made_source("resnet18", stage_blocks=TINY, width=0.25)
    TORCH_EXPORT.write(source, tmp_path)
    TORCH_EXPORT.check(source, tmp_path)
    for wrong in WRONGS:
        with pytest.raises(WrongExportError, match="differ by"):
            TORCH_EXPORT.check(changed(source, wrong), tmp_path)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("to", "backbone"), [("onnx", "moco_v3_vit_small"), ("torch-export", "moco_v3_vit_small")]
)
def test_graphs_of_vits(to: str, backbone: str, tmp_path: Path) -> None:
    done = exported(made_source(backbone), to, tmp_path)
    assert done.check.difference <= 1e-4 * done.check.largest
