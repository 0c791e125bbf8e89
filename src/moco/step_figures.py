"""A step's figures: left on the device until they are read, then a line of metrics.jsonl."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any, NamedTuple

from torch import Tensor

from moco.nonfinite import finite_or_none


class Unread(NamedTuple):
    """A step whose figures are still on the device, so that no step waits for them."""

    step: int
    epoch: int
    learning_rate: float
    key_momentum: float
    figures: Tensor
    """[5]: the loss, the three pretext scores, and 1 if the step was taken, 0 if it was left out.
    """
    image_ids: Tensor
    """[N] of this process's batch, on the CPU."""

    def as_row(self, figures: Sequence[float], images_per_second: float) -> dict[str, Any]:
        """Return the line of metrics.jsonl.

        Args:
            figures: `self.figures`, read; null where they are no finite numbers.
            images_per_second: as the steps that are read together ran.
        """
        loss, positive, negative, top1, _ = figures
        return {
            "step": self.step,
            "epoch": self.epoch,
            "loss": finite_or_none(loss),
            "learning_rate": self.learning_rate,
            "key_momentum": self.key_momentum,
            "positive_similarity": finite_or_none(positive),
            "negative_similarity": finite_or_none(negative),
            "pretext_top1": top1 if math.isfinite(loss) else None,
            "images_per_second": round(images_per_second, 1),
        }
