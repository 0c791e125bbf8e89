from __future__ import annotations

import math
import random
from collections.abc import Callable
from dataclasses import replace

import pytest

from moco.recipe import Recipe
from moco.recipes import MOCO_V2
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


def v3_rate(base: float, warmup: int, epochs: int, t: float) -> float:
    """Return v3's rate, written out from section 6: t is the epoch as a fraction."""
    if t < warmup:
        return base * t / warmup
    return base * 0.5 * (1 + math.cos(math.pi * (t - warmup) / (epochs - warmup)))


V3_FORMULAS: dict[str, Callable[[float], float]] = {
    "moco-v3-resnet50": lambda t: v3_rate(0.6 * 16, 10, 100, t),
    "moco-v3-resnet50-300": lambda t: v3_rate(0.3 * 16, 10, 300, t),
    "moco-v3-resnet50-1000": lambda t: v3_rate(0.3 * 16, 10, 1000, t),
    "moco-v3-vit-small": lambda t: v3_rate(1.5e-4 * 16, 40, 300, t),
    "moco-v3-vit-base": lambda t: v3_rate(1.5e-4 * 16, 40, 300, t),
}
V3_KEY_MOMENTA: dict[str, Callable[[float], float]] = {
    "moco-v3-resnet50": lambda t: 1 - 0.5 * (1 + math.cos(math.pi * t / 100)) * 0.01,
    "moco-v3-resnet50-300": lambda t: 1 - 0.5 * (1 + math.cos(math.pi * t / 300)) * 0.01,
    "moco-v3-resnet50-1000": lambda t: 1 - 0.5 * (1 + math.cos(math.pi * t / 1000)) * 0.004,
    "moco-v3-vit-small": lambda t: 1 - 0.5 * (1 + math.cos(math.pi * t / 300)) * 0.01,
    "moco-v3-vit-base": lambda t: 1 - 0.5 * (1 + math.cos(math.pi * t / 300)) * 0.01,
}
CONSTANT_KEY_MOMENTA = {
    "moco-v1": 0.999,
    "moco-v2": 0.999,
    "moco-v2-800": 0.999,
    "cifar10-resnet18": 0.99,
    "cifar10-resnet18-symmetric": 0.99,
}
each_recipe = pytest.mark.parametrize("name", NAMED)


def steps_per_epoch_of(recipe: Recipe) -> int:
    """Return how many full batches ImageNet or CIFAR-10 gives."""
    return (50_000 if "cifar10" in recipe.name else 1_281_167) // recipe.batch_size


def steps_to_look_at(recipe: Recipe) -> list[int]:
    """Return the first and last step of every epoch, and 1,000 random ones."""
    per_epoch = steps_per_epoch_of(recipe)
    edges = [epoch * per_epoch + edge for epoch in range(recipe.epochs) for edge in (-1, 0)]
    draw = random.Random(recipe.name)
    between = [draw.randrange(recipe.epochs * per_epoch) for _ in range(1000)]
    return [*edges[1:], recipe.epochs * per_epoch - 1, *between]


@each_recipe
def test_rate_at_epoch_boundaries_and_in_between(name: str) -> None:
    recipe = NAMED[name]
    per_epoch = steps_per_epoch_of(recipe)
    for step in steps_to_look_at(recipe):
        expected = (
            V3_FORMULAS[name](step / per_epoch)
            if name in V3_FORMULAS
            else FORMULAS[name](step // per_epoch)
        )
        found = recipe.learning_rate(step, per_epoch)
        assert found == pytest.approx(expected, rel=1e-12, abs=1e-15)


@each_recipe
def test_key_momentum_at_epoch_boundaries_and_in_between(name: str) -> None:
    recipe = NAMED[name]
    per_epoch = steps_per_epoch_of(recipe)
    for step in steps_to_look_at(recipe):
        found = recipe.key_momentum_at(step, per_epoch)
        if name in CONSTANT_KEY_MOMENTA:
            assert found == CONSTANT_KEY_MOMENTA[name]
        else:
            assert found == pytest.approx(V3_KEY_MOMENTA[name](step / per_epoch), abs=1e-14)


@each_recipe
def test_temperature_stays_unless_told_where_to_go(name: str) -> None:
    recipe = NAMED[name]
    per_epoch = steps_per_epoch_of(recipe)
    colder = replace(recipe, last_temperature=0.05)
    for step in steps_to_look_at(recipe):
        assert recipe.temperature_at(step, per_epoch) == recipe.temperature
        share_left = (1 + math.cos(math.pi * step / per_epoch / recipe.epochs)) / 2
        expected = 0.05 + (recipe.temperature - 0.05) * share_left
        assert colder.temperature_at(step, per_epoch) == pytest.approx(expected, rel=1e-12)
    assert colder.temperature_at(0, per_epoch) == recipe.temperature
    assert colder.temperature_at(recipe.epochs * per_epoch, per_epoch) == 0.05


def test_v3_begins_without_moving_and_ends_with_keys_at_rest() -> None:
    for name in V3_FORMULAS:
        recipe = NAMED[name]
        per_epoch = steps_per_epoch_of(recipe)
        assert recipe.learning_rate(0, per_epoch) == 0.0
        assert recipe.learning_rate(1, per_epoch) > 0.0
        assert recipe.key_momentum_at(0, per_epoch) == recipe.key_momentum
        assert recipe.key_momentum_at(recipe.epochs * per_epoch, per_epoch) == 1.0


def test_every_recipe_has_its_formula_here() -> None:
    assert {*FORMULAS, *V3_FORMULAS} == {*CONSTANT_KEY_MOMENTA, *V3_KEY_MOMENTA} == set(NAMED)


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
