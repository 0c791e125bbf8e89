"""What compiled networks compute is the same: in float64, with generated code, nothing shows."""

from __future__ import annotations

import importlib.util
import sys
from pathlib import Path
from types import ModuleType

import pytest
import torch

SCRIPT = Path(__file__).parents[2] / "benchmarks" / "compiled_rounding.py"
STEPS = 6


@pytest.fixture(scope="module")
def script() -> ModuleType:
    spec = importlib.util.spec_from_file_location("compiled_rounding", SCRIPT)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module
    spec.loader.exec_module(module)
    return module


@pytest.mark.slow
@pytest.mark.timeout(1500)  # on a busy processor; one that is free takes one
@pytest.mark.parametrize("case", ["queue, 2 groups", "end-to-end, 2 groups", "v3 ViT"])
def test_losses_are_the_plain_ones(
    case: str, script: ModuleType, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("TORCHINDUCTOR_CACHE_DIR", str(tmp_path))
    monkeypatch.setitem(script.MOCO_V3_VITS, "moco_v3_vit_small", script.TINY_VIT)
    recipe = script.recipe_of(case)
    plain, compiled = (
        script.losses_of(recipe, torch.float64, STEPS, compiled=compiled)
        for compiled in (False, True)
    )
    assert len(set(plain)) == STEPS
    assert compiled == pytest.approx(plain, rel=1e-12)
