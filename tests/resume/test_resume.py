"""A run that was stopped, killed or broken and started again equals one that never was."""

from __future__ import annotations

import importlib
import json
import math
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
import torch
from bitwise import assert_bitwise

from moco.checkpoint import load_checkpoint, load_newest
from moco.cli.main import main
from moco.data.sources.folder import FolderImages
from moco.errors import (
    CheckpointError,
    DataError,
    DivergedError,
    InterruptedRunError,
    StorageError,
    UsageError,
)
from moco.plan import Plan, make_plan
from moco.progress import SilentReport
from moco.recipe import Recipe
from moco.recipe_files import set_fields
from moco.recipes import MOCO_V2
from moco.session import Session

pretrain_module = importlib.import_module("moco.pretraining")
train = pretrain_module.train
STEPS = 12  # three epochs of four


@pytest.fixture(scope="module")
def recipe(tiny_settings: list[str]) -> Recipe:
    return set_fields(
        MOCO_V2,
        [
            *tiny_settings,
            "views.order=[crop, horizontal_flip]",
            "algorithm=adamw",
            "schedule=warmup_cosine",
            "warmup_epochs=0.5",
            "learning_rate=1e-3",
            "key_momentum=0.9",
            "exclude_same_image=true",
            "epochs=3",
        ],
    )


def plan_of(photos: Path, recipe: Recipe, run: Path, **options: Any) -> Plan:
    return make_plan(photos, recipe=recipe, run=run, device="cpu", **{"workers": 0, **options})


def drawing_monitor(_: object) -> Mapping[str, float]:
    """Stand in for kNN; it draws from the random state that the run must carry on."""
    return {"knn_top1": float(torch.rand(()))}


class StopAfter:
    """Asks to stop, or raises, once so many steps were taken."""

    def __init__(self, steps: int, answer: int | BaseException = 75) -> None:
        self.left, self.answer = steps, answer

    def __call__(self) -> int | None:
        self.left -= 1
        if self.left:
            return None
        if isinstance(self.answer, BaseException):
            raise self.answer
        return self.answer


class Notes(SilentReport):
    """Keeps what a run says."""

    def __init__(self) -> None:
        self.lines: list[str] = []

    def note(self, text: str) -> None:
        self.lines.append(text)


@pytest.fixture(scope="module")
def unbroken(photos: Path, recipe: Recipe, tmp_path_factory: pytest.TempPathFactory) -> Path:
    run = tmp_path_factory.mktemp("unbroken") / "run"
    return Path(train(plan_of(photos, recipe, run), monitor=drawing_monitor))


def status_of(run: Path) -> dict[str, Any]:
    return dict(json.loads((run / "status.json").read_text()))


def metrics_of(run: Path) -> list[str]:
    """Return the lines of metrics.jsonl without the one figure that a clock decides."""
    rows = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    return [json.dumps({k: v for k, v in row.items() if k != "images_per_second"}) for row in rows]


def content_of(folder: Path) -> dict[str, bytes]:
    return {
        path.relative_to(folder).as_posix(): path.read_bytes()
        for path in sorted(folder.rglob("*"))
        if path.is_file()
    }


def assert_equal_runs(run: Path, other: Path, steps: int = STEPS) -> None:
    last = f"checkpoints/step_{steps:08d}"
    for name in ("model.safetensors", "recipe.json"):
        assert (run / last / name).read_bytes() == (other / last / name).read_bytes(), name
    states = [load_checkpoint(one / last).train_state for one in (run, other)]
    assert_bitwise(*states)
    assert metrics_of(run) == metrics_of(other)
    assert [json.loads(line)["step"] for line in metrics_of(run)] == list(range(steps))
    assert status_of(run)["state"] == "done"


def test_the_unbroken_run_is_as_expected(unbroken: Path) -> None:
    assert_equal_runs(unbroken, unbroken)
    assert (unbroken / "latest").read_text() == "step_00000012"
    rows = [json.loads(line) for line in metrics_of(unbroken)]
    assert [row["step"] for row in rows if "knn_top1" in row] == [3, 7, 11]
    assert len({row["loss"] for row in rows}) == STEPS
    expected = {"state": "done", "code": 0, "step": 12, "steps": 12, "skipped_files": 0}
    assert status_of(unbroken).items() >= expected.items()


