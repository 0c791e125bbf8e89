"""What `moco import --out` writes: a safetensors file with all of `ForeignWeights`.

Tensors lie under their part's name, the optimizer's under numbers; everything else is JSON in the
file's notes, so that other programs can read the weights too.
"""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from safetensors import SafetensorError
from safetensors.torch import save_file
from torch import Tensor

from moco.errors import CheckpointError, StorageError, storage_remedy
from moco.foreign.models import recipe_of
from moco.foreign.weights import ForeignWeights
from moco.recipe import Recipe
from moco.recipe_files import recipe_from_dict, recipe_to_dict
from moco.specs import EncoderSpec, ViewsSpec

NOTE = "moco_weights"
"""Under this name the JSON stands; its presence tells such a file."""
FORMAT = 1
NETWORK_NOTE = "moco_network"
"""Under this name a file of a backbone alone says what no shape tells, and its views."""
PREFIXES = {
    "backbone": "backbone.",
    "head": "head.",
    "key_backbone": "key_backbone.",
    "key_head": "key_head.",
    "predictor": "predictor.",
}
QUEUE, OPTIMIZER = "queue", "optimizer."


@dataclass(frozen=True)
class OwnNotes:
    """What stands beside the tensors."""

    recipe: Recipe
    """Its encoder and views."""
    about: str
    queue_next: int
    epoch: int | None
    optimizer: dict[str, Any] | None
    notes: tuple[str, ...]


def write_weights(path: Path, weights: ForeignWeights) -> None:
    """Write all that was read to a safetensors file, over what is there.

    Raises:
        StorageError: It cannot be written.
    """
    tensors = {
        prefix + name: value
        for part, prefix in PREFIXES.items()
        for name, value in getattr(weights, part).items()
    }
    if weights.queue is not None:
        tensors[QUEUE] = weights.queue.T  # [C, K], as official files have it
    about = {
        "format": FORMAT,
        "about": weights.about,
        "recipe": recipe_to_dict(recipe_of(weights)),
        "queue_next": weights.queue_next,
        "epoch": weights.epoch,
        "optimizer": _in_json(weights.optimizer, tensors),
        "notes": list(weights.notes),
    }
    aside = path.with_name(f".{path.name}.{os.getpid()}")
    try:
        own = {name: value.clone().contiguous() for name, value in tensors.items()}
        save_file(own, aside, metadata={NOTE: json.dumps(about), "format": "pt"})
        os.replace(aside, path)
    except (OSError, SafetensorError) as error:
        aside.unlink(missing_ok=True)
        reason = getattr(error, "strerror", None) or str(error)
        raise StorageError(f"cannot write {path}: {reason}; {storage_remedy(error)}") from error


def network_note(encoder: EncoderSpec, views: ViewsSpec) -> dict[str, str]:
    """Return the note that goes with a backbone's tensors under their own names."""
    fields = ("backbone", "stem", "width", "stage_blocks")
    backbone = EncoderSpec(**{name: getattr(encoder, name) for name in fields})
    recipe = Recipe(name="backbone", source="moco export", encoder=backbone, views=views)
    return {NETWORK_NOTE: json.dumps(recipe_to_dict(recipe))}


def noted_network(notes: Mapping[str, str]) -> tuple[EncoderSpec, ViewsSpec] | None:
    """Return what `network_note` wrote, None where there is none.

    Raises:
        CheckpointError: It is damaged.
    """
    if NETWORK_NOTE not in notes:
        return None
    try:
        recipe = recipe_from_dict(json.loads(notes[NETWORK_NOTE]))
    except Exception as error:  # whatever it holds, it is the file that is wrong
        raise CheckpointError(
            f"has a note of moco export that is damaged ({error!s:.80}); export it again"
        ) from error
    return recipe.encoder, recipe.views


def read_notes(note: str, tensors: Mapping[str, Tensor]) -> OwnNotes:
    """Return what stands beside the tensors.

    Raises:
        CheckpointError: It is damaged, or of a later release.
    """
    try:
        about = json.loads(note)
        if int(about["format"]) > FORMAT:
            raise CheckpointError("was written by a later release; update moco to read it")
        epoch, optimizer = about["epoch"], _from_json(about["optimizer"], tensors)
        return OwnNotes(
            recipe_from_dict(about["recipe"]),
            str(about["about"]),
            int(about["queue_next"]),
            None if epoch is None else int(epoch),
            optimizer if isinstance(optimizer, dict) else None,
            tuple(str(line) for line in about["notes"]),
        )
    except CheckpointError:
        raise
    except Exception as error:  # whatever it holds, it is the file that is wrong
        raise CheckpointError(
            f"has notes of moco import that are damaged ({error!s:.80}); import it again"
        ) from error


def _in_json(value: Any, tensors: dict[str, Tensor]) -> Any:
    """Return nested values as JSON that keeps their types; tensors go to the others, by number."""
    match value:
        case Tensor():
            name = f"{OPTIMIZER}{sum(other.startswith(OPTIMIZER) for other in tensors)}"
            tensors[name] = value
            return {"tensor": name}
        case dict():
            items = value.items()
            return {"dict": [[key, _in_json(inner, tensors)] for key, inner in items]}
        case list() | tuple():
            return {type(value).__name__: [_in_json(inner, tensors) for inner in value]}
        case None | bool() | int() | float() | str():
            return value
    return None  # a value of no known kind, which no optimizer here could use


def _from_json(value: Any, tensors: Mapping[str, Tensor]) -> Any:
    if not isinstance(value, dict):
        return value
    ((kind, inner),) = value.items()
    match kind:
        case "tensor":
            return tensors[inner]
        case "dict":
            return {key: _from_json(of, tensors) for key, of in inner}
        case "list":
            return [_from_json(of, tensors) for of in inner]
        case "tuple":
            return tuple(_from_json(of, tensors) for of in inner)
    raise ValueError(f"it has a {kind!s:.20}")
