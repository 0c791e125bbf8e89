"""The real loop, `train`, in 1, 2 and 4 processes on the same batches, in float64."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.optim import Optimizer

import moco.pretraining as pretraining
from moco.data.order import Order
from moco.distributed import rank, world_size
from moco.errors import InterruptedRunError
from moco.plan import Plan, make_plan
from moco.pretraining import train
from moco.processes import averaging_gradients
from moco.run_records import read_lines

GROUPED = ["batch_norm_groups=4"]
METHODS = {
    "v1": ("moco-v1", [*GROUPED]),
    "v2": ("moco-v2", [*GROUPED, "symmetric=true"]),
    "filled first": ("moco-v1", [*GROUPED, "fill_first=true"]),
    "v3": ("moco-v3-resnet50", ["batch_norm_groups=1", "warmup_epochs=1", "head_width=24"]),
    "end-to-end": ("moco-v1", [*GROUPED, "mechanism=end_to_end"]),
    "memory bank": ("moco-v2", [*GROUPED, "mechanism=memory_bank"]),
}
STEPS = 8
COUNT = 64
"""Photos: each of two processes takes COUNT / STEPS of them a step, in two epochs."""
SEED = 3


def plan_of(name: str, photos: Path, run: Path, tiny: list[str], **options: Any) -> Plan:
    recipe, settings = METHODS[name]
    return make_plan(
        photos,
        recipe=recipe,
        settings=[*tiny, *settings],
        epochs=2,
        run=run,
        device="cpu",
        seed=SEED,
        workers=0,
        precision="float32",
        signals_every=3,  # they take part, and change nothing
        **options,
    )


class Watched:
    """What the loop does in this process: its contrast, and the gradients of each step."""

    def __init__(self, patch: pytest.MonkeyPatch) -> None:
        self.gradients: list[dict[str, Tensor]] = []
        self.contrast: Any = None
        build, set_rate = pretraining.build_plan, pretraining.set_learning_rate

        def built(plan: Plan) -> nn.Module:
            self.contrast = build(plan)
            return self.contrast

        def before_each_step(optimizer: Optimizer, learning_rate: float) -> None:
            self.note_gradients()
            set_rate(optimizer, learning_rate)

        patch.setattr(pretraining, "build_plan", built)
        patch.setattr(pretraining, "set_learning_rate", before_each_step)

    def note_gradients(self) -> None:
        """Keep the gradients of the step before."""
        weights = {n: w for n, w in self.contrast.named_parameters() if w.requires_grad}
        if next(iter(weights.values())).grad is not None:
            self.gradients.append({n: w.grad.clone() for n, w in weights.items()})


def run_method(
    name: str, photos: Path, folder: Path, tiny: list[str], stop: Any = lambda: None
) -> dict[str, Any]:
    """Return what a run leaves in this process, and the metrics that the first wrote."""
    torch.set_default_dtype(torch.float64)
    run = folder / f"{name}-{world_size()}"
    try:
        with pytest.MonkeyPatch.context() as patch:
            watched = Watched(patch)
            train(plan_of(name, photos, run, tiny), stop=stop)
            watched.note_gradients()
    finally:
        torch.set_default_dtype(torch.float32)
    rows = read_lines(run / "metrics.jsonl") if rank() == 0 else []
    figures = ("loss", "positive_similarity", "negative_similarity", "pretext_top1")
    return {
        "metrics": torch.tensor([[row[figure] for figure in figures] for row in rows]),
        "gradients": watched.gradients,
        "state": dict(watched.contrast.state_dict()),
        "random": torch.get_rng_state(),
    }


def run_methods(photos: Path, folder: Path, tiny: list[str]) -> dict[str, Any]:
    return {name: run_method(name, photos, folder, tiny) for name in METHODS}


@pytest.mark.slow  # its like in the fast suite: test_mechanisms_over_processes.py
@pytest.mark.timeout(200)
def test_one_two_and_four_processes_learn_the_same(
    run_processes: Callable[..., list[Any]],
    photos: Path,
    tmp_path: Path,
    tiny_settings: list[str],
) -> None:
    single = run_methods(photos, tmp_path, tiny_settings)
    for processes in (2, 4):
        several = run_processes(processes, run_methods, photos, tmp_path, tiny_settings)
        for name in METHODS:
            first, alone = several[0][name], single[name]
            assert len(alone["gradients"]) == len(alone["metrics"]) == STEPS
            for kind in ("metrics", "gradients", "state"):
                torch.testing.assert_close(
                    first[kind],
                    alone[kind],
                    rtol=0,
                    atol=1e-6,
                    msg=lambda text, at=(processes, name, kind): f"{at}: {text}",
                )
            for other in several[1:]:  # to the bit: weights, queue, bank, statistics
                torch.testing.assert_close(other[name]["state"], first["state"], rtol=0, atol=0)


class StopIn:
    """Asks for a stop after so many steps, in one process alone."""

    def __init__(self, process: int, steps: int) -> None:
        self.process, self.left = process, steps

    def __call__(self) -> int | None:
        self.left -= 1
        return 75 if rank() == self.process and self.left == 0 else None


def stop_and_go_on(photos: Path, folder: Path, tiny: list[str]) -> dict[str, Any]:
    unbroken = run_method("v2", photos, folder / "unbroken", tiny)
    with pytest.raises(InterruptedRunError, match="after step 3 of 8"):
        run_method("v2", photos, folder / "broken", tiny, StopIn(process=1, steps=3))
    dist.barrier()
    status = json.loads((folder / "broken" / "v2-2" / "status.json").read_text())
    broken = run_method("v2", photos, folder / "broken", tiny)
    return {"unbroken": unbroken, "broken": broken, "status": status}


def test_a_stop_asked_of_one_process_stops_all_and_the_run_goes_on_to_the_bit(
    run_processes: Callable[..., list[Any]],
    photos: Path,
    tmp_path: Path,
    tiny_settings: list[str],
) -> None:
    results = run_processes(2, stop_and_go_on, photos, tmp_path, tiny_settings)
    for result in results:
        assert result["status"]["state"] == "interrupted"
        assert (result["status"]["code"], result["status"]["step"]) == (75, 3)
        for kind in ("metrics", "state", "random"):
            torch.testing.assert_close(
                result["broken"][kind], result["unbroken"][kind], rtol=0, atol=0
            )
    states = [result["broken"]["random"] for result in results]
    assert not torch.equal(*states)  # what is drawn in training is each process's own


def unreadable_images(photos: Path, folder: Path, tiny: list[str]) -> list[dict[str, Any]]:
    plan = plan_of("v1", photos, folder / "run", tiny, bad_limit=0.5)
    train(plan)
    dist.barrier()
    return read_lines(folder / "run" / "skipped.jsonl")


@pytest.mark.parametrize("whose", ["both", "the second's alone"])
def test_what_any_process_cannot_read_is_on_record_once(
    whose: str,
    run_processes: Callable[..., list[Any]],
    tmp_path: Path,
    photos: Path,
    tiny_settings: list[str],
) -> None:
    folder = tmp_path / "photos"
    folder.mkdir()
    chosen = set(range(3, COUNT, 8)) if whose == "both" else always_of_the_second()
    for place, path in enumerate(sorted(photos.rglob("*.png"))):
        content = b"no image" if place in chosen else path.read_bytes()
        (folder / f"{place:02}.png").write_bytes(content)
    results = run_processes(2, unreadable_images, folder, tmp_path, tiny_settings)
    assert sorted(row["file"] for row in results[0]) == sorted(f"{p:02}.png" for p in chosen)
    assert len(chosen) == 8


def always_of_the_second() -> set[int]:
    """Return eight images that process 1 of two gets in both epochs."""
    order, shares = Order(np.array([COUNT]), seed=SEED), []
    for epoch in range(2):
        places = np.arange(COUNT).reshape(-1, 2, COUNT // STEPS)[:, 1].ravel()
        shares.append(set(order.images_at(epoch, places).tolist()))
    return set(sorted(shares[0] & shares[1])[:8])


class Marked(nn.Module):
    """A layer whose buffer says whose it is."""

    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.Linear(2, 1)
        self.register_buffer("mark", torch.zeros(()))

    def forward(self, rows: Tensor) -> Tensor:
        return self.layer(rows)


def forward_with_own_buffers() -> list[Tensor]:
    torch.manual_seed(0)
    module = Marked()
    replica = averaging_gradients(module)
    marks = []
    for step in range(2):
        module.mark.fill_(10 * step + rank())
        replica(torch.full((1, 2), float(rank()))).sum().backward()
        marks.append(module.mark.clone())
    return [*marks, module.layer.weight.grad.clone()]


def test_gradients_are_averaged_and_no_buffer_travels(
    run_processes: Callable[..., list[Any]],
) -> None:
    for process, (*marks, gradient) in enumerate(run_processes(2, forward_with_own_buffers)):
        assert [int(mark) for mark in marks] == [process, 10 + process]
        torch.testing.assert_close(gradient, torch.full((1, 2), 1.0))  # 2 steps, mean of 0 and 1


def shares(photos: Path, tiny: list[str]) -> Iterator[Tensor]:
    plan = plan_of("v1", photos, photos / "never", tiny)
    for batch in pretraining.load_plan(plan, start=0, stop=plan.steps):
        yield batch.image_ids


def list_shares(photos: Path, tiny: list[str]) -> list[Tensor]:
    return list(shares(photos, tiny))


def test_shares_make_up_the_batches_of_one_process_and_no_image_repeats(
    run_processes: Callable[..., list[Any]], photos: Path, tiny_settings: list[str]
) -> None:
    alone = list_shares(photos, tiny_settings)
    several = run_processes(4, list_shares, photos, tiny_settings)
    together = [torch.cat(parts) for parts in zip(*several, strict=True)]
    torch.testing.assert_close(together, alone, rtol=0, atol=0)
    for epoch in (alone[:4], alone[4:]):
        assert sorted(torch.cat(epoch).tolist()) == list(range(64))
