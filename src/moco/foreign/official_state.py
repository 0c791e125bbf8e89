"""A checkpoint of ours as the official full checkpoint, and back, bit for bit.

    epoch       the next epoch to run, counted from 0
    arch        the official scripts' --arch
    state_dict  both encoders with their heads, and the queue or the predictor
    optimizer   over all parameters: see `official_optimizer`
    scaler      v3 alone: torch's gradient scaler as it starts
    moco        what the official layout cannot say: the step inside an epoch, seed, random states,
                recipe, which images, whose keys the queue holds; official scripts do not look at it

Letters: K queue size, C embedding size.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from moco.checkpoint import Checkpoint, Identity
from moco.errors import CheckpointError
from moco.foreign.official_names import (
    QUEUE,
    QUEUE_NEXT,
    Named,
    official_arch,
    official_tensors,
)
from moco.foreign.official_optimizer import official_optimizer, own_optimizer_state
from moco.recipe import Recipe
from moco.recipe_files import recipe_from_dict, recipe_to_dict

EXTRA = "moco"
"""The entry of what the official layout cannot say."""
EXTRA_VERSION = 1
NEW_SCALER = {
    "scale": 65536.0,
    "growth_factor": 2.0,
    "backoff_factor": 0.5,
    "growth_interval": 2000,
    "_growth_tracker": 0,
}
KEYS, IMAGE_IDS, NEXT_SLOT = (
    "dictionary.keys",
    "dictionary.image_ids",
    "dictionary.next_slot",
)


@dataclass(frozen=True)
class OfficialState:
    """What an official file holds for a recipe, under our names."""

    model: dict[str, Tensor]
    """The contrast's state dict; the queue's keys without the images that they are of."""
    epoch: int
    """The next epoch to run, counted from 0."""
    optimizer: dict[int, dict[str, Any]] | None
    """State by number of weight; None where it is not there or of other weights."""
    without_optimizer: str
    """Why there is none, "" where there is one."""


def to_official(checkpoint: Checkpoint) -> dict[str, Any]:
    """Return the content of an official full checkpoint, for `torch.save`.

    Raises:
        UsageError: The recipe's method has no official layout.
        CheckpointError: The checkpoint lacks tensors of its recipe.
    """
    recipe = checkpoint.identity.recipe
    tensors = official_tensors(recipe)
    model = checkpoint.model
    expected = [named.own for named in tensors]
    if recipe.mechanism == "queue":
        expected += [KEYS, IMAGE_IDS, NEXT_SLOT]
    if missing := [name for name in expected if name not in model]:
        raise CheckpointError(f"the checkpoint has no {missing[0]}; name one that a run wrote")
    state: dict[str, Tensor] = {}
    if recipe.mechanism == "queue":
        state[QUEUE] = model[KEYS].float().T.contiguous()  # [C, K]
        state[QUEUE_NEXT] = model[NEXT_SLOT].reshape(1)
    state |= {named.official: model[named.own] for named in tensors}
    content: dict[str, Any] = {
        "epoch": checkpoint.step // _steps_per_epoch(checkpoint.identity),
        "arch": official_arch(recipe),
        "state_dict": state,
    }
    if "optimizer" in checkpoint.train_state:
        content["optimizer"] = official_optimizer(checkpoint.train_state["optimizer"], tensors)
    if recipe.mechanism == "in_batch":
        content["scaler"] = dict(NEW_SCALER)
    return {**content, EXTRA: _extra(checkpoint)}


def from_official(content: Mapping[str, Any]) -> Checkpoint:
    """Return the checkpoint that `to_official` was given, from what it gave.

    Raises:
        CheckpointError: The file was not made by us, or holds something else since.
    """
    try:
        extra = content[EXTRA]
        if int(extra["format_version"]) > EXTRA_VERSION:
            raise ValueError("a later release wrote it; update moco to read it")
        identity = Identity(
            recipe_from_dict(extra["recipe"]),
            int(extra["seed"]),
            int(extra["image_count"]),
            str(extra["image_fingerprint"]),
        )
        step = int(extra["step"])
        if step < 0:
            raise ValueError(f"its step is {step}")
        taken = read_official(content, identity.recipe)
        model, train_state = dict(taken.model), dict(extra["train_state"])
        if identity.recipe.mechanism == "queue":
            model[IMAGE_IDS] = _checked(extra["queue_image_ids"], "queue_image_ids", model[KEYS])
        if taken.optimizer is not None:
            groups = [
                {**group, "params": list(taken.optimizer)} for group in extra["optimizer_groups"]
            ]
            train_state["optimizer"] = {"state": taken.optimizer, "param_groups": groups}
        return Checkpoint(step, model, train_state, identity)
    except CheckpointError:
        raise
    except (KeyError, TypeError, AttributeError, ValueError, OverflowError) as error:
        raise CheckpointError(f"its entry '{EXTRA}' cannot be read: {error!s:.300}") from error


def read_official(content: Mapping[str, Any], recipe: Recipe) -> OfficialState:
    """Return what an official full checkpoint holds, for a recipe of the same networks.

    Raises:
        UsageError: The recipe's method has no official layout.
        CheckpointError: A tensor that the recipe needs is not there or of another shape, by name.
    """
    tensors = official_tensors(recipe)
    state = _entry(content, "state_dict")
    if not isinstance(state, dict):
        raise CheckpointError("it has no state_dict; name a file that the official scripts saved")
    names = [named.official for named in tensors]
    if recipe.mechanism == "queue":
        names += [QUEUE, QUEUE_NEXT]
    for what, wrong in (
        ("has no", [name for name in names if not isinstance(dict.get(state, name), Tensor)]),
        ("has also", [str(name) for name in dict.keys(state) if name not in set(names)]),
    ):
        if wrong:
            more = f" and {len(wrong) - 1} more" if len(wrong) > 1 else ""
            raise CheckpointError(f"its state_dict {what} {wrong[0]:.80}{more}")
    model = {named.own: _shaped(state[named.official], named) for named in tensors}
    if recipe.mechanism == "queue":
        model |= _queue(state[QUEUE], state[QUEUE_NEXT], recipe)
    epoch = _entry(content, "epoch")
    if not isinstance(epoch, int) or isinstance(epoch, bool) or not 0 <= epoch < 1 << 31:
        raise CheckpointError(f"its epoch is {epoch!r:.40}, and the next one to run is expected")
    optimizer, reason = _optimizer(_entry(content, "optimizer"), tensors)
    return OfficialState(model, epoch, optimizer, reason)


def _entry(content: object, name: str) -> Any:
    return dict.get(content, name) if isinstance(content, dict) else None


def _optimizer(
    official: object, tensors: Sequence[Named]
) -> tuple[dict[int, dict[str, Any]] | None, str]:
    if official is None:
        return None, "the file holds no optimizer"
    try:
        return own_optimizer_state(official, tensors), ""
    except ValueError as error:
        return None, str(error)


def _queue(keys: Tensor, place: Tensor, recipe: Recipe) -> dict[str, Tensor]:
    """Return our queue, its image ids left out, from the official [C, K] and [1]."""
    expected = (recipe.encoder.dim, recipe.dictionary.size)
    if tuple(keys.shape) != expected:
        raise CheckpointError(
            f"its {QUEUE} is {list(keys.shape)}, and the recipe's is {list(expected)}; set "
            f"encoder.dim and dictionary.size as the file has them"
        )
    if place.numel() != 1 or not 0 <= int(place) < recipe.dictionary.size:
        raise CheckpointError(f"its {QUEUE_NEXT} is no slot of the queue")
    bits = torch.bfloat16 if recipe.dictionary.key_precision == "bfloat16" else torch.float32
    return {KEYS: keys.T.contiguous().to(bits), NEXT_SLOT: place.reshape(()).to(torch.int64)}


def _shaped(value: Tensor, named: Named) -> Tensor:
    if tuple(value.shape) != named.shape:
        raise CheckpointError(
            f"its {named.official} has shape {list(value.shape)}, and the recipe's network has "
            f"{list(named.shape)}"
        )
    if value.is_floating_point() != named.dtype.is_floating_point:
        raise CheckpointError(f"its {named.official} is of {value.dtype}, not {named.dtype}")
    return value.to(named.dtype)


def _checked(ids: object, name: str, keys: Tensor) -> Tensor:
    if not isinstance(ids, Tensor) or ids.shape != keys.shape[:1] or ids.dtype != torch.int64:
        raise ValueError(f"{name} is not one whole number for each key")
    return ids


def _extra(checkpoint: Checkpoint) -> dict[str, Any]:
    identity, state = checkpoint.identity, checkpoint.train_state
    groups = state.get("optimizer", {}).get("param_groups", [])
    extra = {
        "format_version": EXTRA_VERSION,
        "step": checkpoint.step,
        "seed": identity.seed,
        "image_count": identity.image_count,
        "image_fingerprint": identity.image_fingerprint,
        "recipe": recipe_to_dict(identity.recipe),
        "optimizer_groups": [
            {name: value for name, value in group.items() if name != "params"} for group in groups
        ],
        "train_state": {
            name: value for name, value in state.items() if name not in ("optimizer", "step")
        },
    }
    if IMAGE_IDS in checkpoint.model:
        extra["queue_image_ids"] = checkpoint.model[IMAGE_IDS]
    return extra


def _steps_per_epoch(identity: Identity) -> int:
    return max(1, identity.image_count // identity.recipe.batch_size)
