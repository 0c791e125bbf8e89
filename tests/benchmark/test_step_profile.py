"""Where a step's time goes, and the floor under it."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from torch import Tensor

from moco.benchmark.steps.floor import Ceilings, Traffic, measure_ceilings
from moco.benchmark.steps.learner import FORWARD_KEY, FORWARD_QUERY, PARTS, STORE
from moco.benchmark.steps.profiling import (
    REST,
    StepProfile,
    Stopwatch,
    shares_of_parts,
    write_trace,
)
from moco.benchmark.steps.rows import common_start, official_rows, our_rows
from moco.errors import StorageError
from moco.recipe import Recipe
from moco.recipe_files import set_fields
from moco.recipes import RECIPES

CPU = torch.device("cpu")


@pytest.fixture
def recipe(tiny_settings: list[str]) -> Recipe:
    return set_fields(RECIPES["cifar10-resnet18"], tiny_settings)


def test_time_belongs_to_the_innermost_part() -> None:
    now = [0.0]
    watch = Stopwatch(lambda: now[0])
    now[0] = 1.0
    with watch("loss"):
        now[0] = 3.0
        with watch("forward of query"):
            now[0] = 7.0
        now[0] = 15.0
    now[0] = 31.0
    watch.change()
    assert watch.seconds["forward of query"] == 4.0
    assert watch.seconds["loss"] == 2.0 + 8.0
    assert watch.seconds[REST] == 1.0 + 16.0


def test_every_part_of_both_steps_is_told(recipe: Recipe) -> None:
    start = common_start(recipe, CPU)
    for row in (our_rows(start)[0][0], official_rows(start)[0]):
        shares = shares_of_parts(row, 2)
        assert set(shares) == {*PARTS, REST}
        assert sum(shares.values()) == pytest.approx(1.0)
        assert all(share > 0 for share in shares.values()), row.name
        assert shares[FORWARD_QUERY] + shares[FORWARD_KEY] > shares[STORE]


def test_a_told_step_is_the_step_and_ends_untold(recipe: Recipe) -> None:
    def trained(*, told: bool) -> list[Tensor]:
        row = our_rows(common_start(recipe, CPU))[0][0]
        if told:
            shares_of_parts(row, 2)
        else:
            row.run(0)
            row.run(1)
        row.run(0)
        return [value.clone() for value in row.learner.contrast.state_dict().values()]  # type: ignore[attr-defined]

    pairs = zip(trained(told=True), trained(told=False), strict=True)
    assert all(torch.equal(a, b) for a, b in pairs)


def test_the_trace_names_the_parts(recipe: Recipe, tmp_path: Path) -> None:
    row = our_rows(common_start(recipe, CPU))[0][0]
    write_trace(row, tmp_path / "trace.json")
    events = json.loads((tmp_path / "trace.json").read_text())["traceEvents"]
    assert set(PARTS) <= {event.get("name") for event in events}
    with pytest.raises(StorageError, match="cannot write --profile"):
        write_trace(row, tmp_path / "none" / "trace.json")


def test_bytes_are_what_operations_read_and_write() -> None:
    a, b = torch.randn(8, 4), torch.randn(4, 2)
    with Traffic() as traffic:
        product = a @ b.T.T  # 32 + 8 numbers read, 16 written, views none
        product.add_(1.0)  # 16 read, 16 written
        torch.empty(1000)
    assert traffic.bytes == 4 * (32 + 8 + 16 + 16 + 16)


def test_ceilings_are_those_of_a_product_and_a_copy() -> None:
    found = measure_ceilings(CPU, torch.float32, side=64)
    assert 1e7 < found.operations_per_second < 1e14
    assert 1e7 < found.bytes_per_second < 1e13


def test_the_floor_is_the_longer_of_operations_and_bytes() -> None:
    found = StepProfile("ours", "ours", {}, 200, 3000, Ceilings(1000.0, 100.0), 4.0)
    assert (found.operation_seconds, found.byte_seconds) == (3.0, 2.0)
    assert found.floor_share == 0.75
    assert replace(found, bytes_per_step=400).floor_share == 1.0
