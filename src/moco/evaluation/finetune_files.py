"""A fine-tuned network on disk, and a fine-tuning in progress: safetensors and JSON, no pickles.

DIR/weights.safetensors   backbone and classifier
DIR/finetuned.json        what they are: encoder, views, classes, scores
DIR/state.safetensors     while it trains: everything that decides the next epoch
"""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor, nn

from moco.checkpoint_reading import read_weights
from moco.encoders import Encoder, build_backbone, feature_count
from moco.errors import CheckpointError, StorageError, UsageError, storage_remedy
from moco.evaluation.finetune_spec import FinetuneSpec
from moco.evaluation.finetune_training import EpochFigures
from moco.evaluation.labelled_part import Labelled
from moco.plain_files import read_small, write_own
from moco.recipe import Recipe
from moco.recipe_files import recipe_from_dict, recipe_to_dict

WEIGHTS, ABOUT, STATE = "weights.safetensors", "finetuned.json", "state.safetensors"
FORMAT_VERSION = 1
MOST_ABOUT_BYTES = 1 << 26


def training_fingerprint(
    backbone: nn.Module, train: Labelled, spec: FinetuneSpec, *, seed: int, measure: str | None
) -> str:
    """Return a SHA-256 of all that a continuation must have in common with its beginning."""
    digest = hashlib.sha256()
    names = [train.name(image_id) for image_id in range(len(train))]
    about = [asdict(spec), seed, measure, list(train.classes), names, train.labels.tolist()]
    digest.update(json.dumps(about).encode("utf-8", "surrogateescape"))
    for name, value in backbone.state_dict().items():
        digest.update(name.encode())
        digest.update(value.detach().cpu().contiguous().numpy().tobytes())
    return digest.hexdigest()


class FileKeeper:
    """Keeps a fine-tuning in DIR/state.safetensors, the file before replaced at once.

    Args:
        folder: DIR, which is there.
        fingerprint: of this training, by `training_fingerprint`.
    """

    def __init__(self, folder: Path, fingerprint: str) -> None:
        self.path, self.fingerprint = folder / STATE, fingerprint

    def load(self) -> dict[str, Any] | None:
        """Return what was kept, None for nothing.

        Raises:
            CheckpointError: The file is damaged.
            UsageError: It is of another fine-tuning.
        """
        if not self.path.exists():
            return None
        try:
            about, tensors = read_kept(self.path)
        except (OSError, SafetensorError, ValueError, KeyError, TypeError) as error:
            raise CheckpointError(
                f"{self.path} is damaged ({error!s:.200}); remove it to begin again"
            ) from error
        if about["fingerprint"] != self.fingerprint:
            raise UsageError(
                f"{self.path} is of a fine-tuning with other images, weights, settings or seed; "
                "name another --out, or remove it to begin again"
            )
        return {
            "encoder": under("encoder/", tensors),
            "best": under("best/", tensors),
            "best_epoch": about["best_epoch"],
            "best_rank": tuple(about["best_rank"]),
            "history": [EpochFigures(**figures) for figures in about["history"]],
            "optimizer": {
                "state": moments(under("optimizer/", tensors)),
                "param_groups": about["param_groups"],
            },
        }

    def keep(self, state: dict[str, Any]) -> None:
        """Write it aside, then put it in place.

        Raises:
            StorageError: It cannot be written; what was kept before is untouched.
        """
        tensors = {f"encoder/{name}": value for name, value in state["encoder"].items()}
        tensors |= {f"best/{name}": value for name, value in state["best"].items()}
        for number, of_weight in state["optimizer"]["state"].items():
            tensors |= {f"optimizer/{number}/{name}": value for name, value in of_weight.items()}
        about = {
            "fingerprint": self.fingerprint,
            "best_epoch": state["best_epoch"],
            "best_rank": state["best_rank"],
            "history": [asdict(figures) for figures in state["history"]],
            "param_groups": state["optimizer"]["param_groups"],
        }
        write_tensors(self.path, tensors, {"about": json.dumps(about)})

    def drop(self) -> None:
        """Forget it: the training is done."""
        self.path.unlink(missing_ok=True)


