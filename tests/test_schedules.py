from __future__ import annotations

import math
import random
from collections.abc import Callable

import pytest

from moco.recipes import MOCO_V2, Recipe
from moco.recipes import RECIPES as NAMED
from moco.schedules import cosine, step_decay, warmup_cosine
from moco.specs import OptimizerSpec

# written out from ALGORITHM.md, sections 3, 4 and 6: e is the epoch counted from 0
FORMULAS: dict[str, Callable[[int], float]] = {
    "moco-v1": lambda e: 0.03 if e < 120 else 0.003 if e < 160 else 0.0003,
    "moco-v2": lambda e: 0.03 * (1 + math.cos(math.pi * e / 200)) / 2,
    "moco-v2-800": lambda e: 0.03 * (1 + math.cos(math.pi * e / 800)) / 2,
    "cifar10-resnet18": lambda e: 0.06 * (1 + math.cos(math.pi * (e + 1) / 200)) / 2,
    "cifar10-resnet18-symmetric": lambda e: 0.06 * (1 + math.cos(math.pi * (e + 1) / 200)) / 2,
}
STEPS_PER_EPOCH = {"moco-v1": 5004, "moco-v2": 5004, "moco-v2-800": 5004}  # else CIFAR's 97


@pytest.mark.parametrize("name", FORMULAS)
def test_rate_at_epoch_boundaries_and_in_between(name: str) -> None:
    recipe, steps_per_epoch = NAMED[name], STEPS_PER_EPOCH.get(name, 97)
    all_steps = recipe.epochs * steps_per_epoch
    boundaries = [
        step
        for epoch in range(recipe.epochs)
        for step in (epoch * steps_per_epoch, (epoch + 1) * steps_per_epoch - 1)
    ]
    draw = random.Random(0)
    for step in [*boundaries, *(draw.randrange(all_steps) for _ in range(200))]:
        expected = FORMULAS[name](step // steps_per_epoch)
        assert recipe.learning_rate(step, steps_per_epoch) == pytest.approx(
            expected, rel=1e-12, abs=1e-15
        )


def test_every_recipe_has_its_formula_here() -> None:
    assert set(FORMULAS) == set(NAMED)


def test_v1_drops_between_two_steps() -> None:
    recipe = NAMED["moco-v1"]
    rates = [recipe.learning_rate(step, 10) for step in (1199, 1200, 1599, 1600, 1999)]
    assert rates == pytest.approx([0.03, 0.003, 0.003, 0.0003, 0.0003], rel=1e-12)


def test_cifar_ends_at_exactly_zero_and_begins_below_its_base() -> None:
    recipe = NAMED["cifar10-resnet18"]
    assert recipe.learning_rate(200 * 97 - 1, 97) == 0.0
    assert recipe.learning_rate(0, 97) == pytest.approx(0.059996, abs=5e-7)


def test_v2_begins_at_its_base_and_never_reaches_zero() -> None:
    assert MOCO_V2.learning_rate(0, 10) == 0.03
    assert MOCO_V2.learning_rate(1999, 10) > 0


def test_warmup_cosine_moves_every_step() -> None:
    spec = OptimizerSpec(schedule="warmup_cosine", learning_rate=0.5, warmup_epochs=2)
    recipe = Recipe(name="x", source="x", optimizer=spec, epochs=10)
    for step in range(70):
        t = step / 7
        expected = 0.5 * t / 2 if t < 2 else 0.5 * (1 + math.cos(math.pi * (t - 2) / 8)) / 2
        assert recipe.learning_rate(step, 7) == pytest.approx(expected, rel=1e-12, abs=1e-15)
    assert recipe.learning_rate(0, 7) == 0.0
    assert recipe.learning_rate(14, 7) == 0.5


def test_warmup_of_no_epochs_is_a_plain_cosine() -> None:
    assert warmup_cosine(1.0, 0.0, 4, 0) == 1.0
    assert warmup_cosine(1.0, 3.0, 4, 0) == cosine(1.0, 3.0, 4)


def test_step_decay_counts_milestones_that_are_reached() -> None:
    assert [step_decay(8.0, epoch, (1, 3), factor=0.5) for epoch in range(5)] == [8, 4, 4, 2, 2]
    assert step_decay(8.0, 100, ()) == 8.0


def test_cosine_is_half_way_in_the_middle() -> None:
    assert cosine(2.0, 0, 10) == 2.0
    assert cosine(2.0, 5, 10) == pytest.approx(1.0)
    assert cosine(2.0, 10, 10) == 0.0
