from __future__ import annotations

import pickle
import time
from collections import Counter
from dataclasses import fields, replace
from itertools import permutations
from typing import Any

import numpy as np
import pytest
import torch
from scipy.stats import chisquare, ks_2samp
from torch.utils.data import DataLoader, Dataset
from torchvision import transforms

from moco.data.changes import COLUMNS, Changes, are_measurements, draw_changes
from moco.data.crops import CROP_DRAWS
from moco.recipes import MOCO_V1, MOCO_V2, MOCO_V3_RESNET50

MANY = np.arange(4000)
ALL = replace(
    MOCO_V2.views,
    order=(
        *("crop", "jitter", "gray", "blur", "solarize"),
        *("horizontal_flip", "vertical_flip", "quarter_turns"),
    ),
    jitter=(0.4, 0.3, 0.2, 0.1),
)
MEASURED = replace(ALL, channels=4, mean=(0.5,) * 4, std=(0.25,) * 4)


def equal(one: Changes, other: Changes) -> dict[str, bool]:
    return {
        field.name: np.array_equal(getattr(one, field.name), getattr(other, field.name))
        for field in fields(Changes)
    }


def test_a_row_depends_on_seed_epoch_image_and_view_alone() -> None:
    every = draw_changes(MEASURED, 7, 3, MANY, 1)
    some = np.array([17, 3, 999])
    assert all(equal(every.rows(some), draw_changes(MEASURED, 7, 3, some, 1)).values())
    for other in ((8, 3, MANY, 1), (7, 4, MANY, 1), (7, 3, MANY, 0), (7, 3, MANY + 1, 1)):
        assert not any(equal(every, draw_changes(MEASURED, *other)).values())


def test_every_decision_keeps_its_draw() -> None:
    assert CROP_DRAWS == 40 == min(COLUMNS.values())
    assert len(set(COLUMNS.values())) == len(COLUMNS)
    assert max(COLUMNS.values()) == COLUMNS["channels"]
    only = draw_changes(replace(ALL, order=("crop", "blur")), 0, 0, MANY, 0)
    found = equal(only, draw_changes(ALL, 0, 0, MANY, 0))
    assert found["blur_radius"]
    assert found["jitter_factors"]
    assert not only.gray.any()
    drawn = draw_changes(MEASURED, 0, 0, np.array([11]), 1)  # these figures are part of every run
    assert drawn.jitter_order.tolist() == [[1, 2, 3, 0]]
    assert drawn.jitter_factors[0] == pytest.approx([0.813624, 0.898521, 0.995062, 0.016491], 1e-4)
    assert drawn.channel_contrast[0] == pytest.approx([0.930861, 1.136665, 0.787662, 0.792649])


@pytest.mark.parametrize("operation", ALL.order[1:])
def test_an_operation_that_is_not_named_is_drawn_for_none(operation: Any) -> None:
    names = {
        "jitter": "jittered",
        "blur": "blur_radius",
        "solarize": "solarized",
    }
    name = names.get(operation, operation)
    without = replace(ALL, order=tuple(one for one in ALL.order if one != operation))
    one, other = (draw_changes(spec, 0, 0, MANY, 1) for spec in (ALL, without))
    assert getattr(one, name).any()
    assert not getattr(other, name).any()
    found = equal(one, other)
    assert not found.pop(name)
    assert all(found.values())


@pytest.mark.parametrize("strengths", [(0.4, 0.4, 0.4, 0.1), (1.5, 0.0, 2.0, 0.5), (0, 0, 0, 0)])
def test_factors_are_distributed_as_torchvisions(strengths: Any) -> None:
    ours = draw_changes(replace(MOCO_V1.views, jitter=strengths), 1, 0, MANY[:2000], 0)
    jitter = transforms.ColorJitter(*strengths)
    torch.manual_seed(0)
    drawn = [
        jitter.get_params(jitter.brightness, jitter.contrast, jitter.saturation, jitter.hue)
        for _ in range(2000)
    ]
    for place, strength in enumerate(strengths):
        factors = ours.jitter_factors[:, place]
        if strength == 0:
            assert set(factors) == {0.0 if place == 3 else 1.0}
            continue
        theirs = [row[place + 1] for row in drawn]
        assert ks_2samp(factors, theirs).pvalue > 1e-4
        assert factors.min() >= (-strength if place == 3 else max(0, 1 - strength))
        assert factors.max() <= (strength if place == 3 else 1 + strength)


def test_all_orders_of_jitters_are_as_frequent() -> None:
    counts = Counter(map(tuple, draw_changes(ALL, 0, 0, MANY, 0).jitter_order.tolist()))
    assert set(counts) == set(permutations(range(4)))
    assert chisquare(list(counts.values())).pvalue > 1e-4


def share(flags: Any, probability: float) -> bool:
    """Say whether flags are as often true as they should, within 4 deviations."""
    deviation = (probability * (1 - probability) / len(flags)) ** 0.5
    return bool(abs(np.mean(flags) - probability) <= 4 * deviation)


