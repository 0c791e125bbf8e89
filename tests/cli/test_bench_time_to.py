"""`moco bench time-to`: the table, the file, and what people get wrong."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from moco.cli.main import main

Command = Callable[..., int]


@pytest.fixture
def command(class_folders: Path, tmp_path: Path, tiny_settings: list[str]) -> Command:
    sets = [word for setting in [*tiny_settings, "batch_size=8"] for word in ("--set", setting)]
    monitors = ["--monitor-train", "train", "--monitor-test", "test"]
    monitors = [str(class_folders / word) if "-" not in word else word for word in monitors]

    def run(*more: str) -> int:
        words = ["bench", "time-to", str(class_folders / "train"), "--recipe", "moco-v2", *sets]
        return main([*words, *monitors, "--device", "cpu", "--workers", "0", *more])

    return run


def figures_of(tmp_path: Path) -> dict[str, Any]:
    return dict(json.loads((tmp_path / "figures.json").read_text()))


def test_a_score_that_all_reach(
    command: Command, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    words = ["--knn", "0.5", "--seeds", "3", "5", "--epochs", "4", "--out", str(tmp_path / "runs")]
    assert command(*words, "--json", str(tmp_path / "figures.json")) == 0
    shown = capsys.readouterr().out
    assert "reached by 2 of 2 seeds: median" in shown
    figures = figures_of(tmp_path)
    assert (figures["recipe"], figures["measure"], figures["score"]) == ("moco-v2", "knn_top1", 0.5)
    assert (figures["reached"], figures["epochs"], figures["planned_epochs"]) == (2, 1.0, 4)
    assert figures["seconds_low"] <= figures["seconds"] <= figures["seconds_high"]
    for row, seed in zip(figures["runs"], (3, 5), strict=True):
        assert (row["seed"], row["reached"], row["epochs"], row["images"]) == (seed, True, 1, 24)
        assert row["processor_seconds"] > 0
        assert row["monitor_seconds"] > 0
        assert row["best"] == row["tests"][-1][1] >= 0.5
        assert row["tests"][-1][2:] == [row["seconds"], row["processor_seconds"]]
        assert (tmp_path / "runs" / f"seed-{seed}" / "recipe.yaml").exists()


def test_a_score_that_none_reaches_is_no_error(
    command: Command, class_folders: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for name in ("blue", "red"):  # the same images in both, so that half is the best there is
        shutil.copytree(class_folders / "test" / "blue", tmp_path / "alike" / name)
    words = ["--knn", "0.6", "--head", "--seeds", "0", "--epochs", "2", "--every", "2"]
    words += ["--monitor-test", str(tmp_path / "alike")]
    assert command(*words, "--json", str(tmp_path / "figures.json")) == 0
    shown = capsys.readouterr().out
    assert "reached by 0 of 1 seeds within 2 epochs; best scores 50.0 %" in shown
    figures = figures_of(tmp_path)
    (row,) = figures["runs"]
    assert figures["measure"] == "knn_head_top1"
    assert (figures["reached"], figures["seconds"], figures["epochs_low"]) == (0, None, None)
    assert (row["reached"], row["epochs"], row["best"], row["best_epoch"]) == (False, 2, 0.5, 2)
    assert len(row["tests"]) == 1
    assert row["seconds"] > 0


@pytest.mark.parametrize(
    ("words", "told"),
    [
        (["--knn", "82.6"], "did you mean 0.826?"),
        (["--knn", "0.5", "--seeds", "1", "1"], "names a seed twice"),
        (["--knn", "0.5", "--every", "0"], "from 1, got 0"),
        (["--knn", "0.5", "--set", "temprature=1"], "did you mean 'temperature'?"),
        ([], "--knn"),
    ],
)
def test_mistakes_fit_a_line(
    command: Command, words: list[str], told: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert command(*words) == 2
    error = capsys.readouterr().err
    assert told in error
    assert error.count("\n") == 1


def test_it_needs_something_to_test_on(photos: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["bench", "time-to", str(photos), "--knn", "0.5"]) == 2
    assert "give --monitor-train and --monitor-test" in capsys.readouterr().err
