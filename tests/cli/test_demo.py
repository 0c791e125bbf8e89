"""`moco demo` on the user's own folder: with classes, without, and what it leaves behind."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from moco.cli.demo import run_directory
from moco.cli.main import main
from moco.demo_data import own_folder


def write_images(folder: Path, count: int, brightest: int) -> None:
    folder.mkdir(parents=True)
    draw = np.random.default_rng(brightest)
    for number in range(count):
        pixels = draw.integers(0, brightest, (24, 24, 3), dtype=np.uint8)
        Image.fromarray(pixels).save(folder / f"{number}.png")


def test_class_folders_are_compared(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    write_images(tmp_path / "images" / "dark", 30, 100)
    write_images(tmp_path / "images" / "light", 30, 250)
    run, figures_file = tmp_path / "run", tmp_path / "figures.json"
    options = ["--run", str(run), "--epochs", "1", "--device", "cpu", "--json", str(figures_file)]
    code = main(["demo", "--images", str(tmp_path / "images"), *options])
    assert code == 0
    shown = capsys.readouterr().out
    assert "raw pixels" in shown
    assert str(run / "report.html") in shown
    figures = json.loads(figures_file.read_text())
    for method in ("knn", "linear"):
        for rival in ("raw_pixels", "untrained", "untrained_with_statistics", "trained"):
            key = f"{method}_{rival}_roc_auc"
            assert 0 <= figures[f"{key}_low"] <= figures[key] <= figures[f"{key}_high"] <= 1
    assert figures["knn_raw_pixels_roc_auc"] > 0.99  # light against dark
    page = (run / "report.html").read_text()
    for heading in (
        "Was it worth it?",
        "Curves",
        "Two views of each image",
        "Nearest neighbours",
    ):
        assert heading in page
    assert ">chance " in page
    assert page.count("data:image/jpeg") >= 2 * 12 + 2 * 6 * 6  # pairs; asked and five, twice
    assert "://" not in page


def test_the_two_views_of_a_pair_differ(tmp_path: Path) -> None:
    write_images(tmp_path / "images", 20, 250)
    run = tmp_path / "run"
    options = ["--run", str(run), "--epochs", "1", "--device", "cpu"]
    assert main(["demo", "--images", str(tmp_path / "images"), *options]) == 0
    page = (run / "report.html").read_text()
    views = page.partition("Two views of each image")[2].partition("</section>")[0]
    pictures = [part.partition('"')[0] for part in views.split("base64,")[1:]]
    assert all(a != b for a, b in zip(pictures[::2], pictures[1::2], strict=True))
    assert "nothing to compare" in page


def test_without_the_package_the_remedy_is_named(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("importlib.util.find_spec", lambda _: None)
    assert main(["demo", "--run", str(tmp_path / "run")]) == 3
    assert "--images" in capsys.readouterr().err
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize("seed", range(12))
def test_every_class_is_on_both_sides_of_the_split(seed: int, tmp_path: Path) -> None:
    write_images(tmp_path / "many", 40, 100)
    write_images(tmp_path / "few", 10, 250)
    data = own_folder(tmp_path, seed)
    assert data.train_labels.bincount().tolist() == [7, 28]
    assert data.test_labels.bincount().tolist() == [3, 12]
    assert data.train_labels[data.validation].bincount(minlength=2).min() > 0


def test_a_class_of_which_no_image_can_be_read_is_not_compared(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    write_images(tmp_path / "images" / "good", 40, 100)
    (tmp_path / "images" / "bad").mkdir()
    for number in range(12):
        (tmp_path / "images" / "bad" / f"{number}.png").write_text("404 not found")
    options = ["--run", str(tmp_path / "run"), "--epochs", "1", "--device", "cpu"]
    options += ["--bad-limit", "0.5"]
    assert main(["demo", "--images", str(tmp_path / "images"), *options]) == 0
    assert "nothing is compared: no training image of bad" in capsys.readouterr().out
    assert (tmp_path / "run" / "report.html").exists()


def test_each_folder_and_seed_has_a_run_of_its_own(tmp_path: Path) -> None:
    assert run_directory(None, 0) == Path("runs/demo")
    assert run_directory(None, 3) == Path("runs/demo-3")
    assert run_directory(tmp_path / "cells", 0) == Path("runs/demo-cells")
