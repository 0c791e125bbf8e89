"""Steps that are thrown away, to see how fast a plan would train on this machine."""

from __future__ import annotations

import time
from dataclasses import replace

import torch
from torch import Tensor

from moco.build import build_optimizer
from moco.contrast import Contrast
from moco.data.batches import Batch, to_device
from moco.device import shared_cpu
from moco.plan import Plan
from moco.plan_batches import load_plan, watch_over
from moco.plan_steps import training_step
from moco.pretraining import build_plan
from moco.processes import largest, together

TIMED_STEPS, TIMED_SECONDS = 40, 8.0
"""A forecast is made from so many steps, or so long."""


class Stepper:
    """Takes a plan's steps without keeping anything; all processes of a run call it alike.

    `notes` are what a run would tell of how its steps are made fast.
    """

    def __init__(self, plan: Plan) -> None:
        self.plan = plan
        self.contrast = together(lambda: build_plan(plan)).train()
        self._optimizer = build_optimizer(plan.recipe.optimizer, self.contrast)
        self.notes: list[str] = []
        self._training = training_step(plan, self.contrast, self._optimizer, self._tell)

    def step(self, batch: Batch) -> Tensor:
        """Take a step on a batch as `pretraining.run_steps` does; its views move to the device.

        Returns:
            Its loss; a GPU may still be at work on it.
        """
        views = to_device(batch, self.plan.recipe.views, self.plan.device)
        return self._training.take(*views, batch.step, self.plan.recipe.key_momentum)[0]

    def _tell(self, text: str, _seconds: float) -> None:
        self.notes.append(text)

    def train_state(self) -> dict[str, object]:
        """Return what a checkpoint holds of the optimizer."""
        return self._optimizer.state_dict()


def time_steps(plan: Plan) -> tuple[Contrast, float]:
    """Take some steps that are thrown away; return the contrast and images per second.

    Views that grow are timed at their full size.
    """
    plan = replace(plan, recipe=plan.recipe.at_full_size())
    stepper = Stepper(plan)
    steps, began = 0, time.monotonic()
    stop = min(TIMED_STEPS, plan.steps)
    with shared_cpu(plan.device, plan.workers), watch_over(plan) as watch:
        for batch in load_plan(plan, start=0, stop=stop, notes=watch.notes):
            watch.note(batch.step)
            stepper.step(batch).item()  # waits for the device
            if batch.step == 0 and plan.steps > 1:
                began = time.monotonic()  # the first one also pays for setting up
                continue
            steps += 1
            if is_over(began, TIMED_SECONDS):
                break
    return stepper.contrast, steps * plan.recipe.batch_size / (time.monotonic() - began)


def is_over(began: float, seconds: float) -> bool:
    """Say whether so long has passed in any process since `began`, the same in all of them."""
    return bool(largest([int(time.monotonic() - began > seconds)])[0])


def wait_for(device: torch.device) -> None:
    """Return when the device has done all it was given."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    elif device.type == "mps":
        torch.mps.synchronize()
