"""Signals of how a run goes, read of a few fixed images now and then: lines of signals.jsonl.

Letters: P images of the probe, C embedding size. docs/signals.md says how each is read.
"""

from __future__ import annotations

import math
import time
from typing import Any

import torch
from torch import Tensor

from moco.contrast import Contrast
from moco.dictionaries import Queue
from moco.distributed import world_size
from moco.evaluation.label_free import alignment, effective_rank, feature_deviation, uniformity
from moco.info_nce import NO_IMAGE
from moco.memory import device_peak, process_peak
from moco.nonfinite import KeptBuffers, finite_or_none
from moco.plan import Plan
from moco.probe import FEWEST_IN_BATCH, Encoded, Probe, found_first
from moco.recipe import Recipe
from moco.signal_figures import (
    keys_of,
    leak_similarity,
    mean_cosine,
    relative_distance,
    sampled_weights,
)
from moco.waiting import Waiting

EXTRA_AGE = 10
"""Keys are also kept so many steps before a reading, for a young age in the consistency."""
OLDEST_AGE = 500
"""Steps that keys are kept for where no queue says for how long."""
MOST_KEPT = 40
"""Of the probe's earlier keys."""


class SignalReader:
    """Reads the signals of a run every so many steps; all processes of a run call it alike.

    Args:
        plan: how often to read, and the sizes of its batches.
        buffers: what forward passes of the contrast move; put back after each reading.
    """

    def __init__(self, plan: Plan, contrast: Contrast, buffers: KeptBuffers) -> None:
        self.plan, self.contrast, self.buffers = plan, contrast, buffers
        self.every = plan.signals_every
        self.keys_a_step = plan.recipe.batch_size * (2 if contrast.symmetric else 1)
        self.waited = Waiting(plan.device)
        self._probe: Probe | None = None
        self._keys: list[tuple[int, Tensor]] = []
        self._weights: list[Tensor] = []
        self._read_at, self._read_step = time.monotonic(), -1

    def after_step(
        self, step: int, view_a: Tensor, view_b: Tensor, image_ids: Tensor
    ) -> dict[str, Any] | None:
        """Return the signals where it is time to read them, None elsewhere.

        Args:
            step: the one just taken, from 0.
            view_a: [N, channels, S, S] of its batch; the first batch seen gives the probe's images.
            image_ids: [N].
        """
        if not self.every or len(image_ids) < FEWEST_IN_BATCH:
            return None
        if self._probe is None or self._probe.size_of_views != view_a.shape[-1]:
            group_images = images_in_group(self.plan.recipe)
            self._probe = Probe(view_a, view_b, image_ids, group_images=group_images)
            self._keys = []
        row = self._read(step, self._probe, image_ids) if self.is_due(step) else None
        if self.is_due(step + 1):
            self._weights = sampled_weights(self.contrast.encoder)
        if self.is_due(step + EXTRA_AGE) and self._has_key_encoder():
            self._keep(step, self._probe.encode_keys(self.contrast, self.buffers).cpu())
        return row

    def is_due(self, step: int) -> bool:
        """Say whether signals are read after this step: half way through every `every` steps."""
        return (step + 1 + self.every // 2) % self.every == 0

    def _has_key_encoder(self) -> bool:
        return self.contrast.keys_from == "momentum_encoder"

    def _read(self, step: int, probe: Probe, image_ids: Tensor) -> dict[str, Any]:
        encoded = probe.encode(self.contrast, self.buffers)
        row = {
            "step": step,
            "epoch": step // self.plan.steps_per_epoch,
            "probe_images": len(probe.image_ids),
            **self._of_embeddings(encoded),
            "view_difference": probe.view_difference,
            **self._of_weights(),
            **self._of_dictionary(step, image_ids),
            **self._of_batch_norm(probe, encoded),
            "consistency": self._consistency(step, encoded.keys.cpu()),
            **self._of_the_machine(step),
        }
        return {name: _json_value(value) for name, value in row.items()}

    def _of_embeddings(self, encoded: Encoded) -> dict[str, float]:
        embeddings, keys = encoded.embeddings.cpu(), encoded.keys.cpu()
        if not (embeddings.isfinite().all() and keys.isfinite().all()):
            return dict.fromkeys(
                ("alignment", "uniformity", "feature_deviation", "effective_rank"), math.nan
            )
        return {
            "alignment": alignment(embeddings, keys),
            "uniformity": uniformity(embeddings),
            "feature_deviation": feature_deviation(embeddings),
            "effective_rank": effective_rank(embeddings),
            "effective_rank_most": min(embeddings.shape),
        }

    def _of_weights(self) -> dict[str, float | None]:
        encoder = self.contrast.encoder
        gradients = [weight.grad for weight in encoder.parameters() if weight.grad is not None]
        drift = None
        if self._has_key_encoder():
            drift = relative_distance(encoder.parameters(), self.contrast.key_encoder.parameters())
        change = None
        if self._weights:
            change = relative_distance(self._weights, sampled_weights(encoder))
            self._weights = []
        return {
            "gradient_norm": float(torch.stack(torch._foreach_norm(gradients)).norm())
            if gradients
            else None,
            "weight_change": change,
            "key_drift": drift,
        }

    def _of_dictionary(self, step: int, image_ids: Tensor) -> dict[str, float | None]:
        dictionary = self.contrast.dictionary
        if not isinstance(dictionary, Queue):
            return dict.fromkeys(
                ("oldest_key_steps", "oldest_key_epochs", "queue_filled", "same_image_keys")
            )
        real = dictionary.image_ids[dictionary.image_ids > NO_IMAGE]
        size = len(dictionary.image_ids)
        age = min(step + 1, math.ceil(size / self.keys_a_step))
        own = min(1 + self.contrast.symmetric, size / max(1, len(image_ids)))
        return {
            "oldest_key_steps": age,
            "oldest_key_epochs": age / self.plan.steps_per_epoch,
            "queue_filled": len(real) / size,
            "same_image_keys": max(0.0, keys_of(image_ids, real) - own),
        }

    def _of_batch_norm(self, probe: Probe, encoded: Encoded) -> dict[str, float | None]:
        if encoded.shuffled_keys is None:
            return dict.fromkeys(("leak_ordered_top1", "leak_shuffled_top1", "leak_similarity"))
        queries, dictionary = encoded.queries, self.contrast.dictionary
        ordered, shuffled = (
            found_first(queries, keys, probe.image_ids, dictionary)
            for keys in (encoded.keys, encoded.shuffled_keys)
        )
        return {
            "leak_ordered_top1": ordered,
            "leak_shuffled_top1": shuffled,
            "leak_similarity": leak_similarity(queries, encoded.keys, probe.same_group()),
        }

    def _consistency(self, step: int, keys: Tensor) -> list[list[float]]:
        """Return [age, cosine] of the probe's earlier keys against those of now; keep them too."""
        if not self._has_key_encoder():
            return []
        found = [
            [step - earlier, _json_value(mean_cosine(before, keys))]
            for earlier, before in reversed(self._keys)
        ]
        self._keep(step, keys)
        return found

    def _keep(self, step: int, keys: Tensor) -> None:
        oldest = OLDEST_AGE
        if isinstance(self.contrast.dictionary, Queue):
            size = len(self.contrast.dictionary.image_ids)
            oldest = max(2 * self.every, math.ceil(size / self.keys_a_step))
        self._keys = [(at, kept) for at, kept in self._keys if step - at <= oldest]
        self._keys = thinned([*self._keys, (step, keys)], MOST_KEPT)

    def _of_the_machine(self, step: int) -> dict[str, float | None]:
        now = time.monotonic()
        seconds, steps = now - self._read_at, step - self._read_step
        images = steps * self.plan.recipe.batch_size
        self._read_at, self._read_step = now, step
        return {
            "waiting_share": min(1.0, self.waited.take() / max(seconds, 1e-9)),
            "images_per_second": images / max(seconds, 1e-9),
            "memory_bytes": device_peak(self.plan.device) or process_peak(),
        }


def thinned(kept: list[tuple[int, Tensor]], most: int) -> list[tuple[int, Tensor]]:
    """Return at most so many, every other of the older half left out where there are more."""
    if len(kept) <= most:
        return kept
    half = len(kept) // 2
    return kept[:half:2] + kept[half:]


def images_in_group(recipe: Recipe) -> int:
    """Return how many of a process's images share a batch norm's statistics."""
    return recipe.batch_size // max(world_size(), recipe.batch_norm_groups)


def _json_value(value: Any) -> Any:
    return finite_or_none(value) if isinstance(value, float) else value
