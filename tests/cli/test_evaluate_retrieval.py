from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest

from moco.cli.main import main


@pytest.fixture(scope="module")
def run(photos: Path, tiny_settings: list[str], tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("retrieval") / "run"
    settings = [word for setting in tiny_settings for word in ("--set", setting)]
    words = [str(photos), "--epochs", "1", "--device", "cpu", *settings, "--run", str(path)]
    assert main(["pretrain", *words]) == 0
    return path


def evaluate(run: Path, train: Path, test: Path, figures: Path, *more: str) -> dict[str, Any]:
    words = ["--train", str(train), "--test", str(test), "--device", "cpu", *more]
    assert main(["evaluate", "retrieval", str(run), *words, "--json", str(figures)]) == 0
    return dict(json.loads(figures.read_text()))


def test_prints_a_table_and_writes_flat_fractions(
    run: Path, class_folders: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    train, test = class_folders / "train", class_folders / "test"
    figures = evaluate(run, train, test, tmp_path / "a.json", "--depths", "1", "3", "99")
    scores = ["recall_at_1", "recall_at_3", "recall_at_24", "mean_average_precision"]
    about = ["layer", "classes", "gallery_images", "queries", "without_relevant", "skipped_files"]
    assert list(figures) == scores + about
    assert [figures[key] for key in about] == ["backbone", 2, 24, 16, 0, 0]
    assert figures["recall_at_1"] <= figures["recall_at_3"] <= figures["recall_at_24"] == 1
    printed = capsys.readouterr().out
    assert "16 queries, a gallery of 24" in printed
    for key in scores:
        assert f"{100 * figures[key]:.2f} %" in printed


def test_one_source_asks_for_the_others(
    run: Path, class_folders: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = shutil.copytree(class_folders / "test", tmp_path / "one")
    (folder / "alone").mkdir()
    shutil.copy(folder / "red" / "0.png", folder / "alone")
    figures = evaluate(run, folder, folder, tmp_path / "a.json")
    assert (figures["gallery_images"], figures["queries"]) == (17, 16)
    assert figures["without_relevant"] == 1
    assert "recall_at_16" in figures
    printed = capsys.readouterr().out
    assert "itself left out" in printed
    assert "1 images have no other of their class to find" in printed


def test_depths_below_one_are_refused(
    run: Path, class_folders: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    words = ["--train", str(class_folders), "--test", str(class_folders), "--depths", "0"]
    assert main(["evaluate", "retrieval", str(run), *words]) == 2
    assert "--depths must be at least 1" in capsys.readouterr().err
