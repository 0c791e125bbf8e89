"""Whether what is asked for now may go on from what a run directory holds."""

from __future__ import annotations

from pathlib import Path

from moco.checkpoint import Checkpoint, Identity
from moco.errors import UsageError
from moco.recipe_files import flat_fields, recipe_difference

FITTED_TO_EPOCHS = {"epochs", "optimizer.warmup_epochs", "optimizer.milestones"}


def check_continuation(run: Path, checkpoint: Checkpoint, new: Identity) -> list[str]:
    """Return what the user should know of going on from a checkpoint as `new`, a line each.

    Raises:
        UsageError: They are not the same run: another method, seed or other images.
    """
    old = checkpoint.identity
    is_extension = _is_extension(checkpoint, new)
    if not is_extension:
        refuse_difference(run, recipe_difference(old.recipe, new.recipe))
    if old.seed != new.seed:
        refuse_difference(run, f"seed {old.seed} -> {new.seed}")
    if (old.image_count, old.image_fingerprint) != (new.image_count, new.image_fingerprint):
        refuse_difference(run, f"other images, {old.image_count} then and {new.image_count} now")
    if not is_extension:
        return []
    return [
        f"{run} was done after {old.recipe.epochs} epochs and goes on to {new.recipe.epochs}: from "
        f"here on its schedules are those of {new.recipe.epochs} epochs, so it does not become "
        "what a run of so many from the start would be"
    ]


def refuse_difference(run: Path, difference: str) -> None:
    """Raise UsageError with the difference on one line, if there is one."""
    if difference:
        raise UsageError(
            f"run directory {run} belongs to another run ({difference}); choose another --run, or "
            "start it again with --resume never"
        )


def _is_extension(checkpoint: Checkpoint, new: Identity) -> bool:
    """Say whether a finished run is asked for more epochs; its schedule may be fitted to them."""
    old = checkpoint.identity
    steps = old.recipe.epochs * (old.image_count // old.recipe.batch_size)
    before, after = flat_fields(old.recipe), flat_fields(new.recipe)
    changed = {name for name in before if before[name] != after[name]}
    return (
        checkpoint.step >= steps
        and new.recipe.epochs > old.recipe.epochs
        and changed <= FITTED_TO_EPOCHS
    )
