from __future__ import annotations

import json
import sys
from collections.abc import Callable, Mapping
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from moco import trackers as trackers_module
from moco.cli.main import main
from moco.errors import InterruptedRunError, UsageError
from moco.plan import Plan, make_plan
from moco.pretraining import train
from moco.progress import SilentReport
from moco.recipe import Recipe
from moco.run_records import read_lines
from moco.trackers import (
    TensorBoard,
    WeightsAndBiases,
    plain_figures,
    read_state,
    tracker_named,
)

EPOCHS, STEPS = 4, 16
Plans = Callable[[], Plan]


class Notes(SilentReport):
    def __init__(self) -> None:
        self.lines: list[str] = []

    def note(self, text: str) -> None:
        self.lines.append(text)


class Fails(Notes):
    """A report at whose hands the run breaks."""

    def stepped(self, row: Mapping[str, Any], plan: Plan) -> None:
        if row["step"] >= 10:
            raise RuntimeError("a kill")


class Kept:
    """A tracker that keeps what it is given, and fails where it is told to."""

    def __init__(self, fails_at: str = "") -> None:
        self.fails_at, self.calls = fails_at, [("made",)]

    def called(self, name: str, *given: Any) -> None:
        self.calls.append((name, *given))
        if name == self.fails_at:
            raise OSError(28, "No space left\non device")

    def begin(self, run: Path, recipe: Recipe, step: int) -> str:
        self.called("begin", run, recipe, step)
        return "kept"

    def figures(self, step: int, values: Mapping[str, float]) -> None:
        self.called("figures", step, dict(values))

    def flush(self) -> None:
        self.called("flush")

    def end(self) -> None:
        self.called("end")

    def named(self, name: str) -> list[tuple[Any, ...]]:
        return [call[1:] for call in self.calls if call[0] == name]


@pytest.fixture
def plan(photos: Path, tiny_settings: list[str], tmp_path: Path) -> Plans:
    def make() -> Plan:
        return make_plan(
            photos,
            recipe="moco-v2",
            settings=tiny_settings,
            epochs=EPOCHS,
            run=tmp_path / "run",
            device="cpu",
            workers=0,
            signals_every=3,
        )

    return make


def test_a_tracker_is_given_what_the_files_are_given(plan: Plans, tmp_path: Path) -> None:
    kept, notes = Kept(), Notes()
    made = plan()
    train(made, trackers=[kept], report=notes, monitor=lambda _: {"knn_top1": 0.5})
    assert kept.calls[1] == ("begin", tmp_path / "run", made.recipe, 0)
    assert kept.calls[-1] == ("end",)
    assert kept.calls[-2] == ("flush",)
    assert "kept" in notes.lines
    metrics = read_lines(tmp_path / "run" / "metrics.jsonl")
    signals = read_lines(tmp_path / "run" / "signals.jsonl")
    assert len(metrics) == STEPS
    assert signals
    wanted = [(row["step"], plain_figures(row)) for row in metrics + signals]
    assert sorted(kept.named("figures"), key=repr) == sorted(wanted, key=repr)
    scores = [values for _, values in kept.named("figures") if "knn_top1" in values]
    assert len(scores) == EPOCHS
    assert {"loss", "pretext_top1", "epoch", "learning_rate"} <= set(scores[0])


def test_only_finite_numbers_are_given() -> None:
    row = {"step": 3, "epoch": 0, "loss": None, "a": float("nan"), "b": True, "c": [[1, 0.5]]}
    assert plain_figures({**row, "d": "x", "e": float("inf"), "f": -1}) == {"epoch": 0.0, "f": -1.0}


@pytest.mark.parametrize("fails_at", ["begin", "figures", "flush", "end"])
def test_a_tracker_that_fails_is_told_once_and_ends_nothing(
    plan: Plans, tmp_path: Path, fails_at: str
) -> None:
    bad, good, notes = Kept(fails_at), Kept(), Notes()
    train(plan(), trackers=[bad, good], report=notes)
    told = [line for line in notes.lines if "Kept failed" in line]
    assert told == ["Kept failed, the run goes on without it: [Errno 28] No space left on device"]
    assert len(bad.named(fails_at)) == 1 + (fails_at == "end")  # it is ended in any case
    assert len(bad.named("end")) == 1 + (fails_at == "end")
    assert {step for step, _ in good.named("figures")} == set(range(STEPS))
    assert json.loads((tmp_path / "run" / "status.json").read_text())["state"] == "done"


