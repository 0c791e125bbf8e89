"""The example that lays out solar cells splits and names them as the demo does."""

from __future__ import annotations

import importlib.util
from pathlib import Path

import pytest
from doc_pages import ROOT

from moco.demo_data import solar_cells


def test_cells_are_split_and_named_as_in_the_demo(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    pytest.importorskip("elpv_dataset")
    spec = importlib.util.spec_from_file_location("example", ROOT / "examples/solar_folders.py")
    assert spec is not None
    assert spec.loader is not None
    example = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(example)
    example.main(tmp_path)
    data = solar_cells()
    assert data.test is not None
    for part, images, labels in (
        ("train", data.train, data.train_labels),
        ("test", data.test, data.test_labels),
    ):
        expected = {
            (data.classes[label], images.name(place)) for place, label in enumerate(labels.tolist())
        }
        found = {(path.parent.name, path.name) for path in (tmp_path / part).rglob("*.png")}
        assert found == expected
    assert "1,804 images" in capsys.readouterr().out
