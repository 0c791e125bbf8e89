"""How fast a plan would train on this machine, from some steps that are thrown away."""

from __future__ import annotations

import time

from moco.build import build_optimizer
from moco.contrast import Contrast
from moco.data.batches import to_device
from moco.device import shared_cpu
from moco.plan import Plan
from moco.plan_batches import load_plan, watch_over
from moco.pretraining import build_plan
from moco.processes import averaging_gradients, largest, together

TIMED_STEPS, TIMED_SECONDS = 40, 8.0
"""A forecast is made from so many steps, or so long."""


def time_steps(plan: Plan) -> tuple[Contrast, float]:
    """Take some steps that are thrown away; return the contrast and images per second."""
    contrast, recipe = together(lambda: build_plan(plan)).train(), plan.recipe
    match_views = averaging_gradients(contrast)
    optimizer = build_optimizer(recipe.optimizer, contrast)
    steps, began = 0, time.monotonic()
    stop = min(TIMED_STEPS, plan.steps)
    with shared_cpu(plan.device, plan.workers), watch_over(plan) as watch:
        for batch in load_plan(plan, start=0, stop=stop, notes=watch.notes):
            watch.note(batch.step)
            view_a, view_b, image_ids = to_device(batch, plan.recipe.views, plan.device)
            loss, keys, _ = match_views(view_a, view_b, image_ids, batch.step)
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            contrast.advance(keys, image_ids, recipe.key_momentum)
            loss.item()  # waits for the device
            if batch.step == 0 and plan.steps > 1:
                began = time.monotonic()  # the first one also pays for setting up
                continue
            steps += 1
            if any(largest([int(time.monotonic() - began > TIMED_SECONDS)])):
                break
    return contrast, steps * recipe.batch_size / (time.monotonic() - began)
