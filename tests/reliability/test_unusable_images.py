"""Images that cannot be used, from one in a thousand to all: what stands in, what ends a run.

R18 of the contract: within the limit the run trains, and the same images stand in whenever it was
stopped; above it the run ends with code 3 and the first twenty names; where nothing can be trained
on, it ends before anything is built. R26: files that go while a run is on are counted as unusable,
and another folder is not gone on with.
"""

from __future__ import annotations

import importlib
import json
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image
from torch import Tensor

from moco.cli.main import main
from moco.data.order import Order
from moco.errors import DataError, InterruptedRunError, UsageError
from moco.plan import Plan, make_plan

plan_module = importlib.import_module("moco.plan")
pretraining = importlib.import_module("moco.pretraining")
EPOCHS = 2
SEED = 3
FIRST_NAMES = 20

Steps = list[tuple[int, list[int]]]
"""Which images each step trained on."""


@pytest.fixture
def tiny(tiny_settings: list[str]) -> list[str]:
    return [*tiny_settings, "dictionary.size=100", f"epochs={EPOCHS}"]


@pytest.fixture
def trained(monkeypatch: pytest.MonkeyPatch) -> Steps:
    """Return the list to which every step adds its images."""
    steps: Steps = []
    to_device = pretraining.to_device

    def seen(batch: Any, *others: Any) -> tuple[Tensor, Tensor, Tensor]:
        steps.append((batch.step, batch.image_ids.tolist()))
        moved: tuple[Tensor, Tensor, Tensor] = to_device(batch, *others)
        return moved

    monkeypatch.setattr(pretraining, "to_device", seen)
    return steps


def made_folder(folder: Path, count: int, bad: int) -> tuple[Path, set[int]]:
    """Return a folder of so many images and the numbers of those that are none, some in a row."""
    folder.mkdir()
    draw = np.random.default_rng(0)
    for number in range(count):
        Image.fromarray(draw.integers(0, 256, (16, 18, 3), dtype=np.uint8)).save(
            folder / f"{number:04}.png"
        )
    chosen = set(draw.permutation(count)[:bad].tolist())
    for number in chosen:
        (folder / f"{number:04}.png").write_text("404 not found")
    return folder, chosen


def stopping_after(steps: int) -> Callable[[], int | None]:
    """Return what asks a run to stop after so many of its steps."""
    asked = iter(range(1, steps + 1))
    return lambda: 75 if next(asked) == steps else None


def expected(count: int, bad: set[int], batch: int) -> Steps:
    """Return what each step has to train on: for a bad image the next good one, by number."""
    stand_ins = {
        number: next(
            other % count for other in range(number, number + count) if other % count not in bad
        )
        for number in range(count)
    }
    order = Order(np.array([count]), seed=SEED)
    per_epoch = count // batch
    steps = []
    for step in range(EPOCHS * per_epoch):
        epoch, place = divmod(step, per_epoch)
        places = np.arange(place * batch, (place + 1) * batch)
        wanted = order.images_at(epoch, places).tolist()
        steps.append((step, [stand_ins[number] for number in wanted]))
    return steps


def told(run: Path) -> list[str]:
    return [json.loads(line)["file"] for line in (run / "skipped.jsonl").read_text().splitlines()]


@pytest.mark.timeout(60)
@pytest.mark.parametrize(
    ("count", "batch", "bad", "limit"),
    [(1000, 100, 1, 0.001), (160, 16, 8, 0.05), (160, 16, 96, 0.6), (80, 16, 1, 0.0)],
)
def test_within_the_limit_the_same_images_stand_in_however_the_run_was_stopped(
    count: int,
    batch: int,
    bad: int,
    limit: float,
    tiny: list[str],
    trained: Steps,
    tmp_path: Path,
) -> None:
    folder, chosen = made_folder(tmp_path / "images", count, bad)

    def planned(run: str) -> Plan:
        return make_plan(
            folder,
            settings=[*tiny, f"batch_size={batch}"],
            run=tmp_path / run,
            device="cpu",
            workers=0,
            seed=SEED,
            bad_limit=limit,
        )

    pretraining.train(planned("straight"))
    straight = list(trained)
    assert straight == expected(count, chosen, batch)
    trained.clear()
    for steps in (1, 4):
        with pytest.raises(InterruptedRunError):
            pretraining.train(planned("stopped"), stop=stopping_after(steps))
    pretraining.train(planned("stopped"))
    assert trained == straight
    assert told(tmp_path / "stopped") == told(tmp_path / "straight")
    assert sorted(told(tmp_path / "straight")) == sorted(f"{number:04}.png" for number in chosen)