@pytest.mark.parametrize(
    ("stops", "workers"),
    [([3], 0), ([4], 0), ([9], 2), ([1, 4, 6], 0)],
    ids=["mid-epoch", "epoch end", "two workers", "three stops"],
)
def test_stopped_and_resumed_equals_unbroken(
    stops: list[int], workers: int, unbroken: Path, photos: Path, recipe: Recipe, tmp_path: Path
) -> None:
    run, done = tmp_path / "run", 0
    for steps in stops:
        plan = plan_of(photos, recipe, run, workers=workers)
        with pytest.raises(InterruptedRunError, match=f"step {done + steps} of 12") as caught:
            train(plan, monitor=drawing_monitor, stop=StopAfter(steps))
        done += steps
        assert caught.value.exit_code == 75
        status = status_of(run)
        assert (status["state"], status["code"], status["step"]) == ("interrupted", 75, done)
        assert (run / "latest").read_text() == f"step_{done:08d}"
        assert len(metrics_of(run)) == done
        torch.rand(7)  # whatever another process's random state may be
    notes = Notes()
    plan = plan_of(photos, recipe, run, workers=workers)
    train(plan, monitor=drawing_monitor, report=notes)
    assert notes.lines == [f"going on from step {done} of 12"]
    assert_equal_runs(run, unbroken)


def test_bfloat16_keys_are_kept_and_gone_on_from(
    photos: Path, recipe: Recipe, tmp_path: Path
) -> None:
    recipe = set_fields(recipe, ["key_precision=bfloat16"])
    once, twice = (plan_of(photos, recipe, tmp_path / name) for name in ("once", "twice"))
    with pytest.raises(InterruptedRunError):
        train(twice, monitor=drawing_monitor, stop=StopAfter(5))
    for plan in (once, twice):
        train(plan, monitor=drawing_monitor)
    assert_equal_runs(once.run, twice.run)
    keys = load_newest(once.run).model["dictionary.keys"]
    assert keys.dtype == torch.bfloat16
    wide = plan_of(photos, set_fields(recipe, ["key_precision=float32"]), once.run)
    with pytest.raises(UsageError, match=r"dictionary\.key_precision bfloat16 -> float32"):
        train(wide)


def save_only_at(monkeypatch: pytest.MonkeyPatch, *steps: int) -> None:
    monkeypatch.setattr(Session, "is_save_due", lambda session: session.step in {*steps, STEPS})


