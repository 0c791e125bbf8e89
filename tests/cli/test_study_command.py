"""`moco study`: what it leaves behind, and what people get wrong."""

from __future__ import annotations

import json
import sys
import xml.etree.ElementTree as ElementTree
from collections.abc import Callable
from pathlib import Path

import pytest
from PIL import Image

from moco.cli import study as study_command
from moco.cli.main import main
from moco.cli.parser import given_seconds
from moco.report import study_page
from moco.studies import cells, forecast
from moco.studies.catalogue import STUDIES
from moco.studies.forecast import Forecast
from moco.studies.grid import Grid

Command = Callable[..., int]


@pytest.fixture
def command(class_folders: Path, tiny_settings: list[str], tmp_path: Path) -> Command:
    def run(study: str, *more: str) -> int:
        settings = [*tiny_settings, "batch_size=4", "optimizer.schedule=cosine"]
        words = ["study", study, "--images", str(class_folders / "train")]
        words += ["--test", str(class_folders / "test"), "--run", str(tmp_path / "run")]
        words += ["--recipe", "cifar10-resnet18", "--device", "cpu", "--workers", "0"]
        words += [word for setting in settings for word in ("--set", setting)]
        length = [] if "--budget" in more else ["--epochs", "1"]
        return main([*words, *length, "--seeds", "1", *more])

    return run


@pytest.fixture(autouse=True)
def quick_forecast(monkeypatch: pytest.MonkeyPatch) -> None:
    def forecast(grid: Grid, *, keep: bool) -> Forecast:
        return Forecast({setting.name: 20.0 for setting in grid.settings}, 0.5)

    monkeypatch.setattr(study_command, "forecast", forecast)
    monkeypatch.setattr(cells, "STATISTICS_STEPS", 2)


@pytest.fixture
def no_figure(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(study_page, "draw", lambda *_: None)


@pytest.mark.parametrize("study", ["queue-size", "shuffle-bn"])
def test_a_study_leaves_table_figure_and_figures(
    study: str, command: Command, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert command(study, "--json", str(tmp_path / "figures.json")) == 0
    shown = capsys.readouterr().out
    run = tmp_path / "run"
    values = json.loads((run / f"study-{study}.json").read_text())
    assert values == json.loads((tmp_path / "figures.json").read_text())
    names = [setting["name"] for setting in values["settings"]]
    page = (run / f"study-{study}.md").read_text()
    for name in [*names, "untrained with statistics", "raw pixels"]:
        assert f"| {name} |" in page
        assert name in shown
    assert STUDIES[study].source in page
    for setting in values["settings"]:
        (scores,) = setting["seeds"]
        assert 0 <= scores["linear"] <= 1
        assert (run / "cells" / scores["cell"] / "scores.json").exists()
        assert setting["recipe"]["epochs"] == 1
    assert {claim["verdict"] for claim in values["claims"]} == {"one seed tells nothing"}
    assert "one seed tells nothing" in page
    with Image.open(run / f"study-{study}.png") as image:
        assert image.width > 1000
    root = ElementTree.parse(run / f"study-{study}.svg").getroot()
    assert root.tag.endswith("svg")
    lines = shown.splitlines()
    assert lines[0].startswith(STUDIES[study].title)
    assert f"{len(names)} runs of 1 epochs, about " in lines[0]
    assert sum(f"1/{len(names)} " in line for line in lines) == 2  # begun and done


def test_a_finished_study_is_shown_again(
    command: Command, no_figure: None, capsys: pytest.CaptureFixture[str]
) -> None:
    command("queue-size")
    first = capsys.readouterr().out
    assert command("queue-size") == 0
    again = capsys.readouterr().out
    assert "2 of them done\n" in again
    table = "Size of the queue\n"
    assert (
        again.partition(table)[2].partition("done in")[0]
        == (first.partition(table)[2].partition("done in")[0])
    )


def test_a_dry_run_writes_nothing(
    command: Command, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert command("mechanisms", "--dry-run", "--json", str(tmp_path / "figures.json")) == 0
    shown = capsys.readouterr().out
    assert "end-to-end, K 7" in shown
    assert not (tmp_path / "run").exists()
    figures = json.loads((tmp_path / "figures.json").read_text())
    assert figures == {"runs": 6, "epochs": 1, "predicted_seconds": 6 * 20.5}


def test_a_forecast_is_timed_on_these_images(
    command: Command,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(study_command, "forecast", forecast.forecast)
    assert command("mechanisms", "--dry-run", "--json", str(tmp_path / "figures.json")) == 0
    assert 0 < json.loads((tmp_path / "figures.json").read_text())["predicted_seconds"] < 300
    assert not (tmp_path / "run").exists()


def test_a_budget_decides_the_epochs_once(
    command: Command, no_figure: None, capsys: pytest.CaptureFixture[str]
) -> None:
    assert command("queue-size", "--budget", "100s") == 0  # 2 runs of 20 s an epoch
    assert "2 runs of 2 epochs" in capsys.readouterr().out
    assert command("queue-size", "--budget", "3h") == 0
    assert "2 runs of 2 epochs, 2 of them done" in capsys.readouterr().out


def test_diverged_runs_are_named(command: Command, no_figure: None, tmp_path: Path) -> None:
    assert command("queue-size", "--set", "optimizer.learning_rate=1e30") == 0
    page = (tmp_path / "run" / "study-queue-size.md").read_text()
    assert "| MoCo, K 4 (1 diverged) |" in page
    assert "- MoCo, K 16, seed 0: " in page
    assert "no figures" in page


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["--seeds", "0"], "seeds must be at least 1, got 0"),
        (["--budget", "30s"], "raise it, or lower --seeds"),
        (["--budget", "soon"], "'soon' is no time; write 90m, 2h or 30s"),
        (["--budget", "1h", "--epochs", "2"], "not allowed with"),
        (["--set", "mechanism=end_to_end"], "choose a recipe such as small"),
        (["--test", "nowhere"], "nowhere"),
        (["--epoch", "3"], "did you mean --epochs?"),
    ],
)
def test_mistakes_are_answered_in_a_line_and_nothing_is_written(
    words: list[str],
    said: str,
    command: Command,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(study_command, "score_pixels", lambda *_: {})
    assert command("queue-size", *words) in (2, 3)
    line = capsys.readouterr().err
    assert line.startswith("moco: error: ")
    assert line.count("\n") == 1
    assert said in line
    assert not (tmp_path / "run").exists()


def test_an_unknown_study(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["study", "queue"]) == 2
    line = capsys.readouterr().err
    assert line.count("\n") == 1
    assert all(name in line for name in STUDIES)


def test_without_matplotlib_nothing_begins(
    command: Command,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setitem(sys.modules, "matplotlib", None)
    assert command("queue-size") == 2
    line = capsys.readouterr().err
    assert line.count("\n") == 1
    assert "pip install 'moco-torch[viz]'" in line
    assert not (tmp_path / "run").exists()


def test_times() -> None:
    assert [given_seconds(text) for text in ("90m", "2h", "30s", "1.5h")] == [5400, 7200, 30, 5400]
