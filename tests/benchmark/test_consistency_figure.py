"""What the figure of dictionary consistency reads of a run."""

from __future__ import annotations

import importlib.util
import json
import sys
from pathlib import Path
from types import ModuleType

import pytest

SCRIPT = Path(__file__).parents[2] / "benchmarks" / "consistency_figure.py"


@pytest.fixture(scope="module")
def script() -> ModuleType:
    spec = importlib.util.spec_from_file_location("consistency_figure", SCRIPT)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module
    spec.loader.exec_module(module)
    return module


def reading(deviation: float, consistency: list[list[float]]) -> str:
    return json.dumps({"feature_deviation": deviation, "consistency": consistency})


def test_ages_are_means_over_the_second_half_of_the_readings(
    script: ModuleType, tmp_path: Path
) -> None:
    lines = [
        reading(0.5, []),
        reading(0.5, [[10, 0.1]]),
        reading(0.5, [[10, 0.2]]),
        reading(0.5, [[10, 0.75], [25, 0.5]]),
        reading(0.5, [[10, 1.0], [25, 0.0]]),
    ]
    (tmp_path / "signals.jsonl").write_text("\n".join(lines) + "\n")
    found = script.by_age(tmp_path)
    assert found[10] == pytest.approx((0.875, 0.5))
    assert found[25] == pytest.approx((0.25, 3.0))


def test_the_figure_is_drawn_of_what_is_stored(script: ModuleType, tmp_path: Path) -> None:
    pytest.importorskip("matplotlib")
    stored = json.loads((SCRIPT.parents[1] / "docs/figures/consistency.json").read_text())
    assert {run["key_momentum"] for run in stored["runs"]} == {0, 0.9, 0.99, 0.999}
    assert len({run["seed"] for run in stored["runs"]}) >= 3
    script.draw(stored, tmp_path / "figure.png")
    assert (tmp_path / "figure.png").stat().st_size > 10_000
