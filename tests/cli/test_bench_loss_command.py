"""`moco bench loss`: the table, the file, and what people get wrong."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from moco.benchmark.loss import comparing
from moco.cli.main import main

WORDS = ["bench", "loss", "--device", "cpu", "--rounds", "2", "--seconds", "1e-6"]
ROW_KEYS = {
    *("name", "title", "includes", "per_core", "loss", "gradient_error", "samples", "extra_bytes"),
    *("milliseconds", "milliseconds_low", "milliseconds_high"),
    *("times_official", "times_official_low", "times_official_high"),
}


def test_prints_a_table_and_writes_every_figure(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(comparing, "extra_bytes", lambda *_: 3 << 20)
    file = tmp_path / "figures.json"
    sizes = ["--batch", "5", "--queue", "33", "--dim", "7", "--temperature", "0.1"]
    assert main([*WORDS, *sizes, "--json", str(file)]) == 0
    shown = capsys.readouterr().out
    figures = json.loads(file.read_text())
    assert [figures[key] for key in ("batch_size", "queue_size", "dim")] == [5, 33, 7]
    assert figures["temperature"] == 0.1
    assert {"rounds", "seconds", "device", "device_name", "versions", "load_after"} <= set(figures)
    assert [row["name"] for row in figures["rows"]] == ["ours", "ours_plain", "official"]
    for row in figures["rows"]:
        assert set(row) == ROW_KEYS
        assert len(row["samples"]) == 2
        low, high = row["milliseconds_low"], row["milliseconds_high"]
        assert low == min(row["samples"]) <= row["milliseconds"] <= high == max(row["samples"])
        assert row["extra_bytes"] == 3 << 20
        assert row["title"] in shown
        assert row["includes"] in shown
    assert figures["rows"][2]["times_official"] == 1
    assert " 3.0 " in shown


@pytest.mark.slow
def test_memory_is_measured_in_a_fresh_process(tmp_path: Path) -> None:
    file = tmp_path / "figures.json"
    sizes = ["--batch", "64", "--queue", "20000", "--dim", "16"]
    assert main([*WORDS, *sizes, "--json", str(file)]) == 0
    official = json.loads(file.read_text())["rows"][2]
    assert 2 * 5e6 < official["extra_bytes"] < 6 * 5e6  # matrices of 64 x 20001 logits


def test_usage_errors_are_one_line(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for words, code, text in (
        (["--rounds", "0"], 2, "--rounds must be from 1, got 0"),
        (["--queue", "0"], 2, "--queue must be from 1, got 0"),
        (["--temperature", "-1"], 2, "--temperature must be from 0.0001"),
        (["--json", str(tmp_path / "no/figures.json")], 5, "cannot write --json"),
    ):
        assert main([*WORDS, *words]) == code, words
        (line,) = capsys.readouterr().err.splitlines()
        assert text in line
