"""A queue that is filled with keys of images before the first step."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F

from moco.checkpoint import load_checkpoint
from moco.cli.terminal import describe_contrast
from moco.data.batches import Batches
from moco.data.sources.folder import FolderImages
from moco.dictionaries import Queue
from moco.errors import DivergedError, InterruptedRunError
from moco.plan import Plan, make_plan
from moco.plan_batches import watch_over
from moco.pretraining import build_optimizer, build_plan, train
from moco.progress import SilentReport
from moco.queue_filling import fill_queue, filling_steps
from moco.recipe import Recipe
from moco.recipe_files import set_fields
from moco.recipes import MOCO_V2
from moco.run_directory import RunDirectory
from moco.session import Session

STEPS = 8  # two epochs of four
LARGE = ["size=104"]  # more than an epoch's keys


@pytest.fixture(scope="module")
def recipe(tiny_settings: list[str]) -> Recipe:
    return set_fields(
        MOCO_V2,
        [*tiny_settings, "views.order=[crop]", "fill_first=true", "size=40", "epochs=2"],
    )


def plan_of(photos: Path, recipe: Recipe, run: Path, workers: int = 0) -> Plan:
    return make_plan(photos, recipe=recipe, run=run, device="cpu", workers=workers)


class Notes(SilentReport):
    def __init__(self) -> None:
        self.lines: list[str] = []

    def note(self, text: str) -> None:
        self.lines.append(text)


def session_of(plan: Plan) -> Session:
    contrast = build_plan(plan)
    optimizer = build_optimizer(plan.recipe.optimizer, contrast)
    directory = RunDirectory(plan.run)
    return Session(plan, plan.identity(), contrast, optimizer, directory, Notes(), None)


def filled(plan: Plan, stop: Callable[[], int | None] = lambda: None) -> Session:
    session = session_of(plan)
    with watch_over(plan) as watch:
        fill_queue(session, stop, watch)
    return session


def queue_of(session: Session) -> Queue:
    assert isinstance(session.contrast.dictionary, Queue)
    return session.contrast.dictionary


@pytest.mark.parametrize(
    ("size", "steps"),  # of 16 images; an epoch has four steps
    [(16, range(3, 4)), (17, range(2, 4)), (64, range(4)), (65, range(3, 8)), (128, range(8))],
)
def test_it_takes_the_batches_that_come_up_last(
    photos: Path, recipe: Recipe, size: int, steps: range
) -> None:
    plan = plan_of(photos, set_fields(recipe, [f"size={size}"]), Path("unused"))
    assert filling_steps(plan) == steps
    unfilled = replace(plan, recipe=set_fields(plan.recipe, ["fill_first=false"]))
    assert not filling_steps(unfilled)


def test_keys_are_the_untrained_key_encoders_of_those_images(
    photos: Path, recipe: Recipe, tmp_path: Path
) -> None:
    plan = plan_of(photos, set_fields(recipe, ["batch_norm_groups=1"]), tmp_path)
    session = filled(plan)
    queue, encoder = queue_of(session), session.contrast.key_encoder.train()
    batches = Batches(
        FolderImages(photos), recipe.views, batch_size=16, seed=plan.seed, finish=True
    )
    wanted = [batches[step] for step in (1, 2, 3)]
    with torch.no_grad():
        keys = torch.cat([F.normalize(encoder(batch.view_b), dim=1) for batch in wanted])
    ids = torch.cat([batch.image_ids for batch in wanted])
    slots = torch.arange(48) % 40  # a ring: the last batch lies over the first one's
    assert torch.equal(queue.image_ids[slots[8:]], ids[8:])
    torch.testing.assert_close(queue.keys[slots[8:]], keys[8:])
    assert int(queue.next_slot) == 8
    assert not set(queue.image_ids.tolist()) & set(batches[0].image_ids.tolist())


def test_nothing_but_the_queue_moves(photos: Path, recipe: Recipe, tmp_path: Path) -> None:
    plan = plan_of(photos, recipe, tmp_path)
    before, after = session_of(plan), filled(plan)
    held = before.contrast.state_dict()
    changed = {
        name
        for name, values in after.contrast.state_dict().items()
        if not torch.equal(values, held[name])
    }
    assert changed == {f"dictionary.{name}" for name in ("keys", "image_ids", "next_slot")}
    assert after.step == 0


def test_only_a_run_at_its_start_fills_it(photos: Path, recipe: Recipe, tmp_path: Path) -> None:
    plan = plan_of(photos, recipe, tmp_path)
    session = session_of(plan)
    session.step = 1
    with watch_over(plan) as watch:
        fill_queue(session, lambda: None, watch)
    assert int(queue_of(session).image_ids.max()) == -1


@pytest.fixture(scope="module")
def whole(photos: Path, recipe: Recipe, tmp_path_factory: pytest.TempPathFactory) -> Path:
    report, run = Notes(), tmp_path_factory.mktemp("whole") / "run"
    train(plan_of(photos, set_fields(recipe, LARGE), run), report=report)
    assert "filling the queue with keys of 7 batches" in report.lines
    assert not [line for line in report.lines if "not updated" in line]  # no false alarm
    return run


def last_of(run: Path) -> dict[str, Any]:
    return dict(load_checkpoint(run / f"checkpoints/step_{STEPS:08d}").model)


@pytest.mark.parametrize(("stopped", "workers"), [(2, 0), (10, 2)])  # while it fills, and later
def test_a_stopped_run_goes_on_to_the_same_bytes(
    photos: Path, recipe: Recipe, whole: Path, tmp_path: Path, stopped: int, workers: int
) -> None:
    plan = plan_of(photos, set_fields(recipe, LARGE), tmp_path, workers)
    left = iter([*[None] * (stopped - 1), 75])
    with pytest.raises(InterruptedRunError) as caught:
        train(plan, stop=lambda: next(left))
    assert caught.value.exit_code == 75
    is_filling = stopped <= 7
    assert ("while the queue was filled" in str(caught.value)) == is_filling
    assert bool(list(tmp_path.glob("checkpoints/step_*"))) != is_filling
    report = Notes()
    train(plan, report=report)
    assert ("filling the queue with keys of 7 batches" in report.lines) == is_filling
    one, other = last_of(whole), last_of(tmp_path)
    assert one.keys() == other.keys()
    assert all(torch.equal(one[name], other[name]) for name in one)


def test_the_first_losses_are_those_among_real_keys(
    photos: Path, recipe: Recipe, whole: Path, tmp_path: Path
) -> None:
    train(plan_of(photos, set_fields(recipe, [*LARGE, "fill_first=false"]), tmp_path))
    filled_run, random_run = (
        json.loads((run / "metrics.jsonl").read_text().splitlines()[0]) for run in (whole, tmp_path)
    )
    assert abs(random_run["negative_similarity"]) < 0.1  # of random rows
    assert filled_run["negative_similarity"] > 0.3  # an untrained network's keys are alike


def test_keys_that_are_no_numbers_are_refused(
    photos: Path, recipe: Recipe, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    no_number = torch.full((16, 16), float("nan"))
    monkeypatch.setattr("moco.contrast.Contrast.encode_shuffled", lambda *_: no_number)
    with pytest.raises(DivergedError, match="fill_first to false"):
        filled(plan_of(photos, recipe, tmp_path))


def test_the_plan_says_so(photos: Path, recipe: Recipe, tmp_path: Path) -> None:
    plan = plan_of(photos, recipe, tmp_path)
    (first, *_) = describe_contrast(plan, build_plan(plan))
    assert first.endswith("queue of 40 keys, filled before the first step")
