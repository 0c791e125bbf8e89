"""How a run begins that has a backbone already, as typed data; no torch in here."""

from __future__ import annotations

import math
from dataclasses import dataclass

from moco.specs import require


@dataclass(frozen=True, kw_only=True)
class StartSpec:
    """What keeps a backbone that was trained elsewhere from being undone by a head that was not."""

    held_epochs: float = 0.0
    """Epochs at the beginning in which the backbone stays as it is while the head learns and the
    queue fills; batch norm's running statistics move. Not in the papers; see docs/start_from.md."""
    rise_epochs: float = 0.0
    """Epochs after those over which the learning rate rises linearly to what its schedule says."""

    def __post_init__(self) -> None:
        for name in ("held_epochs", "rise_epochs"):
            epochs = getattr(self, name)
            require(0 <= epochs < float("inf"), f"start.{name} must be from 0, got {epochs:g}")

    def holds_backbone(self, step: int, steps_per_epoch: int) -> bool:
        """Say whether the backbone stays as it is in a step, counted from 0."""
        return step < self.held_epochs * steps_per_epoch

    def rate_share(self, step: int, steps_per_epoch: int) -> float:
        """Return the share of its schedule's learning rate that a step, counted from 0, has."""
        held = math.ceil(self.held_epochs * steps_per_epoch)
        rise = round(self.rise_epochs * steps_per_epoch)
        if step < held or step >= held + rise:
            return 1.0
        return (step - held + 1) / (rise + 1)
