"""`moco bench input`: the table, the file, and what people get wrong."""

from __future__ import annotations

import json
import zipfile
from collections.abc import Callable
from pathlib import Path

import pytest

from moco.benchmark import photographs
from moco.cli.main import main

Command = Callable[..., int]
ROW_KEYS = {
    "name",
    "title",
    "includes",
    "device",
    "per_core",
    "images_per_pass",
    "images_per_second",
    "images_per_second_low",
    "images_per_second_high",
    "times_official",
    "times_official_low",
    "times_official_high",
    "samples",
}


@pytest.fixture
def command(tmp_path: Path) -> Command:
    recipe = tmp_path / "tiny.yaml"
    recipe.write_text("base: moco-v2\nviews:\n  image_size: 32\n")

    def run(*more: str) -> int:
        words = ["bench", "input", "--device", "cpu", "--rounds", "1", "--seconds", "1e-6"]
        return main([*words, "--recipe", str(recipe), *more])

    return run


def test_prints_a_table_and_writes_every_figure(
    command: Command, photos: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    file = tmp_path / "figures.json"
    assert command("--images", str(photos), "--json", str(file), "--rounds", "2") == 0
    shown = capsys.readouterr().out
    figures = json.loads(file.read_text())
    assert {"images", "mean_bytes", "decoded_difference", "crop_difference"} <= set(figures)
    assert (figures["recipe"], figures["source"]) == ("tiny", str(photos))
    assert (figures["rounds"], figures["images"]) == (2, 48)
    assert figures["processor"]
    assert figures["cores"] >= 1
    assert {"python", "moco", "torch", "torchvision", "pillow", "numpy"} <= set(figures["versions"])
    assert {"load_before", "load_after", "left_out", "seconds"} <= set(figures)
    for row in figures["rows"]:
        assert set(row) == ROW_KEYS
        assert len(row["samples"]) == 2
        low, high = row["images_per_second_low"], row["images_per_second_high"]
        assert low == min(row["samples"]) <= row["images_per_second"] <= high == max(row["samples"])
        assert row["title"] in shown
        assert row["includes"] in shown
    (official,) = [row for row in figures["rows"] if row["name"] == "official"]
    assert official["times_official"] == 1
    for name in figures["left_out"]:
        assert f"without {name}" in shown


def test_a_missing_extra_is_one_line_with_the_remedy(
    command: Command, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(photographs, "ORIGINALS", {"no_such_package": ("data/cat.png",)})
    assert command() == 3
    (line,) = capsys.readouterr().err.splitlines()
    assert "pip install 'moco-torch[bench]'" in line


def test_usage_errors_are_one_line(
    command: Command, photos: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with zipfile.ZipFile(tmp_path / "images.zip", "w") as archive:
        archive.write(photos / "even/00.png", "00.png")
    for words, code, text in (
        (["--images", str(photos), "--rounds", "0"], 2, "--rounds must be from 1, got 0"),
        (["--images", str(photos), "--seconds", "0"], 2, "--seconds must be above 0"),
        (["--images", str(photos), "--recipe", "small"], 2, "made for your images"),
        (["--images", str(photos), "--recipe", "moco-v9"], 2, "did you mean"),
        (["--images", str(tmp_path / "images.zip")], 3, "name a folder"),
        (["--json", str(tmp_path / "no/figures.json")], 5, "cannot write --json"),
    ):
        assert command(*words) == code
        (line,) = capsys.readouterr().err.splitlines()
        assert text in line


def test_help_says_what_is_compared(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["bench", "input", "--help"]) == 0
    shown = capsys.readouterr().out
    for word in ("--images", "--rounds", "--seconds", "--recipe", "lightly", "moco-torch[bench]"):
        assert word in shown