@pytest.mark.parametrize("view", [0, 1])
def test_operations_happen_as_often_as_their_probabilities_say(view: Any) -> None:
    spec = replace(
        ALL,
        gray_probability=0.2,
        jitter_probability=0.8,
        blur_probabilities=(1.0, 0.1),
        solarize_probabilities=(0.0, 0.3),
        flip_probability=0.5,
    )
    drawn = draw_changes(spec, 5, 0, MANY, view)
    assert share(drawn.gray, 0.2)
    assert share(drawn.jittered, 0.8)
    assert share(drawn.blur_radius > 0, (1.0, 0.1)[view])
    assert share(drawn.solarized, (0.0, 0.3)[view])
    assert share(drawn.horizontal_flip, 0.5)
    assert share(drawn.vertical_flip, 0.5)
    assert chisquare(np.bincount(drawn.quarter_turns)).pvalue > 1e-4
    assert set(drawn.quarter_turns) == {0, 1, 2, 3}


def test_certain_and_impossible_operations() -> None:
    never = replace(
        ALL,
        gray_probability=0,
        jitter_probability=0,
        blur_probabilities=(0, 0),
        flip_probability=0,
    )
    drawn = draw_changes(never, 0, 0, MANY, 0)
    assert not (drawn.gray | drawn.jittered | drawn.horizontal_flip | (drawn.blur_radius > 0)).any()
    always = replace(never, gray_probability=1, jitter_probability=1, flip_probability=1)
    drawn = draw_changes(always, 0, 0, MANY, 0)
    assert (drawn.gray & drawn.jittered & drawn.horizontal_flip & drawn.vertical_flip).all()


def test_decisions_are_independent_of_each_other() -> None:
    drawn = draw_changes(MEASURED, 2, 0, MANY, 1)
    columns = [
        np.asarray(getattr(drawn, field.name), float).reshape(len(MANY), -1).T
        for field in fields(Changes)
    ]
    correlations = np.corrcoef(np.concatenate(columns))
    orders = slice(1, 5)  # the places of one order depend on each other, of course
    correlations[orders, orders] = 0
    np.fill_diagonal(correlations, 0)
    assert abs(correlations).max() < 5 / len(MANY) ** 0.5
    first, second = (draw_changes(MEASURED, 2, 0, MANY, view) for view in (0, 1))
    both = np.corrcoef(first.jitter_factors.T, second.jitter_factors.T)[:4, 4:]
    assert abs(both).max() < 5 / len(MANY) ** 0.5


def test_blur_radii_are_uniform_over_their_range() -> None:
    radii = draw_changes(MOCO_V3_RESNET50.views, 0, 0, MANY, 0).blur_radius
    uniform = np.random.default_rng(0).uniform(0.1, 2.0, 4000)
    assert ks_2samp(radii, uniform).pvalue > 1e-4
    assert 0.1 <= radii.min() < 0.11
    assert 1.99 < radii.max() <= 2.0


def test_channels_of_measurements_have_factors_of_their_own() -> None:
    assert not are_measurements(ALL)
    assert are_measurements(MEASURED)
    assert are_measurements(replace(ALL, deep=True))
    drawn = draw_changes(MEASURED, 0, 0, MANY, 0)
    assert drawn.channel_brightness.shape == drawn.channel_contrast.shape == (4000, 4)
    for factors, strength in ((drawn.channel_brightness, 0.4), (drawn.channel_contrast, 0.3)):
        uniform = np.random.default_rng(0).uniform(1 - strength, 1 + strength, 4000)
        for channel in range(4):
            assert ks_2samp(factors[:, channel], uniform).pvalue > 1e-4
    more = draw_changes(
        replace(MEASURED, channels=6, mean=(0.5,) * 6, std=(0.25,) * 6), 0, 0, MANY, 0
    )
    assert np.array_equal(more.channel_contrast[:, :4], drawn.channel_contrast)
    assert draw_changes(ALL, 0, 0, MANY, 0).channel_contrast.shape == (4000, 0)


class DrawnBatches(Dataset[Changes]):
    def __len__(self) -> int:
        return 3

    def __getitem__(self, step: int) -> Changes:
        return draw_changes(MEASURED, 0, step, MANY[:8], 0)


def test_changes_come_through_a_loader_unchanged() -> None:
    loader = DataLoader(DrawnBatches(), batch_size=None, num_workers=1)
    for step, received in enumerate(loader):
        expected = draw_changes(MEASURED, 0, step, MANY[:8], 0)
        assert len(received) == 8
        assert all(equal(received, expected).values())
    assert all(equal(pickle.loads(pickle.dumps(expected)), expected).values())


def test_a_batch_is_drawn_in_little_time() -> None:
    ids = np.arange(256)
    draw_changes(MOCO_V2.views, 0, 0, ids, 0)
    start = time.process_time()
    for epoch in range(20):
        draw_changes(MOCO_V2.views, 0, epoch, ids, 0)
    assert (time.process_time() - start) / 20 < 2e-3  # 0.3 ms where this was written