def test_other_processes_track_nothing(plan: Plans, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("moco.pretraining.rank", lambda: 1)
    kept = Kept()
    train(plan(), trackers=[kept])
    assert kept.calls == [("made",)]


def test_a_tracker_is_ended_where_the_run_fails_or_is_stopped(plan: Plans) -> None:
    kept = Kept()
    with pytest.raises(RuntimeError, match="a kill"):
        train(plan(), trackers=[kept], report=Fails())
    assert kept.calls[-1] == ("end",)
    kept = Kept()
    with pytest.raises(InterruptedRunError):
        train(plan(), trackers=[kept], stop=lambda: 75)
    assert kept.calls[-1] == ("end",)
    assert kept.named("begin")[0][2] > 0


def scalars(run: Path) -> dict[str, list[tuple[int, float]]]:
    """Return the curves as TensorBoard itself reads them."""
    pytest.importorskip("tensorboard")
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    events = EventAccumulator(str(run / "tb"), size_guidance={"scalars": 0})
    events.Reload()
    return {
        tag: [(event.step, event.value) for event in events.Scalars(tag)]
        for tag in events.Tags()["scalars"]
    }


def test_tensorboard_shows_each_step_once_though_the_run_broke_off(
    plan: Plans, tmp_path: Path
) -> None:
    pytest.importorskip("tensorboard")
    run = tmp_path / "run"
    with pytest.raises(RuntimeError, match="a kill"):
        train(plan(), trackers=[TensorBoard()], report=Fails())
    before = scalars(run)["loss"]
    notes = Notes()
    train(plan(), trackers=[TensorBoard()], report=notes)
    start = next(int(line.split()[4]) for line in notes.lines if line.startswith("going on"))
    assert start <= before[-1][0], "no step was taken twice, so this shows nothing"
    curves = scalars(run)
    rows = {name: read_lines(run / f"{name}.jsonl") for name in ("metrics", "signals")}
    for name in ("loss", "pretext_top1", "learning_rate", "images_per_second"):
        wanted = [(row["step"], row[name]) for row in rows["metrics"]]
        found = curves[name]
        if name == "images_per_second":  # signals have it too
            found = [
                point for point in found if point in [(s, pytest.approx(v)) for s, v in wanted]
            ]
        assert [step for step, _ in found] == list(range(STEPS))
        assert [value for _, value in found] == pytest.approx([value for _, value in wanted])
    names = {name for row in rows["metrics"] + rows["signals"] for name in plain_figures(row)}
    assert set(curves) == names
    assert [step for step, _ in curves["alignment"]] == [row["step"] for row in rows["signals"]]
    assert f"figures for TensorBoard go to {run / 'tb'}" in notes.lines


def test_a_new_start_takes_the_old_curves_aside(plan: Plans, tmp_path: Path) -> None:
    pytest.importorskip("tensorboard")
    train(plan(), trackers=[TensorBoard()])
    train(plan(), trackers=[TensorBoard()], resume="never")
    run = tmp_path / "run"
    assert len(scalars(run)["loss"]) == len(scalars(run / "replaced-1")["loss"]) == STEPS


def test_a_link_does_not_lead_the_figures_out_of_the_run(plan: Plans, tmp_path: Path) -> None:
    pytest.importorskip("tensorboard")
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()
    with pytest.raises(InterruptedRunError):
        train(plan(), stop=lambda: 75)
    (tmp_path / "run" / "tb").symlink_to(elsewhere)
    notes = Notes()
    train(plan(), trackers=[TensorBoard()], report=notes)
    assert not list(elsewhere.iterdir())
    assert any("is a link" in line for line in notes.lines)


class FakeWandb:
    """Stands for the package: what it is asked and given, no network."""

    def __init__(self, *, knows_login: bool = True) -> None:
        self.knows_login = knows_login
        self.runs: list[dict[str, Any]] = []
        self.logged: list[dict[str, float]] = []
        self.finished = 0
        self.url = "https://example.org/run"

    def login(self, *, prompt: bool, verify: bool) -> bool:
        assert not prompt
        assert not verify
        return self.knows_login

    def init(self, **given: Any) -> FakeWandb:
        self.runs.append(given)
        return self

    def Settings(self, **given: Any) -> SimpleNamespace:  # noqa: N802
        return SimpleNamespace(**given)

    def define_metric(self, name: str, **_: Any) -> None: ...

    def log(self, values: dict[str, float]) -> None:
        self.logged.append(values)

    def finish(self) -> None:
        self.finished += 1


@pytest.fixture
def fake(monkeypatch: pytest.MonkeyPatch) -> FakeWandb:
    made = FakeWandb()
    monkeypatch.setitem(sys.modules, "wandb", made)
    monkeypatch.setenv("WANDB_MODE", "online")
    return made


def test_wandb_goes_on_in_the_same_run_without_double_steps(
    plan: Plans, tmp_path: Path, fake: FakeWandb
) -> None:
    with pytest.raises(RuntimeError, match="a kill"):
        train(plan(), trackers=[WeightsAndBiases()], report=Fails())
    notes = Notes()
    train(plan(), trackers=[WeightsAndBiases()], report=notes)
    first, second = fake.runs
    assert first["id"] == second["id"]
    assert (second["resume"], second["name"]) == ("allow", "run")
    assert second["config"]["name"] == "moco-v2"
    for name in ("loss", "alignment"):
        steps = [values["step"] for values in fake.logged if name in values]
        assert steps == sorted(set(steps))
    assert [v["step"] for v in fake.logged if "loss" in v] == list(range(STEPS))
    assert fake.finished == 2
    assert f"figures for Weights & Biases go to {fake.url}" in notes.lines
    train(plan(), trackers=[WeightsAndBiases()], resume="never")
    assert fake.runs[2]["id"] != first["id"]


def test_wandb_is_told_nothing_of_the_machine(plan: Plans, fake: FakeWandb) -> None:
    train(plan(), trackers=[WeightsAndBiases()])
    settings = fake.runs[0]["settings"]
    assert settings.console == "off"
    for name in ("disable_code", "disable_git", "x_disable_stats", "x_disable_machine_info"):
        assert getattr(settings, name) is True


def test_nobody_logged_in_ends_no_run(plan: Plans, fake: FakeWandb) -> None:
    fake.knows_login = False
    notes = Notes()
    train(plan(), trackers=[WeightsAndBiases()], report=notes)
    assert any("nobody is logged in; run `wandb login`" in line for line in notes.lines)
    assert fake.runs == []


@pytest.mark.parametrize(
    "content", ["", "{", "[]", '{"id": 3}', '{"id": "../x", "last": {}}', '{"id": "a", "last": 3}']
)
def test_a_damaged_memory_is_none(tmp_path: Path, content: str) -> None:
    path = tmp_path / "wandb.json"
    path.write_text(content)
    assert read_state(path) == {}
    path.write_text('{"id": "abc", "last": {"loss": 3}}')
    assert read_state(path) == {"id": "abc", "last": {"loss": 3}}


def test_the_real_wandb_offline(
    plan: Plans, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pytest.importorskip("wandb")
    monkeypatch.setenv("WANDB_MODE", "offline")
    notes = Notes()
    train(plan(), trackers=[WeightsAndBiases()], report=notes)
    assert not [line for line in notes.lines if "failed" in line]
    (file,) = (tmp_path / "run" / "wandb").glob("offline-run-*/run-*.wandb")
    assert file.stat().st_size > 1000
    state = read_state(tmp_path / "run" / "wandb.json")
    assert state["last"]["loss"] == STEPS - 1
    assert state["id"] in file.name


def test_the_command_tracks(photos: Path, tiny_settings: list[str], tmp_path: Path) -> None:
    pytest.importorskip("tensorboard")
    settings = [word for setting in tiny_settings for word in ("--set", setting)]
    words = ["--recipe", "moco-v2", "--device", "cpu", "--workers", "0", "--epochs", "1"]
    run = ["--run", str(tmp_path / "run"), "--track", "tensorboard", "--track", "tensorboard"]
    assert main(["pretrain", str(photos), *words, *settings, *run]) == 0
    assert [step for step, _ in scalars(tmp_path / "run")["loss"]] == [0, 1, 2, 3]
    assert len(list((tmp_path / "run" / "tb").iterdir())) == 1


def test_a_tracker_without_its_package_is_refused_before_the_run(
    photos: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.setattr(trackers_module.importlib.util, "find_spec", lambda _: None)
    run = tmp_path / "run"
    words = ["pretrain", str(photos), "--run", str(run), "--track", "wandb"]
    assert main(words) == 2
    assert 'pip install "moco-torch[wandb]"' in capsys.readouterr().err
    assert main([*words[:-1], "wandbb"]) == 2
    assert not run.exists()
    with pytest.raises(UsageError, match="choose tensorboard or wandb"):
        tracker_named("x")
