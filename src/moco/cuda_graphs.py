"""Forward passes that a GPU replays as CUDA graphs, where that works; where not, as they are.

A small network's step waits for the processor to launch kernels one by one; a graph is launched at
once. It reads and writes the memory it was captured with, so one holds a single pass at a time, of
one size. A pass is captured at the first step, before anything moved, and compared with the plain
one, then on other images and with other weights, whose traces a graph must follow.
"""

from __future__ import annotations

import inspect
import time
import warnings
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import cast

import torch
from torch import Tensor, nn

from moco.accumulation import random_state
from moco.compiling import Kind, Pass, Tell, gap, in_a_line, results, unmoved
from moco.contrast import Contrast
from moco.distributed import world_size
from moco.errors import UsageError

MOST_GAP = {True: 0.01, False: 0.1}
"""How far results may lie from the plain ones, relative to their size: the kernels are the same,
but a library may pick others in other memory. In float32, and below it."""
BESIDE_THREADS = "thread_local"
"""A capture minds its own thread alone: loading threads go on pinning memory meanwhile."""

Capture = Callable[[nn.Module, Pass, Tensor], Pass]
"""Makes a network's pass, for such views, one that is replayed."""


class CapturedPass:
    """A network's pass, captured for the kind of view that comes first; others run as they are.

    Args:
        name: of the network, for people.
        plain: the pass as it is.
        steady: the network computes in float32.
    """

    def __init__(
        self, tell: Tell, name: str, network: nn.Module, plain: Pass, *, steady: bool
    ) -> None:
        self.tell, self.name, self.network, self.plain = tell, name, network, plain
        self.most_gap = MOST_GAP[steady]
        self._kind: Kind | None = None
        self._run: Pass = plain

    def __call__(self, view: Tensor) -> Tensor:
        kind = view.shape, view.dtype, torch.is_grad_enabled()
        if self._kind is None:
            self._kind = kind
            self._capture(view)
        return self._run(view) if kind == self._kind else self.plain(view)

    def _capture(self, view: Tensor) -> None:
        began = time.monotonic()
        run, reason = attempt(capture, self.network, self.plain, view, self.most_gap)
        seconds = time.monotonic() - began
        if reason:
            self.tell(f"{self.name} not captured, it runs without a graph: {reason}", seconds)
            return
        self._run = run
        self.tell(f"{self.name} captured as a CUDA graph in {seconds:.0f} s", seconds)


def reason_against_capturing(contrast: Contrast, accumulate: int) -> str:
    """Return why a contrast's encoders cannot be captured at all, "" if they may be tried."""
    device = next(contrast.parameters()).device
    known = inspect.signature(torch.cuda.make_graphed_callables).parameters
    reasons = {
        f"the device is {device.type}, no CUDA GPU": device.type != "cuda",
        "several processes average gradients while a backward pass goes on": world_size() > 1,
        "a batch is taken in parts, and a graph holds one at a time": accumulate > 1,
        "both views are queries, and a graph holds one at a time": contrast.symmetric,
        "queries and keys are of one encoder, and a graph holds one of them at a time": (
            contrast.keys_from == "query_encoder"
        ),
        f"torch {torch.__version__} captures no pass beside loading threads; 2.14 does": (
            "capture_error_mode" not in known
        ),
    }
    return next((words for words, holds in reasons.items() if holds), "")


def attempt(
    make: Capture, network: nn.Module, plain: Pass, view: Tensor, most_gap: float
) -> tuple[Pass, str]:
    """Capture a pass and its gradients for such views; nothing of the network moves.

    Args:
        most_gap: how far its results may lie from the plain pass's, relative to their size.

    Returns:
        The pass, and why it is of no use, "" if it is.

    Raises:
        UsageError: The GPU is of no use after a capture that failed.
    """
    reason = ""
    try:
        with unmoved(network, view.device), weights_kept(network):
            try:
                reason = reason_of_its_own(network, plain, view)
                run = plain if reason else make(network, plain, view)
                reason = reason or difference(run, network, plain, view, most_gap)
            except Exception as error:  # noqa: BLE001  whatever it is, the run does without
                reason = in_a_line(error)
            torch.rand(1, device=view.device).item()  # raises where the GPU is lost
    except Exception as error:
        raise UsageError(
            f"the GPU is of no use after a CUDA graph failed ({reason or in_a_line(error)}); "
            "leave out --cuda-graphs: the run goes on where it was"
        ) from error
    return (plain if reason else run), reason


