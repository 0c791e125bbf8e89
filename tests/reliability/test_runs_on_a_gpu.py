"""R31: killed, stopped, spoiled and moved runs end bit-equal on a GPU as on a CPU."""

from __future__ import annotations

import os
import signal
import time
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from killed_runs import Job, choose_reproducible_kernels, train_job
from killing import (
    PATIENCE_SECONDS,
    Unbroken,
    differing_bytes,
    kill_group,
    metrics_of,
    prove_by_killing,
    run_unbroken,
    start_process,
    tell,
)
from test_nonfinite_steps import PLACES, Spoiled, differing

import moco
from moco.checkpoint import load_newest
from moco.device import fast_precision
from moco.plan import make_plan
from moco.pretraining import train
from moco.recipe import Recipe
from moco.recipe_files import set_fields
from moco.recipes import MOCO_V2, MOCO_V3_RESNET50, MOCO_V3_VIT_SMALL

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device"),
    pytest.mark.timeout(240),
]
KILLS = 5
"""For each recipe: each start of a process takes seconds on a GPU."""


def recipe_of(name: str, tiny: list[str]) -> Recipe:
    """Return a recipe of milliseconds a step: a queue, keys of the batch, or a ViT with them."""
    both = [*tiny, "epochs=8", "warmup_epochs=1", "optimizer.learning_rate=1e-3"]
    match name:
        case "queue":
            return set_fields(MOCO_V2, [*both, "dictionary.size=48", "exclude_same_image=true"])
        case "in-batch":
            return set_fields(MOCO_V3_RESNET50, [*both, "encoder.head_width=32"])
    sides = [f"views.{side}=32" for side in ("image_size", "evaluation_resize", "evaluation_size")]
    kept = ["batch_size=16", "epochs=8", "warmup_epochs=1", *sides, "encoder.head_width=32"]
    return set_fields(MOCO_V3_VIT_SMALL, kept)


NAMES = ["queue", "in-batch", "vit"]


@pytest.fixture(scope="module")
def unbroken(
    photos: Path, tiny_settings: list[str], tmp_path_factory: pytest.TempPathFactory
) -> dict[str, Unbroken]:
    folder = tmp_path_factory.mktemp("unbroken")
    warm_up = set_fields(recipe_of("queue", tiny_settings), ["epochs=1", "warmup_epochs=0"])
    run_unbroken(Job(photos, warm_up, folder / "warm-up", device="cuda"))
    return {
        name: run_unbroken(
            Job(photos, recipe_of(name, tiny_settings), folder / name, device="cuda")
        )
        for name in NAMES
    }


def test_the_gpu_computes_in_bfloat16_and_its_random_state_is_kept(
    unbroken: dict[str, Unbroken],
) -> None:
    assert fast_precision(torch.device("cuda")) is torch.bfloat16
    for found in unbroken.values():
        assert "cuda_random_state" in found.checkpoint.train_state


@pytest.mark.parametrize("name", NAMES)
def test_killed_runs_end_bitwise_equal(
    name: str, unbroken: dict[str, Unbroken], photos: Path, tiny_settings: list[str], tmp_path: Path
) -> None:
    job = Job(photos, recipe_of(name, tiny_settings), tmp_path / "run", device="cuda")
    proof = prove_by_killing(job, unbroken[name], kills=KILLS, seed=1, steps=(1, 12))
    tell(f"R31 {name}: {proof}")
    proof.check()
    assert proof.kills >= KILLS


@pytest.mark.parametrize("workers", [0, 2])
def test_the_same_seed_twice_is_bitwise_the_same(
    workers: int,
    unbroken: dict[str, Unbroken],
    photos: Path,
    tiny_settings: list[str],
    tmp_path: Path,
) -> None:
    recipe = recipe_of("queue", tiny_settings)
    again = run_unbroken(Job(photos, recipe, tmp_path / "run", workers, device="cuda"))
    assert differing_bytes(again.checkpoint, unbroken["queue"].checkpoint) == 0
    assert metrics_of(again.run) == metrics_of(unbroken["queue"].run)


