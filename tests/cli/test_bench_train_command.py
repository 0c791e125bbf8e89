"""`moco bench train`: the table, the file, and what people get wrong."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest

from moco.cli.main import main

Command = Callable[..., int]
ROW_KEYS = {
    *("name", "title", "includes", "samples", "cpu_samples"),
    *("images_per_second", "images_per_second_low", "images_per_second_high"),
    *("images_per_cpu_second", "images_per_cpu_second_low", "images_per_cpu_second_high"),
    *("times_official", "times_official_low", "times_official_high"),
    *("times_official_cpu", "times_official_cpu_low", "times_official_cpu_high"),
}


@pytest.fixture
def command(tiny_settings: list[str], photos: Path) -> Command:
    def run(*more: str) -> int:
        settings = [word for setting in tiny_settings for word in ("--set", setting)]
        words = ["bench", "train", "--device", "cpu", "--rounds", "2", "--steps", "1"]
        return main([*words, "--workers", "0", "--images", str(photos), *settings, *more])

    return run


def test_prints_a_table_and_writes_every_figure(
    command: Command, photos: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    file = tmp_path / "figures.json"
    assert command("--json", str(file)) == 0
    shown = capsys.readouterr().out
    figures = json.loads(file.read_text())
    assert (figures["images"], figures["batch_size"], figures["workers"]) == (64, 16, 0)
    assert (figures["source"], figures["rounds"], figures["steps_per_turn"]) == (str(photos), 2, 1)
    assert {"threads", "decoded_difference", "crop_difference", "device_name"} <= set(figures)
    assert {"recipe", "backbone", "image_size", "queue_size", "versions"} <= set(figures)
    assert [row["name"] for row in figures["rows"]] == ["ours", "official"]
    for row in figures["rows"]:
        assert set(row) == ROW_KEYS
        assert len(row["samples"]) == len(row["cpu_samples"]) == 2
        low, high = row["images_per_second_low"], row["images_per_second_high"]
        assert low == min(row["samples"]) <= row["images_per_second"] <= high == max(row["samples"])
        assert row["includes"] in shown
    assert figures["rows"][1]["times_official"] == 1


def test_usage_errors_are_one_line(
    command: Command, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for words, code, text in (
        (["--rounds", "0"], 2, "--rounds must be from 1, got 0"),
        (["--workers", "-1"], 2, "--workers must be from 0"),
        (["--batch", "80", "--queue", "80"], 3, "64 images are fewer than a batch of 80"),
        (["--images", str(tmp_path / "none")], 3, "name a folder"),
        (["--recipe", "moco-v3-resnet50"], 2, "choose a recipe of MoCo v1 or v2"),
        (["--json", str(tmp_path / "no/figures.json")], 5, "cannot write --json"),
    ):
        assert command(*words) == code, words
        (line,) = capsys.readouterr().err.splitlines()
        assert text in line