@pytest.mark.timeout(60)
@pytest.mark.parametrize("workers", [0, 2])
def test_files_removed_replaced_and_added_during_a_run(
    workers: int, tiny: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(plan_module, "CACHE_BYTES", 0)  # images in memory would miss no file
    folder, _ = made_folder(tmp_path / "images", 160, 0)

    def planned(limit: float) -> Plan:
        return make_plan(
            folder,
            settings=[*tiny, "batch_size=16"],
            run=tmp_path / "run",
            device="cpu",
            workers=workers,
            seed=SEED,
            bad_limit=limit,
        )

    asked = iter(range(10 * EPOCHS + 1))

    def change_files() -> None:
        if next(asked) == 9:  # the first epoch is over
            for number in range(12):
                (folder / f"{number:04}.png").unlink()
            (folder / "0050.png").write_text("404 not found")
            Image.new("RGB", (40, 30), "red").save(folder / "0051.png")
            Image.new("RGB", (16, 18)).save(folder / "9999.png")

    pretraining.train(planned(0.1), stop=change_files)
    status = json.loads((tmp_path / "run" / "status.json").read_text())
    lost = sorted(told(tmp_path / "run"))
    assert (status["state"], status["skipped_files"]) == ("done", len(lost))
    gone = [f"{number:04}.png" for number in (*range(12), 50)]
    assert set(lost) <= set(gone)
    assert len(lost) >= len(gone) - 2 * 2 * workers  # what was read ahead of its step is no loss
    with pytest.raises(UsageError, match="other images, 160 then and 149 now"):
        pretraining.train(planned(0.1))


@pytest.mark.timeout(60)
@pytest.mark.parametrize(("bad", "limit", "most"), [(96, 0.3, 48), (8, 0.04, 6), (96, 0.01, 1)])
def test_above_the_limit_the_first_twenty_are_named(
    bad: int,
    limit: float,
    most: int,
    tiny: list[str],
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    folder, chosen = made_folder(tmp_path / "images", 160, bad)
    words = [word for setting in tiny for word in ("--set", setting)]
    run = tmp_path / "run"
    command = ["pretrain", str(folder), *words, "--device", "cpu", "--workers", "0"]
    assert main([*command, "--run", str(run), "--bad-limit", str(limit)]) == 3
    (line,) = capsys.readouterr().err.splitlines()
    found = told(run)
    assert line.startswith(f"moco: error: {len(found)} of 160 images cannot be used")
    assert len(found) > most
    named = [word.strip(",;") for word in line.split() if ".png" in word]
    assert named == found[:FIRST_NAMES]
    assert len(named) == min(FIRST_NAMES, len(found))
    assert {int(Path(name).stem) for name in named} <= chosen
    status = json.loads((run / "status.json").read_text())
    assert (status["state"], status["code"], status["skipped_files"]) == ("failed", 3, len(found))


@pytest.mark.timeout(60)
@pytest.mark.parametrize("limit", [0.01, 1.0])
@pytest.mark.parametrize("kind", ["all bad", "none fits", "empty", "missing"])
def test_nothing_to_train_on_ends_before_anything_is_built(
    kind: str, limit: float, tiny: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    settings = tiny

    def built(*_: object, **__: object) -> None:
        raise AssertionError("a network was built")

    monkeypatch.setattr(pretraining, "build_contrast", built)
    folder = tmp_path / "images"
    if kind == "empty":
        folder.mkdir()
    elif kind == "all bad":
        folder, _ = made_folder(folder, 1500, 0)
        for path in folder.iterdir():
            path.write_bytes(path.read_bytes()[:-300])  # decoded nearly to its end
    elif kind == "none fits":
        folder, _ = made_folder(folder, 40, 0)
        settings = [*tiny, "views.channels=2", "views.mean=[0, 0]", "views.std=[1, 1]"]
    began = time.monotonic()
    with pytest.raises(DataError) as caught:
        pretraining.pretrain(
            folder,
            settings=settings,
            run=tmp_path / "run",
            device="cpu",
            workers=0,
            bad_limit=limit,
        )
    assert time.monotonic() - began <= 10
    assert caught.value.exit_code == 3
    assert not (tmp_path / "run").exists()
