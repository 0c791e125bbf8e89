"""Training from files, timed as a whole: equal files, equal steps, all processes' time."""

from __future__ import annotations

import multiprocessing
import os
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from moco.benchmark.files import Likeness
from moco.benchmark.training import comparing
from moco.benchmark.training.comparing import (
    compare_training,
    cpu_seconds,
    image_files,
    train_rows,
    turns_of,
)
from moco.benchmark.training.rows import Shapes, Sizes, TrainRow
from moco.errors import DataError, UsageError
from moco.recipe import Recipe
from moco.recipe_files import set_fields
from moco.recipes import RECIPES

CPU = torch.device("cpu")
ALONE = Sizes(2, 0, CPU)


@pytest.fixture
def recipe(tiny_settings: list[str]) -> Recipe:
    return set_fields(RECIPES["cifar10-resnet18"], tiny_settings)


def test_both_train_on_the_same_files(recipe: Recipe, photos: Path, tmp_path: Path) -> None:
    files = image_files(photos, tmp_path, 16)
    assert len(files.paths) == 64
    for row in train_rows(files, recipe, ALONE):
        assert row.images == 32
        assert row.take() == [(16, 3, 16, 16)] * 2


def test_views_that_grow_are_of_their_full_size_beside_the_official_ones(
    recipe: Recipe, photos: Path, tmp_path: Path
) -> None:
    growing = set_fields(recipe, ["views.first_size=8", "size_step=8"])
    for row in train_rows(image_files(photos, tmp_path, 16), growing, ALONE):
        assert row.take() == [(16, 3, 16, 16)] * 2


def test_loading_processes_do_it_and_their_time_counts(recipe: Recipe, photos: Path) -> None:
    found = compare_training(recipe, photos, rounds=2, sizes=Sizes(2, 1, CPU))
    assert [result.row.name for result in found.results] == ["ours", "official"]
    assert found.results[1].ratios == found.results[1].cpu_ratios == [1.0, 1.0]
    assert not multiprocessing.active_children()
    for result in found.results:
        assert len(result.turns) == 2
        assert all(turn.seconds > 0 and turn.cpu_seconds > 0 for turn in result.turns)
        assert result.rates == [32 / turn.seconds for turn in result.turns]


def busy(seconds: float) -> None:
    began = os.times()
    while os.times().user - began.user < seconds:
        pass


def test_cpu_seconds_are_those_of_ended_processes_too() -> None:
    began = cpu_seconds()
    child = os.fork()
    if child == 0:
        busy(0.2)
        os._exit(0)
    os.waitpid(child, 0)
    assert cpu_seconds() - began >= 0.2


def row(name: str, calls: list[str], shapes: Shapes) -> TrainRow:
    def take() -> Shapes:
        calls.append(name)
        return shapes

    return TrainRow(name, name, "", 8, take)


def test_turns_are_interleaved_and_of_the_same_steps() -> None:
    calls: list[str] = []
    a, b = (row(name, calls, [(4, 3, 16, 16)]) for name in "AB")
    turns = turns_of([a, b], 3, CPU)
    assert "".join(calls) == "ABABAB"
    assert {name: len(taken) for name, taken in turns.items()} == {"A": 3, "B": 3}
    with pytest.raises(ValueError, match="other steps"):
        turns_of([a, replace(b, take=lambda: [(4, 3, 8, 8)])], 1, CPU)


def test_nothing_is_timed_where_pixels_or_steps_differ(
    recipe: Recipe, photos: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*_: object) -> None:
        raise ValueError("other work")

    monkeypatch.setattr(comparing, "turns_of", lambda *_: pytest.fail("timed"))
    monkeypatch.setattr(comparing, "check_equal_work", refuse)
    with pytest.raises(ValueError, match="other work"):
        compare_training(recipe, photos, rounds=1, sizes=ALONE)
    monkeypatch.setattr(comparing, "compare_pixels", lambda *_: Likeness(0.0, 2.0))
    with pytest.raises(ValueError, match="not the official pipeline's"):
        compare_training(recipe, None, rounds=1, sizes=ALONE)


@pytest.mark.parametrize(
    ("rounds", "sizes", "told"),
    [
        (0, ALONE, "--rounds must be from 1, got 0"),
        (1, replace(ALONE, steps=0), "--steps must be from 1, got 0"),
        (1, replace(ALONE, workers=-1), "--workers must be from 0, got -1"),
    ],
)
def test_senseless_numbers_are_refused(
    rounds: int, sizes: Sizes, told: str, recipe: Recipe, photos: Path
) -> None:
    with pytest.raises(UsageError, match=told):
        compare_training(recipe, photos, rounds=rounds, sizes=sizes)


def test_only_photographs_are_taken(recipe: Recipe, tmp_path: Path) -> None:
    for number in range(16):
        deep = np.full((20, 20), 1000 * number, dtype=np.uint16)
        Image.fromarray(deep).save(tmp_path / f"{number}.png")
    with pytest.raises(UsageError, match="no photographs of 8 bits"):
        train_rows(image_files(tmp_path, tmp_path, 16), recipe, ALONE)


def test_too_few_images_are_refused(tmp_path: Path, photos: Path) -> None:
    with pytest.raises(DataError, match="64 images are fewer than a batch of 80"):
        image_files(photos, tmp_path, 80)


def test_photographs_are_made_for_a_batch(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[int] = []
    write: Callable[..., list[Path]] = comparing.write_photographs
    monkeypatch.setattr(
        comparing, "write_photographs", lambda at, count: asked.append(count) or write(at, 3)
    )
    with pytest.raises(DataError, match="3 images"):
        image_files(None, tmp_path, 64)
    assert asked == [64]
