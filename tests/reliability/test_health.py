"""R13: a constant encoder and a queue that stands still are told; a queue that fills is not."""

from __future__ import annotations

import importlib
import math
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from moco.contrast import Contrast
from moco.dictionaries import Queue
from moco.doctor.diagnosis import diagnose, diagnose_run
from moco.doctor.signs import WATCHED_STEPS
from moco.health import HealthWatch, sign_of_a_still_queue
from moco.info_nce import NO_IMAGE
from moco.plan import Plan, make_plan
from moco.progress import SilentReport
from moco.recipe_files import set_fields
from moco.recipes import MOCO_V2

pretraining = importlib.import_module("moco.pretraining")


class Notes(SilentReport):
    """Keeps what a run says."""

    def __init__(self) -> None:
        self.lines: list[str] = []

    def note(self, text: str) -> None:
        self.lines.append(text)


def plan_of(photos: Path, tiny: list[str], run: Path, *settings: str) -> Plan:
    changes = [*tiny, "views.order=[crop]", "epochs=13", "dictionary.size=64", *settings]
    return make_plan(photos, recipe=set_fields(MOCO_V2, changes), run=run, device="cpu", workers=0)


class Constant(nn.Module):
    """Gives all images one embedding, whatever its weights are."""

    def __init__(self, encoder: nn.Module) -> None:
        super().__init__()
        self.encoder = encoder

    def forward(self, view: Tensor) -> Tensor:
        rows: Tensor = self.encoder(view)
        return rows * 0 + torch.ones(rows.shape[1])


