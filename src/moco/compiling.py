"""Forward passes that torch compiles, where that works; where not, they stay as they are.

A pass is compiled when a kind of input comes for the first time, gradients included, outside the
step that wants it: what cannot be compiled is found before it could end a run, and what comes out
is compared with the plain pass. Then all processes agree: compiled everywhere, or nowhere.
"""

from __future__ import annotations

import logging
import time
import warnings
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn

from moco.accumulation import random_state, set_random_state
from moco.processes import gather_lists, unhurried

Pass = Callable[[Tensor], Tensor]
"""From a normalized view [N, channels, S, S] to its embedding [N, C]."""
Tell = Callable[[str, float], None]
"""Takes a line for the user, and the seconds that its cause took."""
Kind = tuple[torch.Size, torch.dtype, bool]
BACKEND = "inductor"
MOST_KINDS = 64
"""Inputs of so many kinds are compiled for; views that grow are of a kind at each size."""
MOST_GAP = {True: 0.01, False: 0.5}
"""How far results may lie from the plain ones, relative to their size: in float32, and below it,
where rounding alone makes a few hundredths."""
REASON_LENGTH = 200


class Compiler:
    """Compiles passes until one of them fails; from then on all are taken as they are.

    Args:
        tell: is told of each pass that was compiled, and why none is from then on.
        steady: networks compute in float32, so that compiling changes little.
    """

    def __init__(self, tell: Tell, *, steady: bool) -> None:
        self.tell, self.most_gap = tell, MOST_GAP[steady]
        self.gave_up = False

    def compiled(self, name: str, network: nn.Module, plain: Pass, view: Tensor) -> Pass:
        """Return the pass compiled for such views, in all processes, or in none as it is."""
        if self.gave_up:
            return plain
        began = time.monotonic()
        run, reason = attempt(network, plain, view, self.most_gap)
        with unhurried():
            reasons = gather_lists([reason])
        seconds = time.monotonic() - began
        if not any(reasons):
            self.tell(f"{name} compiled for {view.shape[-1]} pixels in {seconds:.0f} s", seconds)
            return run
        self.gave_up = True
        place = next(place for place, each in enumerate(reasons) if each)
        where = f" in process {place}" if len(reasons) > 1 else ""
        self.tell(f"not compiled{where}, the run goes on without: {reasons[place]}", seconds)
        return plain


class CompiledPass:
    """A network's pass, compiled for each kind of view that comes.

    Args:
        name: of the network, for people.
        plain: the pass as it is.
    """

    def __init__(self, compiler: Compiler, name: str, network: nn.Module, plain: Pass) -> None:
        self.compiler, self.name, self.network, self.plain = compiler, name, network, plain
        self._passes: dict[Kind, Pass] = {}

    def __call__(self, view: Tensor) -> Tensor:
        kind = view.shape, view.dtype, torch.is_grad_enabled()
        if kind not in self._passes:
            self._passes[kind] = self.compiler.compiled(self.name, self.network, self.plain, view)
        return self.plain(view) if self.compiler.gave_up else self._passes[kind](view)


def attempt(network: nn.Module, plain: Pass, view: Tensor, most_gap: float) -> tuple[Pass, str]:
    """Compile a pass and its gradients for such views; nothing of the network moves.

    Args:
        most_gap: how far its results may lie from the plain pass's, relative to their size.

    Returns:
        The pass, and why it is of no use, "" if it is.
    """
    weights = [weight for weight in network.parameters() if weight.requires_grad]
    try:
        with in_silence():
            compiled = compile_pass(plain)
            with unmoved(network, view.device):
                found = results(compiled, view, weights)
        with unmoved(network, view.device):
            wanted = results(plain, view, weights)
    except Exception as error:  # noqa: BLE001  whatever a compiler meets, the run does without
        return plain, in_a_line(error)
    widest = max(gap(one, other) for one, other in zip(found, wanted, strict=True))
    if not widest <= most_gap:
        return plain, f"its results are off by {100 * widest:.2g} %, more than rounding explains"
    return compiled, ""


def compile_pass(plain: Pass) -> Pass:
    """Return what compiles the whole pass, or raises, for each kind of view that it gets."""
    # what a network draws, such as which patches to drop, is drawn as without compiling
    options: dict[str, Any] | None = {"fallback_random": True} if BACKEND == "inductor" else None
    return torch.compile(plain, fullgraph=True, dynamic=False, backend=BACKEND, options=options)


def results(run: Pass, view: Tensor, weights: Sequence[Tensor]) -> list[Tensor]:
    """Return the embedding, and all gradients in one row where there are any."""
    output = run(view)
    if not output.requires_grad:
        return [output]
    # as an embedding's own gradient could be: one that batch norm does not take out
    direction = torch.linspace(-1, 1, output.numel(), device=output.device).view_as(output)
    found = torch.autograd.grad(output, weights, direction.to(output.dtype), allow_unused=True)
    gradients = [gradient.flatten() for gradient in found if gradient is not None]
    return [output.detach(), torch.cat(gradients)]


def gap(found: Tensor, wanted: Tensor) -> float:
    """Return how far they are apart, relative to the size of what is wanted."""
    return float((found - wanted).norm() / wanted.norm().clamp(min=torch.finfo(wanted.dtype).tiny))


@contextmanager
def unmoved(network: nn.Module, device: torch.device) -> Iterator[None]:
    """Leave running statistics, and what is drawn next, as they were before the block."""
    buffers = list(network.buffers())
    kept, drawn_from = [value.clone() for value in buffers], random_state(device)
    try:
        yield
    finally:
        set_random_state(drawn_from, device)
        for value, copy in zip(buffers, kept, strict=True):
            value.copy_(copy)


@contextmanager
def in_silence() -> Iterator[None]:
    """Keep a compiler's warnings and log to itself; what matters of them is told as a reason."""
    before = logging.root.manager.disable
    logging.disable(logging.CRITICAL)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            with torch._dynamo.config.patch(recompile_limit=MOST_KINDS):
                yield
    finally:
        logging.disable(before)


def in_a_line(error: Exception) -> str:
    """Return what went wrong, in one line."""
    words = " ".join(str(error).split())
    return f"{type(error).__name__}: {words}"[:REASON_LENGTH].removesuffix(": ")
