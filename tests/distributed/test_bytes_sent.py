"""What the key shuffle costs: bytes that a process receives from others in a step."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
import torch.distributed as dist
from torch import Tensor, nn

import moco.contrast
from moco.build import build_contrast
from moco.contrast import Contrast
from moco.data.views import normalize
from moco.distributed import gather_rows, rank, shuffled_order, world_size
from moco.recipe_files import set_fields
from moco.recipes import MOCO_V1

IMAGES, SIZE, DIM = 32, 224, 128
"""Images of each process, their side, the embedding."""


class Counter:
    """Counts the bytes that collectives bring from other processes."""

    def __init__(self, patch: pytest.MonkeyPatch) -> None:
        self.received = 0
        exchange, gather = dist.all_to_all_single, dist.all_gather

        def counted_exchange(output: Tensor, given: Tensor, out: list[int], to: list[int]) -> None:
            from_others = sum(out) - out[rank()]
            self.received += from_others * output[0].numel() * output.element_size()
            exchange(output, given, out, to)

        def counted_gather(outputs: list[Tensor], given: Tensor) -> None:
            others = outputs[: rank()] + outputs[rank() + 1 :]
            self.received += sum(output.nbytes for output in others)
            gather(outputs, given)

        patch.setattr(dist, "all_to_all_single", counted_exchange)
        patch.setattr(dist, "all_gather", counted_gather)


class Flat(nn.Module):
    """An encoder that keeps what it saw, and is quick."""

    def forward(self, view: Tensor) -> Tensor:
        return view.flatten(1)[:, :DIM].float() + 1


def shuffle_bytes(steps: int) -> list[int]:
    """Return what a step's shuffle of uint8 keys costs, and what all-gathering floats would."""
    contrast = Contrast(Flat(), moco.contrast.Dictionary, temperature=1.0)
    view = torch.randint(256, (IMAGES, 3, SIZE, SIZE), dtype=torch.uint8)
    with pytest.MonkeyPatch.context() as patch:
        counter = Counter(patch)
        for step in range(steps):
            contrast.encode_shuffled(contrast.key_encoder, view, (0, step, 0))
        ours, counter.received = counter.received // steps, 0
        gather_rows(normalize(view, MOCO_V1.views))
    return [ours, counter.received]


def by_arithmetic(processes: int, rows_from_others: float) -> list[float]:
    """Return the same from the sizes alone."""
    image, key = 3 * SIZE * SIZE, DIM * 4
    return [rows_from_others * (image + key), (processes - 1) * IMAGES * image * 4]


def test_the_shuffle_receives_a_twentieth_of_all_gathered_floats_or_less(
    run_processes: Callable[..., list[Any]],
) -> None:
    steps, processes = 8, 4
    results = run_processes(processes, shuffle_bytes, steps)
    for process, (ours, gathered) in enumerate(results):
        from_others = 0
        for step in range(steps):
            order = shuffled_order(processes * IMAGES, (0, step, 0)).view(processes, IMAGES)
            from_others += int((order[process] // IMAGES != process).sum())
        expected = by_arithmetic(processes, from_others / steps)
        assert [ours, gathered] == [int(expected[0]), int(expected[1])]
    ours, gathered = (sum(column) / processes for column in zip(*results, strict=True))
    assert gathered / ours == pytest.approx(16, abs=1)  # a quarter of the rows stays, about

    ours, gathered = by_arithmetic(8, IMAGES * 7 / 8)
    assert 31 < gathered / ours < 32


def dealt_types() -> list[str]:
    recipe = set_fields(
        MOCO_V1,
        [
            "backbone=resnet18",
            "width=0.125",
            "image_size=16",
            "evaluation_resize=16",
            "evaluation_size=16",
            f"batch_norm_groups={world_size()}",
        ],
    )
    contrast = build_contrast(recipe, images=64, seed=0).train()
    views = torch.randint(256, (2, 4, 3, 16, 16), dtype=torch.uint8)
    seen: list[str] = []
    plain = moco.contrast.deal_rows

    def watched(rows: Tensor, order: Tensor) -> Tensor:
        seen.append(f"{rows.dtype} {list(rows.shape)}")
        return plain(rows, order)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(moco.contrast, "deal_rows", watched)
        contrast(*views, torch.arange(4) + 4 * rank(), 0)
    return seen


def test_what_recipes_deal_is_bytes_out_and_keys_back(
    run_processes: Callable[..., list[Any]],
) -> None:
    for seen in run_processes(2, dealt_types):
        assert seen == ["torch.uint8 [4, 3, 16, 16]", "torch.float32 [4, 128]"]
