"""A dry run on machines that are slow at one thing, each made so here."""

from __future__ import annotations

import json
import time
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray

from moco import rehearsal
from moco.cli.dry_run import describe_room, describe_speed, forecast_figures, predicted_seconds
from moco.contrast import Contrast, Contrasted
from moco.data.resident import ResidentImages
from moco.plan import Plan, make_plan
from moco.plan_batches import load_plan
from moco.pretraining import train
from moco.rehearsal import rehearse
from moco.time_trial import Stepper

SLOW_READ = 0.02
"""Seconds an image: on a quiet machine 8 of them take ten times as long as a step."""
SMALL_BATCH = ["batch_size=8", "batch_norm_groups=1"]


class MadeImages:
    """Images [24, 24, 3] that take some time to read."""

    def __init__(self, count: int = 64, seconds: float = 0.0) -> None:
        self.seconds = seconds
        draw = np.random.default_rng(0)
        self.pixels = draw.integers(0, 256, (count, 24, 24, 3), dtype=np.uint8)

    def __len__(self) -> int:
        return len(self.pixels)

    def read(self, image_id: int) -> NDArray[np.uint8]:
        time.sleep(self.seconds)
        image: NDArray[np.uint8] = self.pixels[image_id]
        return image

    def name(self, image_id: int) -> str:
        return f"made {image_id}"


