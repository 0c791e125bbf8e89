"""The queue before the first step: keys of images rather than random rows, where a recipe says so.

Not in the papers, whose queues start random; see docs/schedules.md.
"""

from __future__ import annotations

import time
from collections.abc import Callable

import torch

from moco.contrast import Contrast
from moco.data.batches import to_device
from moco.dictionaries import Queue
from moco.errors import DivergedError, InterruptedRunError
from moco.nonfinite import KeptBuffers
from moco.plan import Plan
from moco.plan_batches import load_plan
from moco.session import Session
from moco.watchdog import Watch

TERM = 2
"""Tells the permutations of filling from those of a step's two terms, 0 and 1."""


def filling_steps(plan: Plan) -> range:
    """Return the steps whose batches fill the queue, none where the recipe does not ask for it.

    The last ones of the first epoch, or of as many epochs as the queue takes: their images come up
    last, so that a queue smaller than the data set holds no image of the first steps.
    """
    if not plan.recipe.dictionary.fill_first:
        return range(0)
    count = -(-plan.recipe.dictionary.size // plan.recipe.batch_size)
    stop = -(-count // plan.steps_per_epoch) * plan.steps_per_epoch
    return range(stop - count, stop)


@torch.no_grad()
def fill_queue(session: Session, stop: Callable[[], int | None], watch: Watch) -> None:
    """Fill the queue with the untrained key encoder's keys, before the first step alone.

    Forward passes of the second view, as in training; no weight and no statistic moves.

    Raises:
        InterruptedRunError: `stop` said so; nothing is saved, the same command begins again.
        DivergedError: A key is not a finite number.
        DataError: Too many images cannot be used.
    """
    plan, steps = session.plan, filling_steps(session.plan)
    contrast: Contrast = session.contrast
    if session.step or not steps or not isinstance(contrast.dictionary, Queue):
        return
    session.report.note(f"filling the queue with keys of {len(steps)} batches")
    contrast.train()
    before = KeptBuffers(contrast, beside=contrast.dictionary)
    always = torch.ones((), dtype=torch.bool, device=plan.device)
    contrast.dictionary.next_slot.zero_()  # whatever an earlier try left there
    for batch in load_plan(plan, start=steps.start, stop=steps.stop, notes=watch.notes):
        watch.note(session.step)
        _, view, image_ids = to_device(batch, plan.recipe.views, plan.device)
        seed = (contrast.seed, batch.step, TERM)
        keys = contrast.encode_shuffled(contrast.key_encoder, view, seed)
        before.put_back()
        contrast.dictionary.store(keys, image_ids, always)
        code, _, skipped = session.agree(stop(), batch.skipped)
        if skipped:
            session.count_skipped(skipped)
        if code is not None:
            raise InterruptedRunError(
                "stopped while the queue was filled, before the first step; the same command "
                "begins again",
                code,
            )
    if not contrast.dictionary.keys.isfinite().all():
        raise DivergedError(
            "the untrained encoder gives keys that are not finite numbers; look at the images with "
            "moco data stats, or set dictionary.fill_first to false"
        )
    session.read_at = time.monotonic()  # training's rate is without it