def test_a_constant_encoder_is_told_within_fifty_steps(
    photos: Path, tiny_settings: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    build = pretraining.build_contrast

    def constant(*arguments: Any, **options: Any) -> Contrast:
        contrast: Contrast = build(*arguments, **options)
        contrast.encoder = Constant(contrast.encoder)
        contrast.key_encoder = Constant(contrast.key_encoder)
        return contrast

    monkeypatch.setattr(pretraining, "build_contrast", constant)
    notes = Notes()
    pretraining.train(plan_of(photos, tiny_settings, tmp_path / "run"), report=notes)
    (line,) = [line for line in notes.lines if line.startswith("collapsed")]
    step = int(line.removeprefix("collapsed at step ").partition(":")[0])
    assert step <= 50
    assert f"chance {math.log(65):.3f}" in line or f"ln(K+1), being {math.log(65):.3f}" in line
    assert "--set optimizer.learning_rate=0.003" in line


@pytest.mark.parametrize("mechanism", ["queue", "in_batch", "memory_bank", "end_to_end"])
def test_a_healthy_run_is_not_told_anything_though_its_loss_rises(
    mechanism: str, photos: Path, tiny_settings: list[str], tmp_path: Path
) -> None:
    size = [] if mechanism == "queue" else [f"mechanism={mechanism}"]
    if mechanism in ("in_batch", "end_to_end"):
        tiny_settings = [word for word in tiny_settings if "dictionary" not in word]
        settings = [*tiny_settings, "views.order=[crop]", "epochs=13", *size]
        plan = make_plan(
            photos,
            recipe=set_fields(MOCO_V2, settings),
            run=tmp_path / "run",
            device="cpu",
            workers=0,
        )
    else:
        plan = plan_of(photos, tiny_settings, tmp_path / "run", *size)
    notes = Notes()
    pretraining.train(plan, report=notes)
    assert notes.lines == []


def test_views_that_are_alike_are_told_while_the_run_goes_on(
    photos: Path, tiny_settings: list[str], tmp_path: Path
) -> None:
    plan = plan_of(photos, tiny_settings, tmp_path / "run", "views.crop_scale=[1,1]")
    notes = Notes()
    pretraining.train(plan, report=notes)
    (line,) = notes.lines
    assert line.startswith("augmentation too weak at step 27: two views of an image differ by ")
    diagnosis = diagnose_run(plan.run)
    assert diagnosis.verdict == "augmentation too weak"
    assert diagnosis.findings[0].since_step == 24


def test_a_queue_that_stands_still_is_told(
    photos: Path, tiny_settings: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Queue, "store", lambda *_: None)
    notes = Notes()
    pretraining.train(plan_of(photos, tiny_settings, tmp_path / "run"), report=notes)
    (line,) = [line for line in notes.lines if "not updated" in line]
    assert line.startswith("the queue is not updated: 64 of its 64 keys")


@pytest.mark.parametrize("batches", [0, 1, 3, 4, 9])
def test_a_queue_that_fills_is_as_empty_as_it_may_be(batches: int) -> None:
    queue = Queue(60, 4)
    for _ in range(batches):
        queue.store(torch.randn(16, 4), torch.arange(16), torch.tensor(True))
    assert sign_of_a_still_queue(queue, 16 * batches) is None
    assert (sign_of_a_still_queue(queue, 16 * batches + 16) is None) == (batches >= 4)


RECIPE = set_fields(MOCO_V2, ["dictionary.size=1024"])
CHANCE = math.log(1025)


def rows_of(gap: float, loss: float, count: int = WATCHED_STEPS) -> list[dict[str, Any]]:
    return [
        {"step": step, "loss": loss, "positive_similarity": 0.9, "negative_similarity": 0.9 - gap}
        for step in range(count)
    ]


def collapses(rows: list[dict[str, Any]]) -> bool:
    return diagnose(RECIPE, rows, []).verdict == "collapsed"


def test_collapse_needs_both_a_loss_at_chance_and_no_gap() -> None:
    assert collapses(rows_of(0.0, CHANCE))
    assert not collapses(rows_of(0.01, CHANCE))  # as runs begin
    assert not collapses(rows_of(0.0, 5.5))
    assert not collapses(rows_of(0.0, CHANCE, WATCHED_STEPS - 1))


def test_steps_that_were_left_out_say_nothing_of_health() -> None:
    left_out = {"step": 40, "loss": None, "positive_similarity": None, "negative_similarity": None}
    assert collapses([*rows_of(0.0, CHANCE), left_out])


def test_each_sickness_is_told_once_with_its_step_and_what_to_change() -> None:
    watch, queue = HealthWatch(RECIPE, 10_000), Queue(1024, 4)
    assert watch.look(rows_of(0.0, CHANCE), queue, 0)[0].startswith("collapsed at step 39: ")
    watch.hear({"step": 49, "feature_deviation": 0.0, "view_difference": 0.0})
    rows = [{**row, "step": row["step"] + WATCHED_STEPS} for row in rows_of(0.0, CHANCE, 10)]
    (line,) = watch.look(rows, queue, 0)
    assert line.startswith("augmentation too weak at step 49: ")
    assert "; --set views.order=" in line
    assert watch.look(rows, queue, 0) == []
    assert watch.diagnosis is not None
    assert watch.diagnosis.verdict == "augmentation too weak"


def test_a_continued_run_remembers_what_was_seen(
    photos: Path, tiny_settings: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = tmp_path / "run"
    heard: list[int] = []
    hear = HealthWatch.hear

    def listening(self: HealthWatch, signals: Any) -> None:
        heard.append(signals["step"])
        hear(self, signals)

    monkeypatch.setattr(HealthWatch, "hear", listening)
    plan = replace(plan_of(photos, tiny_settings, run), signals_every=8)
    pretraining.train(plan)
    first = list(heard)
    assert len(first) > 3
    longer = plan_of(photos, tiny_settings, run, "epochs=16")
    pretraining.train(replace(longer, signals_every=8))
    assert heard[len(first) : 2 * len(first)] == first
    assert min(heard[2 * len(first) :]) > max(first)


def test_a_queue_that_began_with_keys_of_another_run_is_no_still_one() -> None:
    queue = Queue(8, 4)
    queue.image_ids.fill_(torch.iinfo(torch.int64).max)
    assert sign_of_a_still_queue(queue, 2) is None
    queue.image_ids.fill_(NO_IMAGE)
    assert sign_of_a_still_queue(queue, 2) is not None