def test_another_seed_differs(
    unbroken: dict[str, Unbroken], photos: Path, tiny_settings: list[str], tmp_path: Path
) -> None:
    recipe = set_fields(recipe_of("queue", tiny_settings), ["key_momentum=0.5"])
    other = run_unbroken(Job(photos, recipe, tmp_path / "run", device="cuda"))
    assert differing_bytes(other.checkpoint, unbroken["queue"].checkpoint) > 0


def test_a_run_goes_on_from_a_gpu_to_a_cpu(
    photos: Path, tiny_settings: list[str], tmp_path: Path
) -> None:
    recipe = set_fields(recipe_of("queue", tiny_settings), ["epochs=60"])
    job = Job(photos, recipe, tmp_path / "run", device="cuda")
    process = start_process(train_job, job)
    while not (job.run / "latest").exists() and process.is_alive():
        time.sleep(0.01)
    kill_group(process)
    stopped = load_newest(job.run)
    assert stopped is not None
    process = start_process(train_job, replace(job, device="cpu"))
    process.join(PATIENCE_SECONDS)
    kill_group(process)
    ended = load_newest(job.run)
    assert ended is not None
    assert stopped.step < ended.step == 60 * 4
    network = moco.load(job.run)
    assert network(torch.zeros(2, 3, 16, 16)).shape[0] == 2


def test_a_run_that_is_told_to_end_saves_and_goes_on_bitwise_equal(
    unbroken: dict[str, Unbroken], photos: Path, tiny_settings: list[str], tmp_path: Path
) -> None:
    """The command itself is stopped by TERM: exit code 75, and the same command ends the run."""
    words = ["pretrain", str(photos), "--recipe", "moco-v2", "--device", "cuda", "--workers", "0"]
    changes = [*tiny_settings, "dictionary.size=48", "warmup_epochs=1"]
    words += [word for change in changes for word in ("--set", change)]
    runs, codes = [tmp_path / "whole", tmp_path / "stopped"], []
    whole = start_process(deterministic_command, [*words, "--epochs", "40"], runs[0])
    whole.join(PATIENCE_SECONDS)
    kill_group(whole)
    assert whole.exitcode == 0
    for _ in range(2):
        process = start_process(deterministic_command, [*words, "--epochs", "40"], runs[1])
        while process.is_alive() and not (runs[1] / "metrics.jsonl").exists():
            time.sleep(0.01)
        if not codes:
            sent = time.monotonic()
            os.kill(process.pid or 0, signal.SIGTERM)
        process.join(PATIENCE_SECONDS)
        if not codes:
            tell(f"R31 TERM: gone after {time.monotonic() - sent:.2f} s")
        kill_group(process)
        codes.append(process.exitcode)
    assert codes == [75, 0]
    newest = [load_newest(run) for run in runs]
    assert newest[0] is not None
    assert newest[1] is not None
    assert differing_bytes(newest[0], newest[1]) == 0
    assert metrics_of(runs[0]) == metrics_of(runs[1])


def deterministic_command(words: list[str], run: Path) -> None:
    """Do what `moco` does, with kernels that give the same each time."""
    from killed_runs import run_command

    choose_reproducible_kernels()
    run_command(words, run)


@pytest.mark.parametrize("place", PLACES)
def test_a_step_that_goes_wrong_changes_nothing(
    place: str,
    photos: Path,
    tiny_settings: list[str],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """R12 in bfloat16."""
    recipe = set_fields(recipe_of("queue", tiny_settings), ["epochs=3"])
    spoiled = Spoiled(monkeypatch, 5, place=place)
    train(make_plan(photos, recipe=recipe, run=tmp_path / "run", device="cuda", workers=0))
    assert differing(spoiled.after[5], spoiled.after[4]) == []
    assert differing(spoiled.after[6], spoiled.after[5])
    assert all(value.isfinite().all() for value in spoiled.after[-1].values())
