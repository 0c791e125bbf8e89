"""What takes the steps of a plan, as fast as it was asked to."""

from __future__ import annotations

from torch.optim import Optimizer

from moco.compiling import Tell
from moco.contrast import Contrast
from moco.fast_encoders import FastEncoders
from moco.plan import Plan
from moco.training_step import TrainingStep


def training_step(plan: Plan, contrast: Contrast, optimizer: Optimizer, tell: Tell) -> TrainingStep:
    """Return what takes the plan's steps; `tell` hears of what makes them fast."""
    return TrainingStep(
        contrast,
        optimizer,
        loss_scale=plan.recipe.loss_scale,
        accumulate=plan.accumulate,
        fast=FastEncoders(
            contrast,
            tell,
            compiled=plan.compile_networks,
            captured=plan.cuda_graphs,
            accumulate=plan.accumulate,
        ),
    )


def set_learning_rate(optimizer: Optimizer, learning_rate: float) -> None:
    """Give every weight this learning rate for the next step."""
    for group in optimizer.param_groups:
        group["lr"] = learning_rate
