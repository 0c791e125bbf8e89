"""How a number moves over a run: plain formulas, no torch.

Letters: e epoch counted from 0, E all epochs, t = e + i / I the epoch as a fraction.
"""

from __future__ import annotations

import math
from collections.abc import Sequence


def step_decay(base: float, epoch: int, milestones: Sequence[int], factor: float = 0.1) -> float:
    """Return base * factor^(milestones reached), as MoCo v1 sets it once an epoch (section 4)."""
    return base * factor ** sum(epoch >= milestone for milestone in milestones)


def cosine(base: float, epoch: float, epochs: float) -> float:
    """Return the half cosine from `base` at epoch 0 to 0 at `epochs` (MoCo v2)."""
    return base * 0.5 * (1.0 + math.cos(math.pi * epoch / epochs))


def growing_size(first: int, last: int, step: int, epoch: int, growing_epochs: int) -> int:
    """Return a side that rises from `first` by steps to `last`, which it has after growing_epochs.

    Not in the papers: progressive resizing, as in FFCV-SSL (arXiv:2303.01986).
    """
    if epoch >= growing_epochs:
        return last
    return first + step * ((last - first) * epoch // (growing_epochs * step))


def warmup_cosine(base: float, epoch: float, epochs: float, warmup_epochs: float) -> float:
    """Return a linear rise from 0 over `warmup_epochs`, then a half cosine to 0 (MoCo v3)."""
    if epoch < warmup_epochs:
        return base * epoch / warmup_epochs
    return cosine(base, epoch - warmup_epochs, epochs - warmup_epochs)