def reason_of_its_own(network: nn.Module, plain: Pass, view: Tensor) -> str:
    """Return what in the pass cannot be replayed, "" where nothing is known of."""
    before = random_state(view.device)
    results(plain, view, trained_weights(network))
    after = random_state(view.device)
    states = zip(before, after, strict=True)
    if any(one is not None and other is not None and not one.equal(other) for one, other in states):
        return "the network draws random numbers"
    return ""


def difference(run: Pass, network: nn.Module, plain: Pass, view: Tensor, most_gap: float) -> str:
    """Return how the results of a captured pass differ from the plain one's, "" if they do not."""
    for other in (False, True):
        images = torch.empty_like(view).copy_(view.flip(0)) if other else view
        if other:
            change_weights(network)
        found, wanted = (moved_by(each, network, images) for each in (run, plain))
        widest = max(gap(one, its) for one, its in zip(found, wanted, strict=True))
        if not widest <= most_gap:
            where = " once images and weights are others" if other else ""
            return f"its results are off by {100 * widest:.2g} %{where}"
    return ""


def moved_by(run: Pass, network: nn.Module, view: Tensor) -> list[Tensor]:
    """Return a pass's results, and the statistics that it moves, which are put back."""
    with unmoved(network, view.device):
        found = results(run, view, trained_weights(network))
        moved = [value.flatten() for value in network.buffers() if value.is_floating_point()]
        return [*found, torch.cat(moved)] if moved else found


def trained_weights(network: nn.Module) -> Sequence[nn.Parameter]:
    """Return the weights that get gradients."""
    return [weight for weight in network.parameters() if weight.requires_grad]


@torch.no_grad()
def change_weights(network: nn.Module) -> None:
    """Give each weight another direction, where it lies."""
    for weight in network.parameters():
        weight.mul_(torch.linspace(0.5, 1.5, weight.numel(), device=weight.device).view_as(weight))


@contextmanager
def weights_kept(network: nn.Module) -> Iterator[None]:
    """Leave weights as they were before the block."""
    weights = list(network.parameters())
    kept = [weight.detach().clone() for weight in weights]
    try:
        yield
    finally:
        with torch.no_grad():
            for weight, copy in zip(weights, kept, strict=True):
                weight.copy_(copy)


class EmbeddingPass(nn.Module):
    """A pass as a module that has the network's weights, as capturing wants it."""

    def __init__(self, network: nn.Module, plain: Pass) -> None:
        super().__init__()
        self.network, self.plain = network, plain

    def forward(self, view: Tensor) -> Tensor:
        return self.plain(view)


def capture(network: nn.Module, plain: Pass, view: Tensor) -> Pass:
    """Return the pass as CUDA graphs, forward and, where gradients are taken, backward."""
    with refusing_to_wait(view.device):  # what does is found before it can spoil a capture
        results(plain, view, trained_weights(network))
    # so that gradients are added up where the step does, not where the capture did
    held = [weight.expand_as(weight) for weight in trained_weights(network)]
    module = EmbeddingPass(network, plain)
    graphed = cast(
        Pass,
        torch.cuda.make_graphed_callables(
            module, (view.detach().clone(),), capture_error_mode=BESIDE_THREADS
        ),
    )
    del held
    return lambda given: graphed(given).clone()  # its own memory is the next pass's


@contextmanager
def refusing_to_wait(device: torch.device) -> Iterator[None]:
    """Let what waits for the GPU raise, as long as the block lasts."""
    if device.type != "cuda":
        yield
        return
    before = torch.cuda.get_sync_debug_mode()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # torch says that it does not find everything
        torch.cuda.set_sync_debug_mode("error")
        try:
            yield
        finally:
            torch.cuda.set_sync_debug_mode(before)
