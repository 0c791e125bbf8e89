"""What the signals of our own recorded healthy runs were; torch-free.

`healthy_bands.json` is made by `benchmarks/doctor_table.py --bands` and names its command.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path

from moco.specs import Mechanism

SIGNALS = (
    "alignment",
    "uniformity",
    "feature_deviation",
    "effective_rank",
    "view_difference",
    "gradient_norm",
    "weight_change",
    "key_drift",
    "queue_filled",
    "oldest_key_steps",
    "oldest_key_epochs",
    "same_image_keys",
    "leak_ordered_top1",
    "leak_shuffled_top1",
    "waiting_share",
    "images_per_second",
    "memory_bytes",
)
"""That have one figure, in the order in which people see them."""
RECORDED = Path(__file__).with_name("healthy_bands.json")


@dataclass(frozen=True)
class Band:
    """Between what a signal was in all healthy runs of a kind."""

    low: float
    high: float


def healthy_bands(mechanism: Mechanism) -> dict[str, Band]:
    """Return the recorded bands of runs of a mechanism by signal; none where none were recorded."""
    kinds = json.loads(RECORDED.read_text(encoding="utf-8"))["bands"]
    return {name: Band(*ends) for name, ends in kinds.get(mechanism, {}).items()}
