"""`moco doctor`: what it prints, returns and writes, also of damaged and hostile runs."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import pytest
from made_rows import RECIPE, metrics, signals

from moco.cli.main import main
from moco.machine.packages import Check, Verdict
from moco.recipe_files import set_fields, write_recipe


def write_run(
    path: Path, *, settings: tuple[str, ...] = (), told: bool = True, **changed: Any
) -> Path:
    path.mkdir(exist_ok=True)
    recipe = set_fields(RECIPE, list(settings))
    write_recipe(path / "recipe.yaml", recipe)
    rows = {"metrics": metrics(recipe), "signals": signals(**changed) if told else []}
    for name, lines in rows.items():
        if lines:
            (path / f"{name}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in lines))
    (path / "status.json").write_text(json.dumps({"state": "done", "images": 3200}))
    return path


@pytest.mark.parametrize(
    ("changed", "strict", "code"),
    [
        ({}, [], 0),
        ({}, ["--strict"], 0),
        ({"waiting_share": 0.9}, ["--strict"], 0),  # slow is not sick
        ({"view_difference": 0.0}, [], 0),
        ({"view_difference": 0.0}, ["--strict"], 8),
    ],
)
def test_exit_codes(changed: dict[str, Any], strict: list[str], code: int, tmp_path: Path) -> None:
    assert main(["doctor", str(write_run(tmp_path / "run", **changed)), *strict]) == code


def test_it_says_what_is_wrong_why_and_what_to_change(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run = write_run(tmp_path / "run", settings=("key_momentum=0",), consistency=[[10, 0.5]])
    file = tmp_path / "figures.json"
    assert main(["doctor", str(run), "--json", str(file)]) == 0
    shown = capsys.readouterr().out
    assert "verdict: dictionary stale." in shown
    assert "evidence: within 10 steps a key moves 3.1 times as far" in shown
    assert "remedy: --set key_momentum=0.99" in shown
    assert "3,200 images" in shown
    figures = json.loads(file.read_text())
    assert figures["verdict"] == "dictionary stale"
    assert figures["is_sick"] is True
    assert figures["step"] == 199
    (finding,) = figures["findings"]
    assert (finding["since_step"], finding["until_step"]) == (74, None)
    assert figures["signals"]["effective_rank"] == 10.0


def test_the_signals_stand_beside_those_of_healthy_runs(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["doctor", str(write_run(tmp_path / "run", view_difference=0.2))]) == 0
    lines = capsys.readouterr().out.splitlines()
    (line,) = [line for line in lines if line.startswith("view_difference")]
    assert line.split()[1] == "0.2"
    assert line.endswith("(outside)")
    (line,) = [line for line in lines if line.startswith("queue_filled")]
    assert line.endswith("1 to 1")


def test_a_run_without_signals_is_judged_by_what_there_is(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["doctor", str(write_run(tmp_path / "run", told=False))]) == 0
    shown = capsys.readouterr().out
    assert "verdict: too early to say." in shown
    assert "no signals.jsonl" in shown


@pytest.mark.parametrize("name", ["nothing", "empty", "other", "file"])
def test_what_is_no_run_is_answered_in_one_line(
    name: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "empty").mkdir()
    (tmp_path / "other").mkdir()
    (tmp_path / "other" / "notes.txt").write_text("x")
    (tmp_path / "file").write_text("x")
    assert main(["doctor", str(tmp_path / name)]) == 6
    told = capsys.readouterr().err
    assert told.count("\n") == 1
    assert "moco pretrain" in told


@pytest.mark.parametrize("file", ["metrics.jsonl", "signals.jsonl"])
def test_damaged_lines_are_passed_over(
    file: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run = write_run(tmp_path / "run")
    whole = (run / file).read_bytes()
    damage = b'\xff\xfe\n[1, 2]\n"x"\n{"step": "x"}\n{"step": 1e400}\n' + b"[" * 100_000
    (run / file).write_bytes(whole[:-20] + b"\n" + damage + b'\n{"step": 199, "loss": "a"')
    assert main(["doctor", str(run)]) == 0
    assert "verdict: healthy." in capsys.readouterr().out


@pytest.mark.parametrize("file", ["recipe.yaml", "metrics.jsonl", "signals.jsonl", "status.json"])
def test_a_pipe_in_a_files_place_holds_nothing_up(
    file: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run = write_run(tmp_path / "run")
    (run / file).unlink()
    os.mkfifo(run / file)
    code = main(["doctor", str(run)])
    assert code == (0 if file == "status.json" else 6 if file == "recipe.yaml" else 5)
    assert capsys.readouterr().err.count("\n") == (code != 0)


def test_a_recipes_name_steers_no_terminal(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run = write_run(tmp_path / "run")
    text = (run / "recipe.yaml").read_text()
    changed = text.replace("name: cifar10-resnet18", 'name: "\\e[31mred\\nverdict: x"')
    (run / "recipe.yaml").write_text(changed)
    assert main(["doctor", str(run)]) == 0
    shown = capsys.readouterr().out
    assert "\x1b" not in shown
    assert "\nverdict: x" not in shown


@pytest.mark.parametrize(("verdict", "code"), [("ok", 0), ("warn", 0), ("bad", 8)])
def test_without_a_run_the_machine_is_looked_at(
    verdict: Verdict, code: int, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    seen = Check("memory", "some", verdict, "buy more")
    monkeypatch.setattr("moco.cli.doctor_machine.check_machine", lambda _: [seen])
    assert main(["doctor"]) == 0
    assert main(["doctor", "--strict"]) == code
    assert "memory" in capsys.readouterr().out
