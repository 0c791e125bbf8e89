"""R24, R28: what a run may be taken up with again, and that the same command gives the same run."""

from __future__ import annotations

import importlib
import json
import shutil
from pathlib import Path
from typing import Any

import pytest

import moco
from moco.checkpoint import load_newest
from moco.errors import InterruptedRunError, UsageError
from moco.plan import Plan, make_plan
from moco.progress import SilentReport
from moco.recipe import Recipe
from moco.recipe_files import set_fields
from moco.recipes import MOCO_V2
from moco.run_records import read_lines

pretraining = importlib.import_module("moco.pretraining")
STEPS = 12


@pytest.fixture(scope="module")
def recipe(tiny_settings: list[str]) -> Recipe:
    orders = ["views.order=[crop, horizontal_flip]", "schedule=warmup_cosine", "epochs=3"]
    return set_fields(MOCO_V2, [*tiny_settings, *orders, "warmup_epochs=0.5"])


def plan_of(photos: Path, recipe: Recipe, run: Path, **options: Any) -> Plan:
    return make_plan(photos, recipe=recipe, run=run, device="cpu", **{"workers": 0, **options})


class Notes(SilentReport):
    """Keeps what a run says."""

    def __init__(self) -> None:
        self.lines: list[str] = []

    def note(self, text: str) -> None:
        self.lines.append(text)


def stop_at_6() -> Any:
    taken = iter(range(1, STEPS + 1))
    return lambda: 75 if next(taken) == 6 else None


@pytest.fixture(scope="module")
def stopped(photos: Path, recipe: Recipe, tmp_path_factory: pytest.TempPathFactory) -> Path:
    run = tmp_path_factory.mktemp("stopped") / "run"
    with pytest.raises(InterruptedRunError):
        pretraining.train(plan_of(photos, recipe, run), stop=stop_at_6())
    return run


@pytest.fixture(scope="module")
def done(photos: Path, recipe: Recipe, tmp_path_factory: pytest.TempPathFactory) -> Path:
    run = tmp_path_factory.mktemp("done") / "run"
    return Path(pretraining.train(plan_of(photos, recipe, run)))


EDITS = [
    ("encoder.dim=8", "encoder.dim 16 -> 8"),
    ("encoder.width=0.25", "encoder.width 0.125 -> 0.25"),
    ("encoder.head=linear", "encoder.head mlp -> linear"),
    ("dictionary.size=64", "dictionary.size 32 -> 64"),
    ("temperature=0.07", "temperature 0.2 -> 0.07"),
    ("key_momentum=0.5", "key_momentum 0.999 -> 0.5"),
    ("batch_size=8", "batch_size 16 -> 8"),
    ("batch_norm_groups=1", "batch_norm_groups 2 -> 1"),
    ("views.order=[crop]", r"views.order \['crop', 'horizontal_flip'\] -> \['crop'\]"),
    ("views.image_size=24", "views.image_size 16 -> 24"),
    ("optimizer.learning_rate=1", "optimizer.learning_rate 0.03 -> 1"),
    ("optimizer.algorithm=adamw", "optimizer.algorithm sgd -> adamw"),
    ("epochs=4", "epochs 3 -> 4"),
    ("shuffle_keys=false", "shuffle_keys True -> False"),
]


@pytest.mark.parametrize(("edit", "told"), EDITS)
def test_another_method_is_refused_with_its_difference(
    edit: str, told: str, stopped: Path, photos: Path, recipe: Recipe
) -> None:
    before = sorted((path, path.stat().st_mtime_ns) for path in stopped.rglob("*"))
    with pytest.raises(UsageError, match=told) as caught:
        pretraining.train(plan_of(photos, set_fields(recipe, [edit]), stopped))
    assert caught.value.exit_code == 2
    assert "\n" not in str(caught.value)
    after = sorted((path, path.stat().st_mtime_ns) for path in stopped.rglob("*"))
    assert [name for name, _ in after] == [name for name, _ in before]
    assert [time for name, time in after if name.is_file()] == [
        time for name, time in before if name.is_file()
    ]


@pytest.mark.parametrize(
    "harmless",
    [{"workers": 2}, {"bad_limit": 0.5}, {"moved": True}, {"images moved": True}],
    ids=str,
)
def test_what_changes_no_step_is_accepted(
    harmless: dict[str, Any],
    stopped: Path,
    done: Path,
    photos: Path,
    recipe: Recipe,
    tmp_path: Path,
) -> None:
    run = shutil.copytree(stopped, tmp_path / ("elsewhere" if "moved" in harmless else "run"))
    if "images moved" in harmless:
        photos = shutil.copytree(photos, tmp_path / "moved")
    options = {name: value for name, value in harmless.items() if "moved" not in name}
    notes = Notes()
    pretraining.train(plan_of(photos, recipe, run, **options), report=notes)
    assert notes.lines == ["going on from step 6 of 12"]
    last = f"checkpoints/step_{STEPS:08d}/model.safetensors"
    assert (run / last).read_bytes() == (done / last).read_bytes()


def test_a_finished_run_goes_on_for_more_epochs_and_says_what_that_is(
    done: Path, photos: Path, recipe: Recipe, tmp_path: Path
) -> None:
    run, notes = shutil.copytree(done, tmp_path / "run"), Notes()
    longer = set_fields(recipe, ["epochs=5", "warmup_epochs=1"])
    pretraining.train(plan_of(photos, longer, run), report=notes)
    extended, going_on = notes.lines
    assert "was done after 3 epochs and goes on to 5" in extended
    assert going_on == "going on from step 12 of 20"
    rows = read_lines(run / "metrics.jsonl")
    assert [row["step"] for row in rows] == list(range(20))
    assert rows[:STEPS] == read_lines(done / "metrics.jsonl")
    assert rows[STEPS]["learning_rate"] == longer.learning_rate(STEPS, 4)
    newest = load_newest(run)
    assert newest is not None
    assert (newest.step, newest.identity.recipe) == (20, longer)
    assert json.loads((run / "status.json").read_text())["state"] == "done"
    moco.load(run)
    again = Notes()
    pretraining.train(plan_of(photos, longer, run), report=again)
    assert again.lines == [f"{run} is done: 20 of 20 steps"]


def test_more_epochs_with_another_method_are_refused(
    done: Path, photos: Path, recipe: Recipe, tmp_path: Path
) -> None:
    run = shutil.copytree(done, tmp_path / "run")
    other = set_fields(recipe, ["epochs=5", "temperature=0.3"])
    with pytest.raises(UsageError, match=r"temperature 0\.2 -> 0\.3"):
        pretraining.train(plan_of(photos, other, run))


@pytest.mark.parametrize("workers", [0, 2])
def test_the_same_command_gives_the_same_run(
    workers: int, done: Path, photos: Path, recipe: Recipe, tmp_path: Path
) -> None:
    run = pretraining.train(plan_of(photos, recipe, tmp_path / "run", workers=workers))
    assert timeless(run) == timeless(done)
    for name in ("model.safetensors", "train_state.pt", "recipe.json", "manifest.json"):
        last = f"checkpoints/step_{STEPS:08d}/{name}"
        assert (run / last).read_bytes() == (done / last).read_bytes(), name


def timeless(run: Path) -> list[str]:
    """Return the lines of metrics.jsonl without what a clock decides."""
    lines = (run / "metrics.jsonl").read_text().splitlines()
    return [line.partition(', "images_per_second"')[0] for line in lines]
