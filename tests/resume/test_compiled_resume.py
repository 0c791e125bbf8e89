"""A compiled run that was stopped and started again equals one that never was, to the last bit."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from bitwise import assert_bitwise

from moco import compiling, vision_transformer
from moco.checkpoint import load_checkpoint
from moco.errors import InterruptedRunError
from moco.plan import make_plan
from moco.pretraining import train
from moco.progress import SilentReport
from moco.recipe import Recipe
from moco.recipe_files import set_fields
from moco.recipes import RECIPES
from moco.vision_transformer import VisionTransformerShape

STEPS, STOPPED = 8, 75  # two epochs of four
CLOCK = "images_per_second"
MINUTES = pytest.mark.timeout(1500)  # on a busy processor; one that is free takes one
TINY_VIT = VisionTransformerShape(width=24, depth=1, attention_heads=2, stem="patch")


class Notes(SilentReport):
    """Keeps what a run says."""

    def __init__(self) -> None:
        self.lines: list[str] = []

    def note(self, text: str) -> None:
        self.lines.append(text)


def stopping_after(steps: int) -> Callable[[], int | None]:
    """Return what asks to stop once so many steps were taken."""
    left = [None] * (steps - 1)
    return lambda: left.pop() if left else STOPPED


def recipe_of(method: str, tiny: list[str]) -> Recipe:
    sizes = ["batch_size=16", "epochs=2", "encoder.dim=16", "encoder.head_width=16"]
    if method == "queue":
        return set_fields(RECIPES["moco-v2"], [*tiny, *sizes])
    of_views = [
        f"views.{word}=32" for word in ("image_size", "evaluation_resize", "evaluation_size")
    ]
    return set_fields(
        RECIPES["moco-v3-vit-small"],
        [*of_views, *sizes, "encoder.token_drop=0.5", "warmup_epochs=1"],
    )


def trained(
    photos: Path, recipe: Recipe, run: Path, *, compiled: bool = True, stop: int = 0
) -> list[str]:
    """Train as a new process would, with nothing compiled before; return what the run said."""
    torch._dynamo.reset()
    notes = Notes()
    plan = make_plan(
        photos, recipe=recipe, run=run, device="cpu", workers=0, compile_networks=compiled
    )
    if not stop:
        train(plan, report=notes)
        return notes.lines
    with pytest.raises(InterruptedRunError):
        train(plan, report=notes, stop=stopping_after(stop))
    return notes.lines


def rows_of(run: Path) -> list[dict[str, Any]]:
    """Return the figures of a run's steps, but for what a clock decides."""
    rows = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    return [{name: value for name, value in row.items() if name != CLOCK} for row in rows]


@pytest.mark.parametrize(
    ("method", "backend"),
    [
        ("token drop", "eager"),  # traced alone
        pytest.param("queue", "inductor", marks=[pytest.mark.slow, MINUTES]),
        pytest.param("token drop", "inductor", marks=[pytest.mark.slow, MINUTES]),
    ],
)
def test_a_compiled_run_goes_on_bitwise(
    method: str,
    backend: str,
    photos: Path,
    tiny_settings: list[str],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(compiling, "BACKEND", backend)
    monkeypatch.setitem(vision_transformer.MOCO_V3_VITS, "moco_v3_vit_small", TINY_VIT)
    recipe = recipe_of(method, tiny_settings)
    for name, stops in (("unbroken", [0]), ("broken", [3, 0])):
        for stop in stops:
            # a folder of its own, so that each process generates its code itself
            folder = tmp_path / "compiled" / f"{name}-{stop}"
            monkeypatch.setenv("TORCHINDUCTOR_CACHE_DIR", str(folder))
            said = trained(photos, recipe, tmp_path / name, stop=stop)
            assert sum("compiled for" in line for line in said) == 2, said
    unbroken, broken = (tmp_path / name for name in ("unbroken", "broken"))
    rows = rows_of(unbroken)
    assert [row["step"] for row in rows] == list(range(STEPS))
    assert rows_of(broken) == rows
    last = f"checkpoints/step_{STEPS:08d}"
    assert_bitwise(*(load_checkpoint(run / last).model for run in (unbroken, broken)))
    assert_bitwise(*(load_checkpoint(run / last).train_state for run in (unbroken, broken)))
    if backend == "inductor":  # its sums are in another order: it is to be seen
        trained(photos, recipe, tmp_path / "plain", compiled=False)
        assert rows_of(tmp_path / "plain") != rows
