"""`moco bench step`: the table, the file, and what people get wrong."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest

from moco.cli.main import main

Command = Callable[..., int]
ROW_KEYS = {
    *("name", "title", "includes", "per_core", "samples"),
    *("images_per_second", "images_per_second_low", "images_per_second_high"),
    *("times_official", "times_official_low", "times_official_high"),
    *("first_losses", "weights", "operations_per_step"),
}


@pytest.fixture
def command(tiny_settings: list[str]) -> Command:
    def run(*more: str) -> int:
        settings = [word for setting in tiny_settings for word in ("--set", setting)]
        words = ["bench", "step", "--device", "cpu", "--rounds", "1", "--seconds", "1e-6"]
        return main([*words, *settings, *more])

    return run


def test_prints_a_table_and_writes_every_figure(
    command: Command, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    file = tmp_path / "figures.json"
    assert command("--batch", "8", "--queue", "24", "--json", str(file), "--rounds", "2") == 0
    shown = capsys.readouterr().out
    figures = json.loads(file.read_text())
    assert (figures["batch_size"], figures["queue_size"], figures["dim"]) == (8, 24, 16)
    assert (figures["recipe"], figures["device"]) == ("cifar10-resnet18", "cpu")
    assert {"rounds", "seconds", "backbone", "image_size", "symmetric"} <= set(figures)
    assert {"batch_norm_groups", "device_name", "left_out", "versions"} <= set(figures)
    assert {"processor", "cores", "load_before", "load_after"} <= set(figures)
    for row in figures["rows"]:
        assert set(row) == ROW_KEYS
        assert len(row["samples"]) == len(row["first_losses"]) == 2
        low, high = row["images_per_second_low"], row["images_per_second_high"]
        assert low == min(row["samples"]) <= row["images_per_second"] <= high == max(row["samples"])
        assert row["title"] in shown
        assert row["includes"] in shown
    (official,) = [row for row in figures["rows"] if row["name"] == "official"]
    assert official["times_official"] == 1
    for name in figures["left_out"]:
        assert f"without {name}" in shown


def test_says_where_the_time_goes(
    command: Command, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    file, trace = tmp_path / "figures.json", tmp_path / "trace.json"
    assert command("--profile", str(trace), "--json", str(file)) == 0
    shown = capsys.readouterr().out
    ours, official = json.loads(file.read_text())["profile"]
    assert (ours["name"], official["name"]) == ("ours", "official")
    for found in (ours, official):
        assert sum(found["shares"].values()) == pytest.approx(1.0, abs=0.01)
        assert found["floor_share"] > 0
        longer = max(found["operation_seconds"], found["byte_seconds"])
        assert found["floor_share"] == pytest.approx(longer / found["seconds_per_step"], abs=1e-3)
    for part in ours["shares"]:
        assert part in shown
    assert json.loads(trace.read_text())["traceEvents"]


def test_usage_errors_are_one_line(
    command: Command, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for words, code, text in (
        (["--rounds", "0"], 2, "--rounds must be from 1, got 0"),
        (["--seconds", "0"], 2, "--seconds must be above 0"),
        (["--queue", "40"], 2, "a multiple of 16, not 40"),
        (["--batch", "7"], 2, "does not split into batch_norm_groups"),
        (["--recipe", "small"], 2, "made for your images"),
        (["--recipe", "moco-v3-vit-small"], 2, "choose a recipe of MoCo v1 or v2"),
        (["--set", "temprature=1"], 2, "did you mean"),
        (["--json", str(tmp_path / "no/figures.json")], 5, "cannot write --json"),
        (["--profile", str(tmp_path / "no/trace.json")], 5, "cannot write --profile"),
    ):
        assert command(*words) == code, words
        (line,) = capsys.readouterr().err.splitlines()
        assert text in line
