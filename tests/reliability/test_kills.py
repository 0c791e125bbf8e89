"""A run killed at random moments, again and again, ends as if nothing had been (R1, R2)."""

from __future__ import annotations

import os
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import killed_runs
import pytest
from killed_runs import Job
from killing import Unbroken, prove_by_killing, run_unbroken, state_bytes, tell

from moco.recipe import Recipe
from moco.recipe_files import set_fields
from moco.recipes import MOCO_V2, MOCO_V3_RESNET50

pytestmark = [
    pytest.mark.skipif(not hasattr(os, "fork"), reason="processes are forked and killed"),
    pytest.mark.timeout(240),
]
KILLS = 25
"""For each of the two recipes."""


@pytest.fixture(scope="module")
def recipes(tiny_settings: list[str]) -> dict[str, Recipe]:
    both = [*tiny_settings, "views.order=[crop, horizontal_flip]", "epochs=8", "warmup_epochs=1"]
    queue = ["dictionary.size=48", "exclude_same_image=true", "key_momentum=0.9"]
    queue += ["algorithm=adamw", "learning_rate=1e-3"]
    return {
        "queue": set_fields(MOCO_V2, [*both, *queue]),
        "queue, shorter": set_fields(MOCO_V2, [*both, *queue, "epochs=5"]),
        "in-batch": set_fields(MOCO_V3_RESNET50, [*both, "encoder.head_width=32"]),
    }


@pytest.fixture(scope="module")
def unbroken(
    recipes: dict[str, Recipe], photos: Path, tmp_path_factory: pytest.TempPathFactory
) -> dict[str, Unbroken]:
    folder = tmp_path_factory.mktemp("unbroken")
    warm_up = Job(photos, set_fields(recipes["queue"], ["epochs=1"]), folder / "warm-up")
    run_unbroken(warm_up)  # or the first to be timed also pays for the first process
    return {
        name: run_unbroken(Job(photos, recipe, folder / name)) for name, recipe in recipes.items()
    }


def test_the_unbroken_runs_hold_all_that_is_compared(unbroken: dict[str, Unbroken]) -> None:
    queue, in_batch = (
        set(state_bytes(unbroken[name].checkpoint)) for name in ("queue", "in-batch")
    )
    for names in (queue, in_batch):
        for start in ("/model/encoder.", "/model/key_encoder.", "/train_state/optimizer/state/"):
            assert any(name.startswith(start) for name in names), start
        assert {"/train_state/cpu_random_state", "/train_state/step"} <= names
    assert {f"/model/dictionary.{name}" for name in ("keys", "image_ids", "next_slot")} <= queue


@pytest.mark.parametrize("name", ["queue", pytest.param("in-batch", marks=pytest.mark.slow)])
def test_killed_runs_end_bitwise_equal(
    name: str,
    recipes: dict[str, Recipe],
    unbroken: dict[str, Unbroken],
    photos: Path,
    tmp_path: Path,
) -> None:
    job = Job(photos, recipes[name], tmp_path / "run")
    proof = prove_by_killing(job, unbroken[name], kills=KILLS, seed=1, inside_save=4)
    tell(f"R1 {name}: {proof}")
    proof.check()
    assert proof.kills >= KILLS
    assert proof.inside_save >= 4


def test_a_saver_that_writes_in_place_is_caught(
    recipes: dict[str, Recipe], unbroken: dict[str, Unbroken], photos: Path, tmp_path: Path
) -> None:
    job = Job(photos, recipes["queue"], tmp_path / "run", fault=killed_runs.saved_in_place)
    read = killed_runs.read_one_file
    whole = replace(job, recipe=recipes["queue, shorter"], run=tmp_path / "whole")
    prove_by_killing(whole, unbroken["queue, shorter"], kills=0, seed=2, read=read).check()
    proof = prove_by_killing(job, unbroken["queue"], kills=300, seed=2, read=read)
    tell(f"R2 in place: {proof}")
    with pytest.raises(AssertionError):
        proof.check()
    assert proof.refusals, "a cut file was read"


@pytest.mark.parametrize(
    "fault",
    [
        killed_runs.without_queue,
        killed_runs.without_queue_pointer,
        killed_runs.without_random_state,
        killed_runs.without_data_position,
        killed_runs.without_optimizer_state,
    ],
)
def test_state_left_out_of_the_checkpoint_is_caught(
    fault: Callable[[], None],
    recipes: dict[str, Recipe],
    unbroken: dict[str, Unbroken],
    photos: Path,
    tmp_path: Path,
) -> None:
    for seed in range(3, 7):  # on a busy machine a kill may come before anything was saved
        job = Job(photos, recipes["queue, shorter"], tmp_path / f"run{seed}", fault=fault)
        proof = prove_by_killing(job, unbroken["queue, shorter"], kills=2, seed=seed, steps=(6, 10))
        tell(f"R2 {fault.__name__}: {proof}")
        assert not proof.refusals
        if proof.differing_rows:  # it went on, and differently
            break
    assert proof.differing_rows
    with pytest.raises(AssertionError):
        proof.check()
