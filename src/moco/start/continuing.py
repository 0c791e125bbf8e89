"""An official checkpoint as the one that a new run goes on from.

Letters: K queue size.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from moco.build import KEY_PRECISIONS
from moco.checkpoint import Checkpoint, Identity
from moco.errors import CheckpointError, UsageError
from moco.foreign.official_names import official_tensors
from moco.foreign.official_optimizer import own_optimizer_state
from moco.foreign.official_state import IMAGE_IDS, KEYS, NEXT_SLOT
from moco.recipe import Recipe
from moco.recipe_files import recipe_difference
from moco.start.origin import Origin, Whole

STRANGE_IMAGE = torch.iinfo(torch.int64).max
"""Id of a key of an image that is none of ours: a negative for every query, and no random row."""
MOMENTA = {"sgd": "momentum_buffer", "adamw": "exp_avg", "lars": "velocity"}
"""What each optimizer keeps of a weight."""


def continued(
    origin: Origin, identity: Identity, steps_per_epoch: int
) -> tuple[Checkpoint, list[str]]:
    """Return the checkpoint that a run goes on from, and what it is made of, a line each.

    What we wrote for the same recipe, seed and images goes on at its very step, as if it had never
    been left. Everything else begins with the epoch that the file names.

    Raises:
        UsageError: No epoch of the recipe is left.
        CheckpointError: A tensor that the recipe needs is not there or of another shape, by name.
    """
    whole = origin.whole
    if whole is None:
        raise CheckpointError(f"{origin.word} is no whole checkpoint; add --from-as backbone")
    why = "which such a file has not"
    if whole.checkpoint is not None:
        difference = _difference(whole.checkpoint.identity, identity)
        if not difference:
            line = f"goes on at step {whole.checkpoint.step} as if it had never been left"
            return whole.checkpoint, [f"{line}; all was taken"]
        why = f"since this is another run ({difference:.300})"
    if whole.epoch >= identity.recipe.epochs:
        raise UsageError(
            f"{origin.word} has {whole.epoch} epochs done and the recipe has "
            f"{identity.recipe.epochs}; set more --epochs, or begin with its backbone by "
            "--from-as backbone"
        )
    model, taken = _model(whole, identity.recipe, origin.word)
    optimizer, reason = _optimizer(whole, identity.recipe)
    state = {"optimizer": {"state": optimizer}} if optimizer else {}
    step = whole.epoch * steps_per_epoch
    lines = [
        f"goes on with epoch {whole.epoch} (counted from 0), step {step}; taken: both encoders "
        f"with their heads{taken}{', the optimizer state' if optimizer else ''}",
        f"not taken: a step inside the epoch and random states, {why}",
    ]
    if reason:
        lines.append(f"not taken: the optimizer's state, it begins anew: {reason}")
    return Checkpoint(step, model, state, identity), lines


def _difference(old: Identity, new: Identity) -> str:
    """Return what tells two runs apart, "" where nothing does."""
    if difference := recipe_difference(old.recipe, new.recipe):
        return difference
    if old.seed != new.seed:
        return f"seed {old.seed} -> {new.seed}"
    if old != new:
        return f"other images, {old.image_count} then and {new.image_count} now"
    return ""


def _model(whole: Whole, recipe: Recipe, word: str) -> tuple[dict[str, Tensor], str]:
    """Return the contrast's state dict, and what of it there is beside the encoders."""
    model: dict[str, Tensor] = {}
    for named in official_tensors(recipe):
        value = whole.model.get(named.own)
        if value is None or tuple(value.shape) != named.shape:
            has = "has none" if value is None else f"has it as {list(value.shape)}"
            raise CheckpointError(
                f"{word} does not fit the recipe: {named.official} is {list(named.shape)} there, "
                f"and the file {has}; change the recipe's encoder, or --from-as backbone"
            )
        model[named.own] = value.to(named.dtype)
    if recipe.mechanism != "queue":
        return model, "" if recipe.encoder.predictor == "none" else " and the predictor"
    size, keys = recipe.dictionary.size, whole.model[KEYS]
    if tuple(keys.shape) != (size, recipe.encoder.dim):
        raise CheckpointError(
            f"{word} does not fit the recipe: its queue is {list(keys.shape)}; set dictionary.size "
            "and encoder.dim as the file has them"
        )
    model[KEYS] = keys.to(KEY_PRECISIONS[recipe.dictionary.key_precision])
    model[IMAGE_IDS] = torch.full((size,), STRANGE_IMAGE)
    model[NEXT_SLOT] = whole.model[NEXT_SLOT].reshape(()).to(torch.int64) % size
    return model, f", the queue's {size:,} keys and its next slot"


def _optimizer(whole: Whole, recipe: Recipe) -> tuple[dict[int, dict[str, Any]], str]:
    """Return the optimizer's state by number of weight, and why there is none."""
    if whole.optimizer is None:
        return {}, "the file has none"
    try:
        state = own_optimizer_state(whole.optimizer, official_tensors(recipe))
    except ValueError as error:
        return {}, str(error)
    kept = MOMENTA[recipe.optimizer.algorithm]
    if not all(kept in values for values in state.values()):
        return {}, f"it is not of {recipe.optimizer.algorithm}, which the recipe has"
    return state, ""
