"""How a step runs its encoders, where it was asked to be faster than the plain way.

Only inside a step: monitors, probes and whoever loads a checkpoint get the networks as they are.
No weight has another name, so checkpoints of a run with and without fit each other.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from moco.batch_norm import SyncedBatchNorm
from moco.compiling import CompiledPass, Compiler, Pass, Tell
from moco.contrast import Contrast
from moco.cuda_graphs import CapturedPass, reason_against_capturing
from moco.encoders import Encoder


class FastEncoders:
    """The encoder and the key encoder of a contrast, as its steps are to run them.

    Args:
        compiled: compile them, where that works; `tell` says so, or why not.
        captured: replay them as CUDA graphs instead, where that works; likewise.
        accumulate: how many parts a step takes its batch in.
    """

    def __init__(
        self,
        contrast: Contrast,
        tell: Tell,
        *,
        compiled: bool = False,
        captured: bool = False,
        accumulate: int = 1,
    ) -> None:
        self._passes: dict[Encoder, Pass] = {}
        if compiled:
            self._compile(contrast, tell)
        elif captured:
            self._capture(contrast, tell, accumulate)

    def _compile(self, contrast: Contrast, tell: Tell) -> None:
        if reason := reason_against_compiling(contrast):
            tell(f"not compiled, the run goes on without: {reason}", 0.0)
            return
        named = encoders_of(contrast)
        compiler = Compiler(tell, steady=all(each.precision is None for each in named.values()))
        for name, encoder in named.items():
            self._passes[encoder] = CompiledPass(compiler, name, encoder, encoder.embed)

    def _capture(self, contrast: Contrast, tell: Tell, accumulate: int) -> None:
        if reason := reason_against_capturing(contrast, accumulate):
            tell(f"no CUDA graphs, the run goes on without: {reason}", 0.0)
            return
        for name, encoder in encoders_of(contrast).items():
            steady = encoder.precision is None
            run = CapturedPass(tell, name, encoder, encoder.embed, steady=steady)
            self._passes[encoder] = run

    @contextmanager
    def in_use(self) -> Iterator[None]:
        """Let the encoders run so while the block lasts."""
        for encoder, run in self._passes.items():
            setattr(encoder, "embed", run)  # noqa: B010  a method of its class
        try:
            yield
        finally:
            for encoder in self._passes:
                del encoder.embed


def encoders_of(contrast: Contrast) -> dict[str, Encoder]:
    """Return the encoders with their names for people, the key encoder if there is one."""
    named = {"encoder": contrast.encoder, "key encoder": getattr(contrast, "key_encoder", None)}
    return {name: each for name, each in named.items() if isinstance(each, Encoder)}


def reason_against_compiling(contrast: Contrast) -> str:
    """Return why a contrast's encoders cannot be compiled at all, "" if they may."""
    if any(isinstance(layer, SyncedBatchNorm) for layer in contrast.modules()):
        return "batch norm over all processes waits for them between layers"
    return ""
