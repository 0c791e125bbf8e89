"""`benchmarks/gpu.py`: every part at tiny sizes on the CPU, and what cannot run is said."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from types import ModuleType

import pytest
import torch

from moco.benchmark.loss import comparing

SCRIPTS = Path(__file__).parents[2] / "benchmarks"


@pytest.fixture
def gpu(monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    monkeypatch.syspath_prepend(str(SCRIPTS))
    for name in ("gpu", "gpu_running"):
        monkeypatch.delitem(sys.modules, name, raising=False)
    import gpu

    return gpu


def test_all_parts_run_and_are_written(
    gpu: ModuleType,
    class_folders: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.setattr(comparing, "extra_bytes", lambda *_: 1)  # which starts processes
    file = tmp_path / "gpu.json"
    words = ["--all", "--tiny", "--device", "cpu", "--cifar", str(class_folders)]
    words += ["--runs", str(tmp_path / "runs"), "--json", str(file)]
    assert gpu.main(words) == 0, capsys.readouterr().out
    figures = json.loads(file.read_text())
    shown = capsys.readouterr().out
    assert list(figures["parts"]) == gpu.NAMES
    for name, part in figures["parts"].items():
        assert part["state"] == "done", (name, part)
        assert f"{name}: done" in shown
    assert figures["device_name"]
    assert figures["tiny"] is True
    assert figures["versions"]["torch"]
    step = figures["parts"]["step-resnet50"]["figures"]
    assert [row["name"] for row in step["rows"]][:1] == ["ours"]
    assert step["profile"][0]["floor_share"] > 0
    assert (step["backbone"], step["batch_size"]) == ("resnet18", 16)
    assert figures["parts"]["loss-1048576"]["figures"]["queue_size"] == 128
    assert 0 <= figures["parts"]["cifar10"]["figures"]["knn"]["top1"] <= 1
    assert figures["parts"]["cifar10-symmetric"]["figures"]["seconds"] > 0
    graphs = figures["parts"]["cuda-graphs"]["figures"]
    assert all(graphs[name]["images_per_second"] > 0 for name in ("without", "with"))
    assert not graphs["without"]["said"]
    assert "the device is cpu" in graphs["with"]["said"][0]
    goals = {goal["goal"]: goal for goal in figures["goals"]}
    assert len(goals) == len(gpu.GOALS)
    assert all(goal["met"] is (goal["found"] >= goal["least"]) for goal in goals.values())
    for row in ("lightly", "stable_pretraining"):
        if row in figures["parts"]["views"]["figures"]["left_out"]:
            assert f"without {row}: not installed" in shown


def test_says_what_it_could_not_run(
    gpu: ModuleType, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    file = tmp_path / "gpu.json"
    words = ["--tiny", "--device", "cpu", "--runs", str(tmp_path), "--json", str(file)]
    assert gpu.main([*words, "--parts", "cifar10"]) == 0
    assert "cifar10: not run: it needs --cifar CIFAR10" in capsys.readouterr().out
    assert gpu.main([*words, "--parts", "views,loss-65536", "--minutes", "0"]) == 0
    shown = capsys.readouterr().out
    assert "views: not run: no time left: --parts views runs it alone" in shown
    assert "not measured: kNN of CIFAR-10" in shown
    assert set(json.loads(file.read_text())["parts"]) == {"cifar10", "views", "loss-65536"}
    missing = ["--cifar", str(tmp_path / "none"), "--parts", "cifar10-symmetric"]
    assert gpu.main([*words, *missing]) == 1
    assert "cifar10-symmetric: failed: moco: error:" in capsys.readouterr().out


SAVES = """
import signal, sys, time
def save(*_):
    print("stopped and saved")
    sys.exit(75)
signal.signal(signal.SIGTERM, save)
time.sleep(60)
"""
DEAF = """
import signal, time
signal.signal(signal.SIGTERM, signal.SIG_IGN)
time.sleep(60)
"""


def test_a_command_has_its_time_and_may_save(
    gpu: ModuleType, monkeypatch: pytest.MonkeyPatch
) -> None:
    running = sys.modules["gpu_running"]
    monkeypatch.setattr(running, "MOCO", [sys.executable, "-c"])
    monkeypatch.setattr(running, "STOP_SECONDS", 0.5)
    ended = gpu.run_apart([SAVES], 1.0)
    assert (ended.stopped, ended.code, ended.text) == (True, gpu.STOPPED, "stopped and saved\n")
    ended = gpu.run_apart([DEAF], 0.5)
    assert (ended.stopped, ended.code) == (True, -9)
    assert ended.seconds < 10
    ended = gpu.run_apart(["print(7)"], 30.0)
    assert (ended.stopped, ended.code, ended.text) == (False, 0, "7\n")


def test_time_of_a_run_that_goes_on_adds_up(
    gpu: ModuleType, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    words = ["--tiny", "--device", "cpu", "--cifar", "x", "--runs", str(tmp_path)]
    words += ["--json", str(tmp_path / "gpu.json"), "--parts", "cifar10"]
    kinds = iter([True, True, False, False])

    def run(given: list[str], _: float) -> object:
        stopped = given[0] == "pretrain" and next(kinds)
        if not stopped:
            Path(given[-1]).write_text(json.dumps({"top1": 0.9}))
        return gpu.Ended(gpu.STOPPED if stopped else 0, 100.0, "stopped and saved", stopped)

    monkeypatch.setattr(gpu, "run_here", run)
    seen = []
    for _ in range(4):
        assert gpu.main(words) == 0
        part = json.loads((tmp_path / "gpu.json").read_text())["parts"]["cifar10"]
        seen.append((part["state"], part["figures"]["seconds"]))
    assert seen == [("stopped", 100), ("stopped", 200), ("done", 300), ("done", 100)]


def test_goals_are_read_from_the_figures(gpu: ModuleType) -> None:
    rows = [
        {"name": "ours", "images_per_second": 3600.0},
        {"name": "official", "images_per_second": 1000.0},
        {"name": "official_tuned", "images_per_second": 2500.0},
    ]
    parts = {
        "step-resnet50": {"state": "done", "figures": {"rows": rows}},
        "cifar10": {"state": "done", "figures": {"seconds": 300.0, "knn": {"top1": 0.83}}},
        "cifar10-symmetric": {"state": "stopped", "figures": {"seconds": 300.0}},
    }
    found = [(goal["found"], goal["met"]) for goal in gpu.goals_of(parts)]
    assert found == [
        *((3600.0, True), (3.6, True), (1.44, False)),
        *((1.2, True), (0.83, True), (None, None)),
    ]


@pytest.mark.parametrize(
    ("words", "told"),
    [
        (["--device", "cpu"], "goes with --tiny"),
        (["--parts", "step"], "no part step; choose of step-resnet50"),
        pytest.param(
            [],
            "no CUDA device here; --tiny --device cpu checks the script",
            marks=pytest.mark.skipif(torch.cuda.is_available(), reason="has a CUDA device"),
        ),
    ],
)
def test_mistakes_are_told(
    gpu: ModuleType, words: list[str], told: str, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit) as stop:
        gpu.main(words)
    assert stop.value.code == 2
    assert told in capsys.readouterr().err
