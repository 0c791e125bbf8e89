"""A run's first state: its own checkpoint, or drawn weights with what was brought for them."""

from __future__ import annotations

from dataclasses import replace

from torch.optim import Optimizer

from moco.checkpoint import Checkpoint
from moco.plan import Plan
from moco.processes import check_same, together
from moco.progress import Report
from moco.run_directory import RunDirectory
from moco.session import Session
from moco.start.begun import write_start
from moco.start.fitting import load_backbone


def find_start(
    plan: Plan, directory: RunDirectory, resume: str, report: Report
) -> Checkpoint | None:
    """Return the checkpoint to go on from, the same in all processes, None to start from scratch.

    Raises:
        MocoError: As `RunDirectory.find_checkpoint`, or processes were started differently.
    """
    identity = plan.identity()
    checkpoint = together(lambda: directory.find_checkpoint(identity, resume))
    check_same("images, recipe or seed", repr(identity))
    check_same(
        "device, precision or run directory", f"{plan.device.type} {plan.precision} {plan.run}"
    )
    check_same("checkpoints", str(checkpoint and checkpoint.step))
    check_same("file to start from", str(plan.start and plan.start.in_short()))
    for line in directory.notes:
        report.note(line)
    return checkpoint


def begin_from(plan: Plan, session: Session) -> None:
    """Bring a new run to where its plan says that it begins, and keep what that was.

    Raises:
        CheckpointError: What it was to go on from does not fit the recipe.
        StorageError: The run directory cannot be written.
    """
    start = plan.start
    together(lambda: write_start(plan.run, start) if session.directory.writes else None)
    if start is None:
        return
    if start.checkpoint is not None:
        session.restore(_completed(start.checkpoint, session.optimizer))
    elif start.backbone is not None:
        load_backbone(session.contrast, start.backbone)


def _completed(checkpoint: Checkpoint, optimizer: Optimizer) -> Checkpoint:
    """Return a checkpoint with what a stranger's lacks of the optimizer, as a new one has it."""
    now = optimizer.state_dict()
    given = checkpoint.train_state.get("optimizer", {})
    whole = {
        "state": {**now["state"], **given.get("state", {})},
        "param_groups": given.get("param_groups") or now["param_groups"],
    }
    return replace(checkpoint, train_state={**checkpoint.train_state, "optimizer": whole})
