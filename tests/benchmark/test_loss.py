"""Losses are only timed beside each other where they are equal; their memory is a peak."""

from __future__ import annotations

import mmap
import sys
from collections.abc import Callable
from dataclasses import replace

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor
from torch.utils.flop_counter import FlopCounterMode

from moco.benchmark.loss import comparing
from moco.benchmark.loss.comparing import check_equal_losses, compare_losses
from moco.benchmark.loss.memory import extra_bytes, peak_bytes
from moco.benchmark.loss.rows import BUILDERS, LossShape, loss_row, made_inputs
from moco.errors import UsageError

CPU = torch.device("cpu")
SHAPE = LossShape(6, 37, 8, 0.2)


def test_every_row_has_the_formulas_loss_and_gradient() -> None:
    inputs = made_inputs(SHAPE, CPU)
    embeddings = inputs.embeddings.detach().double().requires_grad_()
    queries = F.normalize(embeddings, dim=1)
    keys, queue = inputs.keys.double(), inputs.queue.double()
    own = ((queries * keys).sum(dim=1) / SHAPE.temperature).exp()
    others = (queries @ queue.T / SHAPE.temperature).exp().sum(dim=1)
    wanted = -(own / (own + others)).log().mean()
    wanted.backward()  # type: ignore[no-untyped-call]
    assert embeddings.grad is not None
    for name in BUILDERS:
        row = loss_row(name, inputs)
        assert row.run().item() == pytest.approx(wanted.item(), rel=1e-5)
        assert torch.allclose(row.gradient().double(), embeddings.grad, atol=1e-6), name


def wrong(change: Callable[[Tensor], Tensor]) -> None:
    rows = [loss_row(name, made_inputs(SHAPE, CPU)) for name in ("ours", "official")]
    ours = rows[0].loss
    check_equal_losses(rows)
    check_equal_losses([replace(rows[0], loss=lambda: change(ours())), rows[1]])


def test_another_loss_or_gradient_is_refused() -> None:
    wrong(lambda loss: loss)
    with pytest.raises(ValueError, match="another loss"):
        wrong(lambda loss: loss * 1.001)
    with pytest.raises(ValueError, match="another gradient"):
        wrong(lambda loss: 0.99 * loss + 0.01 * loss.detach())
    with pytest.raises(ValueError, match="another loss"):
        wrong(lambda loss: loss * float("nan"))


def test_nothing_is_timed_where_losses_differ(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(comparing, "LOSS_CLOSE", -1.0)
    monkeypatch.setattr(comparing, "rates_in_turn", lambda *_, **__: pytest.fail("timed"))
    with pytest.raises(ValueError, match="another loss"):
        compare_losses(SHAPE, rounds=1, seconds=1e-6, device=CPU)


@pytest.mark.parametrize(
    ("shape", "told"),
    [
        (LossShape(0, 4, 4, 0.1), "--batch must be from 1, got 0"),
        (LossShape(4, 0, 4, 0.1), "--queue must be from 1, got 0"),
        (LossShape(4, 4, -1, 0.1), "--dim must be from 1, got -1"),
        (LossShape(4, 4, 4, 0.0), "--temperature must be from 0.0001, got 0"),
        (LossShape(4, 4, 4, float("nan")), "--temperature"),
    ],
)
def test_senseless_numbers_are_refused(shape: LossShape, told: str) -> None:
    with pytest.raises(UsageError, match=told):
        compare_losses(shape, rounds=1, seconds=1, device=CPU)


@pytest.mark.skipif(sys.platform != "linux", reason="reads what Linux tells")
def test_memory_is_the_peak_over_what_there_was() -> None:
    touched(40)  # given back before: no part of it
    before = peak_bytes(anew=True)
    touched(12)
    touched(5)
    assert 11 << 20 < peak_bytes() - before < 14 << 20  # the system counts pages in lots


def touched(mebibytes: int) -> None:
    with mmap.mmap(-1, mebibytes << 20) as memory:
        for page in range(0, len(memory), mmap.PAGESIZE):
            memory[page] = 1


@pytest.mark.skipif(sys.platform != "linux", reason="reads what Linux tells")
def test_memory_that_was_freed_counts_when_it_is_used_again() -> None:
    held = [bytearray(b"x" * 60_000) for _ in range(400)]  # too small to be given back at once
    del held
    before = peak_bytes(anew=True)
    again = [bytearray(b"x" * 60_000) for _ in range(400)]
    assert peak_bytes() - before > 20e6
    del again


@pytest.mark.slow
def test_the_official_loss_needs_several_matrices_of_all_logits_and_ours_none() -> None:
    shape = LossShape(256, 65_536, 16, 0.2)  # a matrix of logits is 67 MB
    inputs = made_inputs(SHAPE, CPU)
    official, ours = (
        extra_bytes(loss_row(name, inputs), shape) / 67e6 for name in ("official", "ours")
    )
    assert 2.5 < official < 3.5  # logits and their gradient, and what cross entropy keeps
    assert ours < official / 10


def test_counters_see_our_products() -> None:
    """Equal work is asserted by operations; those of an in-place product are not counted."""
    counted = {}
    for name in ("official", "ours"):
        row = loss_row(name, made_inputs(LossShape(32, 4096, 16, 0.2), CPU))
        with FlopCounterMode(display=False) as counter:
            row.run()
        counted[name] = counter.get_total_flops()
    assert counted["ours"] == pytest.approx(counted["official"], rel=0.01)
