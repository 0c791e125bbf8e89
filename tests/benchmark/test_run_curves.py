"""Runs' figures side by side, drawn from what they wrote."""

from __future__ import annotations

import importlib.util
import json
import subprocess
import sys
from pathlib import Path

import pytest
from made_runs import made_run

SCRIPT = Path(__file__).parents[2] / "benchmarks" / "run_curves.py"


def test_a_point_is_the_mean_of_ten_steps() -> None:
    pytest.importorskip("matplotlib")
    spec = importlib.util.spec_from_file_location("run_curves", SCRIPT)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    assert module.means([{"loss": step} for step in range(15)], "loss") == [4.5, 12]


@pytest.mark.slow
def test_runs_are_drawn_beside_each_other(tmp_path: Path) -> None:
    pytest.importorskip("matplotlib")
    names = ("step", "loss", "positive_similarity", "negative_similarity", "pretext_top1")
    for number, name in enumerate(("one", "other")):
        run = made_run(tmp_path / name, number)
        rows = [dict.fromkeys(names, step) for step in range(30)]
        rows[3]["loss"] = None  # a step that was left out
        (run / "metrics.jsonl").write_text("".join(f"{json.dumps(row)}\n" for row in rows))
    out = tmp_path / "curves.png"
    subprocess.run(
        [sys.executable, SCRIPT, tmp_path / "one", tmp_path / "other", "--out", out], check=True
    )
    assert out.stat().st_size > 10_000
