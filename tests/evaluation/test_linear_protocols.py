"""The papers' linear protocols say what their tables say (ALGORITHM, section 9)."""

from __future__ import annotations

import math
from dataclasses import replace

import pytest

from moco.errors import UsageError
from moco.evaluation.linear_protocols import (
    LINEAR_CIFAR_NOTEBOOK,
    LINEAR_V1_V2,
    LINEAR_V3_RESNET,
    LINEAR_V3_VIT,
    PROTOCOLS,
    LinearProtocol,
    Sides,
    linear_protocol,
    with_changes,
)
from moco.recipes import RECIPES
from moco.small import small_recipe
from moco.specs import ViewsSpec

RUN_VIEWS = ViewsSpec(
    image_size=96,
    order=("crop", "jitter", "gray", "vertical_flip", "blur"),
    flip_probability=0.3,
    channels=2,
    mean=(0.1, 0.2),
    std=(0.3, 0.4),
)


@pytest.mark.parametrize("protocol", [LINEAR_V1_V2, LINEAR_CIFAR_NOTEBOOK])
def test_the_first_papers_rate_is_30_then_3_then_three_tenths(protocol: LinearProtocol) -> None:
    assert (protocol.batch_size, protocol.epochs) == (256, 100)
    assert [protocol.rate(epoch) for epoch in range(60)] == [30.0] * 60
    assert [protocol.rate(epoch) for epoch in range(60, 80)] == pytest.approx([3.0] * 20)
    assert [protocol.rate(epoch) for epoch in range(80, 100)] == pytest.approx([0.3] * 20)


@pytest.mark.parametrize(("protocol", "first"), [(LINEAR_V3_RESNET, 0.4), (LINEAR_V3_VIT, 12.0)])
def test_v3s_rate_is_scaled_and_falls_on_a_half_cosine(
    protocol: LinearProtocol, first: float
) -> None:
    assert (protocol.batch_size, protocol.epochs) == (1024, 90)
    for epoch in range(90):
        wanted = first / 2 * (1 + math.cos(math.pi * epoch / 90))
        assert protocol.rate(epoch) == pytest.approx(wanted, rel=1e-12)
    assert protocol.rate(0) == pytest.approx(first)
    assert protocol.rate(45) == pytest.approx(first / 2)
    assert protocol.rate(89) > 0


@pytest.mark.parametrize("protocol", PROTOCOLS, ids=lambda protocol: protocol.name)
def test_what_all_protocols_share(protocol: LinearProtocol) -> None:
    assert (protocol.sgd_momentum, protocol.weight_decay) == (0.9, 0.0)
    assert protocol.layer_deviation == 0.01
    assert protocol.departures == ()
    assert protocol.batch_warning == ""
    train, test = protocol.train_views(RUN_VIEWS), protocol.test_views(RUN_VIEWS)
    assert train.order == ("crop", "horizontal_flip")
    assert (train.crop_scale, train.flip_probability) == ((0.08, 1.0), 0.5)
    assert (train.channels, train.mean, train.std) == (2, (0.1, 0.2), (0.3, 0.4))
    assert (test.channels, test.mean, test.std) == (2, (0.1, 0.2), (0.3, 0.4))
    sides = (train.image_size, test.evaluation_resize, test.evaluation_size)
    assert sides == ((32, 32, 32) if protocol is LINEAR_CIFAR_NOTEBOOK else (224, 256, 224))


def test_only_v3s_rate_follows_the_batch() -> None:
    """The first papers' is literal: at a batch of 2,048 v1 had 57.9 instead of 60.6 %."""
    large = with_changes(LINEAR_V1_V2, batch_size=2048)
    assert large.rate(0) == 30.0
    assert "literal" in large.batch_warning
    assert "moco#132" in large.batch_warning
    assert large.departures == ("batch_size 2,048, not 256",)
    scaled = with_changes(LINEAR_V3_VIT, batch_size=2048)
    assert scaled.rate(0) == pytest.approx(24.0)
    assert scaled.batch_warning == ""
    assert with_changes(LINEAR_V3_RESNET, learning_rate=0.2).rate(0) == pytest.approx(0.8)


def test_other_epochs_keep_the_schedules_shape_and_are_named() -> None:
    short = with_changes(LINEAR_V1_V2, epochs=10, learning_rate=1.0)
    rates = [short.rate(epoch) for epoch in range(10)]
    assert rates == pytest.approx([1.0] * 6 + [0.1] * 2 + [0.01] * 2)
    assert short.departures == (
        "learning_rate 1, not 30",
        "epochs 10, not 100",
        "milestones 6, 8, not 60, 80",
    )
    cosine = with_changes(LINEAR_V3_RESNET, epochs=2)
    assert [cosine.rate(epoch) for epoch in range(2)] == pytest.approx([0.4, 0.2])
    assert with_changes(LINEAR_V1_V2) == LINEAR_V1_V2
    assert replace(LINEAR_V1_V2, weight_decay=1e-4).departures == ("weight_decay 0.0001, not 0",)
    assert "no published" in replace(LINEAR_V1_V2, name="mine").departures[0]


@pytest.mark.parametrize("wrong", [{"epochs": 0}, {"batch_size": 0}, {"learning_rate": math.nan}])
def test_settings_that_make_no_sense_are_refused(wrong: dict[str, float]) -> None:
    with pytest.raises(UsageError, match=next(iter(wrong))):
        with_changes(LINEAR_V1_V2, **wrong)  # type: ignore[arg-type]


@pytest.mark.parametrize("name", RECIPES)
def test_a_papers_recipe_has_its_papers_protocol(name: str) -> None:
    found = linear_protocol(RECIPES[name])
    wanted = LINEAR_V1_V2
    if name.startswith("moco-v3"):
        wanted = LINEAR_V3_VIT if "vit" in name else LINEAR_V3_RESNET
    elif name.startswith("cifar10"):
        wanted = LINEAR_CIFAR_NOTEBOOK
    assert found == wanted
    assert found.departures == ()


def test_a_recipe_of_other_sides_has_a_protocol_that_says_so() -> None:
    v2 = RECIPES["moco-v2"]
    views = replace(v2.views, image_size=64, evaluation_resize=96, evaluation_size=96)
    found = linear_protocol(replace(v2, views=views))
    assert (found.name, found.sides) == ("v1/v2 linear", Sides(64, 96, 96))
    assert found.departures == (
        "sides 64 (test 96 of 96) pixels, not 224 (test 224 of 256) pixels",
    )


def test_a_rate_of_30_is_for_what_sgd_trained() -> None:
    recipe, _ = small_recipe(1000, "cpu")
    assert recipe.optimizer.algorithm == "adamw"
    assert linear_protocol(recipe) == replace(LINEAR_V3_RESNET, sides=Sides(64, 96, 96))
    bank = replace(RECIPES["moco-v1"], mechanism="memory_bank")
    assert linear_protocol(bank) == LINEAR_V1_V2  # as the first paper compares them
