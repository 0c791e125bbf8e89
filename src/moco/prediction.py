"""What a run takes on a machine, from how fast its parts are alone: arithmetic, no measuring.

A step's images are decoded by loading processes, copied to the device, and computed with there.
With loading processes the parts overlap and the slowest sets the pace, unless they have to share
processors; without them they take turns.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

Part = Literal["decode", "copy", "compute"]

AMPLE = 2.0
"""Loading so many times as fast as training is faster than needed."""
RESIDENT = "--resident if images of one size fit the device"
NEARLY_FULL = 0.9
"""Share of a device's memory above which a slightly larger step may not fit."""


@dataclass(frozen=True)
class Rates:
    """Images per second of all processes of the run together."""

    decode: float
    """Batches made and received, nothing trained."""
    copy: float | None
    """Batches brought to the device; None where they are made where they are trained on."""
    compute: float
    """Steps on one batch that is on the device, with the views that are made there."""
    together: float
    """Measured: the run itself, for some steps."""

    def slowest(self) -> Part:
        """Return which part alone is slowest: the resource that binds."""
        parts: dict[Part, float] = {"decode": self.decode, "compute": self.compute}
        if self.copy is not None:
            parts["copy"] = self.copy
        return min(parts, key=lambda part: parts[part])


@dataclass(frozen=True)
class Machine:
    """What a process of the run has of the machine."""

    is_cpu: bool
    """Whether processors train."""
    cores: int
    workers: int
    threads: int
    """That train, where processors do."""
    precision: str
    resident: bool = False
    """All images lie on the device, which cuts their views itself."""

    def shares_cores(self) -> bool:
        """Say whether loading processes and training want more processors than there are."""
        return self.is_cpu and self.workers > 0 and self.workers + self.threads > self.cores


def expected_rate(rates: Rates, machine: Machine) -> float:
    """Return the images per second that the parts allow together."""
    decode, compute = 1 / rates.decode, 1 / rates.compute
    copy = 0.0 if rates.copy is None else 1 / rates.copy
    if machine.workers == 0:  # a GPU goes on while the next batch is made, a CPU does not
        both = decode + copy
        takes_turns = machine.is_cpu or machine.resident
        return 1 / (both + compute if takes_turns else max(both, compute))
    seconds = max(decode, copy, compute)
    if machine.shares_cores():
        busy = min(machine.workers, machine.cores) * decode + machine.threads * compute
        seconds = max(seconds, busy / machine.cores)
    return 1 / seconds


def remedy(rates: Rates, machine: Machine) -> str:
    """Return what would make the run faster, in a line."""
    match rates.slowest():
        case "decode":
            return _faster_loading(machine)
        case "copy":
            return f"{RESIDENT}, or a smaller views.image_size: there is less to copy"
        case "compute":
            return _faster_steps(rates, machine)


def _faster_loading(machine: Machine) -> str:
    most = max(1, machine.cores - 1)
    if machine.resident:
        return f"a smaller views.image_size, or --workers {most} instead of --resident"
    if machine.workers == 0:
        return f"load images beside training: --workers {most}"
    if machine.workers < most:
        return f"more loading processes: --workers {most}"
    packed = "smaller files: `moco data pack IMAGES PACKED --side 256`"
    return f"{packed}, or more processors" if machine.is_cpu else f"{packed}, or {RESIDENT}"


def _faster_steps(rates: Rates, machine: Machine) -> str:
    if machine.shares_cores() and rates.decode > AMPLE * rates.compute:
        fewer = machine.workers - 1
        return f"loading has processors to spare: --workers {fewer}, or a smaller encoder or views"
    if machine.is_cpu:
        return "a GPU, a smaller encoder.width or a smaller views.image_size"
    if machine.precision == "float32":
        return "--precision bfloat16, a smaller encoder or a smaller views.image_size"
    return "a smaller encoder or views.image_size, or more GPUs by torchrun"