@pytest.fixture(autouse=True)
def _shortly(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("LOADING_SECONDS", "COMPUTE_SECONDS", "TOGETHER_SECONDS"):
        monkeypatch.setattr(rehearsal, name, 0.2)


def planned(
    tiny: list[str],
    run: Path,
    *,
    seconds: float = 0.0,
    workers: int = 0,
    epochs: int = 6,
    settings: Sequence[str] = (),
) -> Plan:
    return make_plan(
        MadeImages(seconds=seconds),
        recipe="moco-v2",
        settings=[*tiny, *SMALL_BATCH, *settings],
        epochs=epochs,
        run=run,
        device="cpu",
        workers=workers,
        precision="float32",
    )


@pytest.mark.parametrize("workers", [0, 2])
def test_a_slow_source_is_named_and_is_all_that_counts(
    tiny_settings: list[str], tmp_path: Path, workers: int
) -> None:
    seconds = SLOW_READ * max(1, workers)
    plan = planned(tiny_settings, tmp_path / "run", seconds=seconds, workers=workers)
    seen = rehearse(plan)
    assert seen.rates.slowest() == "decode"
    assert seen.rates.decode < 1 / SLOW_READ  # sleep never ends early
    # batches that lay ready at the start would make it faster than images can be read
    assert seen.rates.together < 1.3 / SLOW_READ
    said = " ".join(describe_speed(plan, seen))
    assert "decode binds" in said
    assert "faster by: load" in said or "faster by: more loading" in said or "pack" in said


def test_a_slow_step_is_named(
    tiny_settings: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    forward = Contrast.forward

    def slow(contrast: Contrast, *inputs: Any) -> Contrasted:
        time.sleep(0.2)
        return forward(contrast, *inputs)

    monkeypatch.setattr(Contrast, "forward", slow)
    plan = planned(tiny_settings, tmp_path / "run", workers=2)
    seen = rehearse(plan)
    assert seen.rates.slowest() == "compute"
    assert seen.rates.decode > 5 * seen.rates.compute
    assert seen.rates.together < 8 / 0.2
    figures = forecast_figures(plan, seen)
    assert figures["binds"] == "compute"
    assert figures["copy_images_per_second"] is None


def test_a_real_run_takes_about_as_long_and_as_much_disk_as_was_said(
    tiny_settings: list[str], tmp_path: Path
) -> None:
    plan = planned(tiny_settings, tmp_path / "run", seconds=SLOW_READ, epochs=1)
    seen = rehearse(plan)
    assert not plan.run.exists()
    began = time.monotonic()
    train(plan)
    took = time.monotonic() - began
    assert took / 2.5 < predicted_seconds(plan, seen) < took * 2.5
    files = [path for path in plan.run.rglob("*") if path.is_file()]
    assert sum(path.stat().st_size for path in files) < seen.disk_bytes + 100_000
    newest = plan.run / "checkpoints" / (plan.run / "latest").read_text()
    written = sum(path.stat().st_size for path in newest.iterdir())
    assert seen.checkpoint_bytes <= written <= 1.05 * seen.checkpoint_bytes + 100_000


def test_a_first_step_that_took_long_is_the_only_one_on_the_kept_batch(
    tiny_settings: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    rehearsal_of = rehearsal._compute_rate
    monkeypatch.setattr(rehearsal, "_compute_rate", lambda *inputs: rehearsal_of(*inputs[:3], 40.0))
    assert rehearse(planned(tiny_settings, tmp_path / "run")).rates.compute == 8 / 40.0


def test_copying_is_timed_where_there_is_something_to_copy(
    tiny_settings: list[str], tmp_path: Path
) -> None:
    plan = planned(tiny_settings, tmp_path / "run")
    (kept,) = load_plan(plan, start=0, stop=1)
    assert rehearsal._copy_rate(plan, kept) is None
    elsewhere = replace(plan, device=torch.device("meta"))  # which stores nothing
    assert (rehearsal._copy_rate(elsewhere, kept) or 0) > 0
    resident = ResidentImages(torch.zeros(64, 24, 24, 3, dtype=torch.uint8), {}, 0.0)
    assert rehearsal._copy_rate(replace(elsewhere, resident=resident), kept) is None


def test_a_plan_of_one_step_is_measured_like_any_other(
    tiny_settings: list[str], tmp_path: Path
) -> None:
    whole = ["batch_size=64", "dictionary.size=64"]
    plan = planned(tiny_settings, tmp_path / "run", workers=1, epochs=1, settings=whole)
    assert plan.steps == 1
    seen = rehearse(plan)
    assert seen.rates.together > 0
    steps = plan.recipe.batch_size / seen.rates.together
    assert predicted_seconds(plan, seen) == pytest.approx(seen.setup_seconds + steps)


def test_memory_of_the_run_and_of_loading_processes_is_told(
    tiny_settings: list[str], tmp_path: Path
) -> None:
    plan = planned(tiny_settings, tmp_path / "run", workers=1)
    seen = rehearse(plan)
    assert seen.process_bytes is not None
    assert 100e6 < seen.process_bytes < 20e9  # torch alone takes more than the first
    if Path("/proc/self/status").exists():
        assert seen.loader_bytes is not None
        assert 10e6 < seen.loader_bytes < 20e9
    assert (seen.device_bytes, seen.device_total) == (None, None)
    assert "in the loading process" in describe_room(plan, seen)[0]
    without = rehearse(planned(tiny_settings, tmp_path / "run"))
    assert without.loader_bytes is None


def test_a_full_disk_is_told_beforehand(
    tiny_settings: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    plan = planned(tiny_settings, tmp_path / "not" / "there" / "run")
    seen = rehearse(plan)
    assert not any("too full" in line for line in describe_room(plan, seen))
    monkeypatch.setattr("moco.cli.dry_run.free_bytes", lambda _: seen.disk_bytes - 1)
    assert any("too full" in line for line in describe_room(plan, seen))


def rehearsed_in_group(tiny: list[str], run: str) -> torch.Tensor:
    rehearsal.LOADING_SECONDS = rehearsal.COMPUTE_SECONDS = rehearsal.TOGETHER_SECONDS = 0.2
    seen = rehearse(planned(tiny, Path(run), workers=1))
    rates = seen.rates
    return torch.tensor([rates.decode, rates.compute, rates.together, seen.disk_bytes])


def test_its_steps_are_those_of_a_run(tiny_settings: list[str], tmp_path: Path) -> None:
    settings = ["schedule=step", "milestones=[5]"]  # the rate does not change
    plan = planned(tiny_settings, tmp_path / "run", epochs=1, settings=settings)
    stepper = Stepper(plan)
    losses = [stepper.step(batch).item() for batch in load_plan(plan, start=0, stop=plan.steps)]
    train(plan)
    rows = (plan.run / "metrics.jsonl").read_text().splitlines()
    assert losses == [json.loads(row)["loss"] for row in rows]


@pytest.mark.slow
def test_processes_measure_together_and_agree(
    run_processes: Any, tiny_settings: list[str], tmp_path: Path
) -> None:
    first, second = run_processes(2, rehearsed_in_group, tiny_settings, str(tmp_path / "run"))
    assert torch.equal(first, second)
    assert (first > 0).all()