def read_kept(path: Path) -> tuple[dict[str, Any], dict[str, Tensor]]:
    """Return what `write_tensors` wrote: "about" of the metadata, from JSON, and the tensors.

    Raises whatever the readers say of a damaged file.
    """
    with safe_open(path, framework="pt") as file:
        about: dict[str, Any] = json.loads(file.metadata()["about"])
        return about, {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118


def under(prefix: str, tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Return the tensors whose names begin so, by what is behind."""
    return {
        name.removeprefix(prefix): value
        for name, value in tensors.items()
        if name.startswith(prefix)
    }


def moments(tensors: Mapping[str, Tensor]) -> dict[int, dict[str, Tensor]]:
    """Return an optimizer's state by weight, from tensors named NUMBER/NAME."""
    found: dict[int, dict[str, Tensor]] = {}
    for path, value in tensors.items():
        number, _, name = path.partition("/")
        found.setdefault(int(number), {})[name] = value
    return found


def write_tensors(path: Path, tensors: Mapping[str, Tensor], metadata: dict[str, str]) -> None:
    """Write a safetensors file aside, then put it in place.

    Raises:
        StorageError: It cannot be written; what was there before is untouched.
    """
    aside = path.with_name(f".tmp-{path.name}-{os.getpid()}")
    own = {name: value.detach().cpu().contiguous().clone() for name, value in tensors.items()}
    try:
        save_file(own, aside, metadata=metadata)
        os.replace(aside, path)
    except (OSError, SafetensorError) as error:
        aside.unlink(missing_ok=True)
        reason = getattr(error, "strerror", None) or error
        raise StorageError(f"cannot write {path}: {reason}; {storage_remedy(error)}") from error


def save_finetuned(
    folder: Path,
    weights: Mapping[str, Tensor],
    recipe: Recipe,
    classes: list[str],
    figures: Mapping[str, object],
) -> None:
    """Write a fine-tuned network into a folder that is there.

    Raises:
        StorageError: It cannot be written.
    """
    write_tensors(folder / WEIGHTS, weights, {})
    about = {
        "format_version": FORMAT_VERSION,
        "classes": classes,
        "figures": dict(figures),
        "recipe": recipe_to_dict(recipe),
    }
    try:
        write_own(folder / ABOUT, json.dumps(about, indent=1) + "\n")
    except OSError as error:
        reason = error.strerror or error
        raise StorageError(
            f"cannot write {folder / ABOUT}: {reason}; {storage_remedy(error)}"
        ) from error


def load_finetuned(folder: str | Path) -> tuple[Encoder, list[str]]:
    """Return a fine-tuned network, in eval mode on the CPU, and what its outputs are called.

    It takes images [N, channels, H, W], uint8 or normalized, and gives logits [N, Y].

    Raises:
        CheckpointError: There is none, or it is damaged.
    """
    network, classes, _ = load_finetuned_with_recipe(folder)
    return network, classes


def load_finetuned_with_recipe(folder: str | Path) -> tuple[Encoder, list[str], Recipe]:
    """Return what `load_finetuned` does, and the recipe of the run that it began with.

    Raises:
        CheckpointError: There is none, or it is damaged.
    """
    folder = Path(folder)
    try:
        about = json.loads(read_small(folder / ABOUT, MOST_ABOUT_BYTES))
        recipe, classes = (
            recipe_from_dict(about["recipe"]),
            [str(name) for name in about["classes"]],
        )
        weights = read_weights(folder / WEIGHTS)
        with torch.device("meta"):  # a network as large as a recipe says, without its memory
            _classifier(recipe, len(classes)).load_state_dict(weights, assign=True)
        with torch.random.fork_rng(devices=[]):
            network = _classifier(recipe, len(classes))
        network.load_state_dict(weights)
    except (OSError, ValueError, KeyError, TypeError, RuntimeError, RecursionError) as error:
        raise CheckpointError(
            f"{folder} holds no fine-tuned network that can be used ({error!s:.200}); name the "
            "--out of `moco evaluate finetune`"
        ) from error
    return network.eval(), classes, recipe


def _classifier(recipe: Recipe, classes: int) -> Encoder:
    views = recipe.views
    backbone = build_backbone(recipe.encoder, views.image_size, views.channels)
    return Encoder(backbone, nn.Linear(feature_count(backbone), classes), views)