def test_figures_of_steps_that_were_lost_are_not_kept_twice(
    unbroken: Path,
    photos: Path,
    recipe: Recipe,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    run = tmp_path / "run"
    save_only_at(monkeypatch, 4)
    with pytest.raises(ZeroDivisionError):
        train(
            plan_of(photos, recipe, run),
            monitor=drawing_monitor,
            stop=StopAfter(10, ZeroDivisionError("a bug")),
        )
    assert len(metrics_of(run)) == 8  # beyond the checkpoint of step 4
    status = status_of(run)
    assert (status["state"], status["code"], status["reason"]) == ("failed", 1, "a bug")
    with open(run / "metrics.jsonl", "a") as file:
        file.write('{"step": 8, "epoch": 2, "lo')  # the kill came while it was written
    train(plan_of(photos, recipe, run), monitor=drawing_monitor)
    assert_equal_runs(run, unbroken)


def test_a_run_killed_before_its_first_checkpoint_starts_again(
    unbroken: Path,
    photos: Path,
    recipe: Recipe,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    run = tmp_path / "run"
    save_only_at(monkeypatch)
    with pytest.raises(ZeroDivisionError):
        train(plan_of(photos, recipe, run), stop=StopAfter(6, ZeroDivisionError()))
    assert not (run / "checkpoints").exists()
    other = set_fields(recipe, ["temperature=0.3"])
    with pytest.raises(UsageError, match=r"temperature 0\.2 -> 0\.3"):
        train(plan_of(photos, other, run))
    train(plan_of(photos, recipe, run), monitor=drawing_monitor)
    assert_equal_runs(run, unbroken)


def test_a_damaged_checkpoint_is_named_and_the_one_before_is_taken(
    unbroken: Path,
    photos: Path,
    recipe: Recipe,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    run = tmp_path / "run"
    save_only_at(monkeypatch, 4, 8)
    with pytest.raises(InterruptedRunError):
        train(plan_of(photos, recipe, run), monitor=drawing_monitor, stop=StopAfter(8))
    broken = run / "checkpoints" / "step_00000008" / "train_state.pt"
    broken.write_bytes(broken.read_bytes()[:-1])
    notes = Notes()
    train(plan_of(photos, recipe, run), monitor=drawing_monitor, report=notes)
    passed, going_on = notes.lines
    assert passed.startswith("passed over: ")
    assert str(broken) in passed
    assert going_on == "going on from step 4 of 12"
    assert_equal_runs(run, unbroken)


def test_only_damaged_checkpoints_stop_the_run_instead_of_starting_again(
    unbroken: Path, photos: Path, recipe: Recipe, tmp_path: Path
) -> None:
    run = shutil.copytree(unbroken, tmp_path / "run")
    for path in run.glob("checkpoints/*/model.safetensors"):
        path.write_bytes(b"")
    before = content_of(run)
    with pytest.raises(CheckpointError, match=r"model\.safetensors"):
        train(plan_of(photos, recipe, run))
    assert content_of(run) == before


def test_a_finished_run_returns_at_once_and_untouched(
    unbroken: Path, photos: Path, recipe: Recipe, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run, notes = shutil.copytree(unbroken, tmp_path / "run"), Notes()
    before = content_of(run)
    monkeypatch.setattr(pretrain_module, "build_contrast", None)
    assert train(plan_of(photos, recipe, run), report=notes) == run
    assert content_of(run) == before
    assert notes.lines == [f"{run} is done: 12 of 12 steps"]


def test_a_run_killed_between_its_last_checkpoint_and_its_status_is_done_in_the_end(
    unbroken: Path, photos: Path, recipe: Recipe, tmp_path: Path
) -> None:
    run = shutil.copytree(unbroken, tmp_path / "run")
    status = {**status_of(run), "state": "running"}
    (run / "status.json").write_text(json.dumps(status))
    train(plan_of(photos, recipe, run))
    assert status_of(run)["state"] == "done"


def other_photos(photos: Path, folder: Path, change: str) -> Path:
    copied = shutil.copytree(photos, folder / "photos")
    first = copied / FolderImages(copied).name(0)
    if change == "one more":
        shutil.copy(first, first.with_name("zz.png"))
    else:
        first.rename(first.with_name("renamed.png"))
    return copied


@pytest.mark.parametrize(
    ("change", "told"),
    [
        ("recipe", r"temperature 0\.2 -> 0\.3"),
        ("epochs", "epochs 3 -> 2"),
        ("seed", "seed 0 -> 1"),
        ("one more", "64 then and 65 now"),
        ("renamed", "other images"),
    ],
)
def test_another_run_in_the_directory_is_refused_and_left_untouched(
    change: str, told: str, unbroken: Path, photos: Path, recipe: Recipe, tmp_path: Path
) -> None:
    run = shutil.copytree(unbroken, tmp_path / "run")
    before, seed, images = content_of(run), 0, photos
    if change == "recipe":
        recipe = set_fields(recipe, ["temperature=0.3"])
    elif change == "epochs":
        recipe = set_fields(recipe, ["epochs=2"])
    elif change == "seed":
        seed = 1
    else:
        images = other_photos(photos, tmp_path, change)
    with pytest.raises(UsageError, match=told) as caught:
        train(plan_of(images, recipe, run, seed=seed))
    assert "\n" not in str(caught.value)
    assert "--resume never" in str(caught.value)
    assert content_of(run) == before


def test_a_directory_of_something_else_is_refused(
    photos: Path, recipe: Recipe, tmp_path: Path
) -> None:
    (tmp_path / "thesis.tex").write_text("all my work")
    for run, told in ((tmp_path, "something else"), (tmp_path / "thesis.tex", "is a file")):
        with pytest.raises(UsageError, match=told):
            train(plan_of(photos, recipe, run))
    assert content_of(tmp_path) == {"thesis.tex": b"all my work"}


def test_resume_never_takes_no_directory_of_something_else(
    photos: Path, recipe: Recipe, tmp_path: Path
) -> None:
    for name, text in (("recipe.yaml", "mine: 1"), ("notes.txt", "all my work")):
        folder = tmp_path / name.partition(".")[0]
        folder.mkdir()
        (folder / name).write_text(text)
        with pytest.raises(UsageError, match="something else"):
            train(plan_of(photos, recipe, folder), resume="never")
        assert content_of(folder) == {name: text.encode()}


def test_a_directory_that_cannot_be_begun_is_not_left_behind(
    photos: Path, recipe: Recipe, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*_: object, **__: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("moco.run_directory.write_recipe", full)
    with pytest.raises(StorageError, match="No space left"):
        train(plan_of(photos, recipe, tmp_path / "run"))
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize("line", ["5", "[]", "{}", "null", "cut"])
def test_a_line_of_the_metrics_that_is_no_row_is_dropped(
    line: str, unbroken: Path, photos: Path, recipe: Recipe, tmp_path: Path
) -> None:
    run = tmp_path / "run"
    with pytest.raises(InterruptedRunError):
        train(plan_of(photos, recipe, run), monitor=drawing_monitor, stop=StopAfter(6))
    with open(run / "metrics.jsonl", "a") as file:
        file.write(f"{line}\n")
    train(plan_of(photos, recipe, run), monitor=drawing_monitor)
    assert_equal_runs(run, unbroken)


def test_weights_that_a_last_step_broke_are_not_saved(
    photos: Path, recipe: Recipe, tmp_path: Path
) -> None:
    sessions: list[Session] = []
    build = pretrain_module.build_contrast

    def keep(*arguments: Any, **options: Any) -> Any:
        sessions.append(build(*arguments, **options))
        return sessions[-1]

    def break_weights() -> int:
        with torch.no_grad():
            sessions[-1].encoder.head[0].weight[0, 0] = math.nan  # type: ignore[attr-defined]
        return 75

    pretrain_module.build_contrast = keep
    try:
        with pytest.raises(DivergedError, match="weights are not finite after step 0"):
            train(plan_of(photos, recipe, tmp_path / "run"), stop=break_weights)
    finally:
        pretrain_module.build_contrast = build
    assert load_newest(tmp_path / "run") is None


def test_a_monitor_whose_images_went_away_does_not_end_the_run(
    unbroken: Path, photos: Path, recipe: Recipe, tmp_path: Path
) -> None:
    def gone(_: object) -> Mapping[str, float]:
        torch.rand(())
        raise DataError("none of the 4 images can be read")

    notes = Notes()
    run = train(plan_of(photos, recipe, tmp_path / "run"), monitor=gone, report=notes)
    assert len([line for line in notes.lines if line.startswith("not monitored: none")]) == 3
    assert [json.loads(row)["loss"] for row in metrics_of(run)] == [
        json.loads(row)["loss"] for row in metrics_of(unbroken)
    ]


def test_resume_never_puts_the_earlier_run_aside_whole(
    unbroken: Path, photos: Path, recipe: Recipe, tmp_path: Path
) -> None:
    run = shutil.copytree(unbroken, tmp_path / "run")
    before = content_of(run)
    other = set_fields(recipe, ["temperature=0.3", "epochs=1"])
    train(plan_of(photos, other, run), resume="never")
    assert content_of(run / "replaced-1") == before
    assert (run / "latest").read_text() == "step_00000004"
    assert len(metrics_of(run)) == 4
    train(plan_of(photos, recipe, run), resume="never", monitor=drawing_monitor)
    assert content_of(run / "replaced-1") == before
    assert (run / "replaced-2" / "latest").read_text() == "step_00000004"
    assert_equal_runs(run, unbroken)


def test_the_status_is_running_while_it_runs(photos: Path, recipe: Recipe, tmp_path: Path) -> None:
    seen: list[tuple[str, int]] = []

    def look() -> int | None:
        status = status_of(tmp_path / "run")
        seen.append((status["state"], status["pid"]))
        return None

    train(plan_of(photos, set_fields(recipe, ["epochs=1"]), tmp_path / "run"), stop=look)
    assert set(seen) == {("running", os.getpid())}
    assert status_of(tmp_path / "run")["state"] == "done"


def test_a_second_interrupt_leaves_the_exit_code_in_the_status(
    photos: Path, recipe: Recipe, tmp_path: Path
) -> None:
    run = tmp_path / "run"
    with pytest.raises(KeyboardInterrupt):
        train(plan_of(photos, recipe, run), stop=StopAfter(2, KeyboardInterrupt()))
    assert status_of(run)["code"] == 130


def test_a_full_disk_ends_the_run_with_its_earlier_checkpoint_whole(
    unbroken: Path,
    photos: Path,
    recipe: Recipe,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    run = tmp_path / "run"
    save_only_at(monkeypatch, 4, 8)

    def full(tensors: object, path: Path) -> None:
        if "step_00000008" in str(path):
            raise OSError(28, "No space left on device")
        plain(tensors, path)

    checkpoint_module = importlib.import_module("moco.checkpoint")
    plain = checkpoint_module.save_file
    with monkeypatch.context() as broken:
        broken.setattr(checkpoint_module, "save_file", full)
        with pytest.raises(StorageError, match="No space left"):
            train(plan_of(photos, recipe, run), monitor=drawing_monitor)
    assert (status_of(run)["state"], status_of(run)["code"]) == ("failed", 5)
    train(plan_of(photos, recipe, run), monitor=drawing_monitor)
    assert_equal_runs(run, unbroken)


# the same with processes that are really killed


LONG = 24 * 4


@pytest.fixture(scope="module")
def command(photos: Path, tiny_settings: list[str]) -> list[str]:
    fewer = [*tiny_settings, "views.order=[crop, horizontal_flip]"]
    settings = [word for setting in fewer for word in ("--set", setting)]
    where = ["--device", "cpu", "--workers", "0"]
    return ["pretrain", str(photos), "--recipe", "moco-v2", "--epochs", "24", *settings, *where]


@pytest.fixture(scope="module")
def long_run(command: list[str], tmp_path_factory: pytest.TempPathFactory) -> Path:
    run = tmp_path_factory.mktemp("long") / "run"
    assert main([*command, "--run", str(run)]) == 0
    return run


def start_until_saved(command: list[str], run: Path) -> subprocess.Popen[str]:
    """Start the command in a process group of its own; return when it has a checkpoint."""
    process = subprocess.Popen(
        [sys.executable, "-m", "moco", *command, "--run", str(run)],
        start_new_session=True,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        text=True,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
    )
    while not (run / "latest").exists():
        assert process.poll() is None, process.communicate()
        time.sleep(0.005)
    return process


def test_a_killed_process_goes_on_to_the_same_end(
    command: list[str], long_run: Path, tmp_path: Path
) -> None:
    run = tmp_path / "run"
    process = start_until_saved(command, run)
    process.kill()
    process.communicate()
    assert process.returncode == -signal.SIGKILL
    checkpoint = load_newest(run)
    assert checkpoint is not None
    assert 0 < checkpoint.step < LONG
    assert main([*command, "--run", str(run)]) == 0
    assert_equal_runs(run, long_run, LONG)


@pytest.mark.parametrize(
    ("number", "code", "workers"),
    [
        (signal.SIGTERM, 75, "0"),
        (signal.SIGTERM, 75, "2"),
        (signal.SIGUSR1, 75, "2"),
        (signal.SIGINT, 130, "2"),
    ],
)
def test_a_signal_to_the_whole_group_saves_first_and_the_run_goes_on_to_the_same_end(
    number: signal.Signals,
    code: int,
    workers: str,
    command: list[str],
    long_run: Path,
    tmp_path: Path,
) -> None:
    command, run = [*command, "--workers", workers], tmp_path / "run"
    process = start_until_saved(command, run)
    os.killpg(process.pid, number)  # as a terminal, `timeout` and batch systems do
    _, errors = process.communicate()
    assert process.returncode == code, errors
    (line,) = errors.splitlines()
    assert line.startswith("moco: ")
    status = status_of(run)
    assert (status["state"], status["code"]) == ("interrupted", code)
    checkpoint = load_newest(run)
    assert checkpoint is not None
    assert checkpoint.step == status["step"] < LONG
    assert main([*command, "--run", str(run)]) == 0
    assert_equal_runs(run, long_run, LONG)
