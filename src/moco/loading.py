"""`moco.load`: a run, checkpoint or file of weights to a plain network."""

from __future__ import annotations

import os
import warnings
from pathlib import Path
from typing import Literal, get_args

import torch
from torch import nn

from moco.checkpoint import Checkpoint, load_checkpoint, load_newest
from moco.encoders import Encoder, build_encoder, feature_count
from moco.errors import CheckpointError, UsageError
from moco.foreign.models import NoHead, encoder_of, recipe_of
from moco.foreign.reading import read_foreign
from moco.recipe import Recipe
from moco.specs import EncoderSpec

Part = Literal["backbone", "encoder"]


def load(path: str | Path, part: Part = "backbone") -> nn.Module:
    """Return a trained network, on the CPU in eval mode; its `num_features` says D, or C.

    Args:
        path: a run directory (its newest checkpoint that verifies), one checkpoint directory, or a
            file of weights of any kind that `read_foreign` takes.
        part: "backbone", [N, channels, H, W] -> [N, D], is what one keeps; "encoder" has the head
            too, [N, channels, H, W] -> [N, C]. Both are the query encoder's.

    Raises:
        CheckpointError: No checkpoint there, or none that verifies; or the file cannot be used.
        UsageError: The file does not tell its network apart from others; or it has no head.
    """
    passed_over: list[str] = []
    network, _ = load_with_recipe(path, part, passed_over=passed_over)
    for line in passed_over:
        warnings.warn(f"an older checkpoint is loaded: {line}", stacklevel=2)
    if isinstance(network, Encoder) and isinstance(network.head, NoHead):
        raise UsageError(f"{path} holds no projection head; load its backbone")
    return network


def load_with_recipe(
    path: str | Path, part: Part = "backbone", *, passed_over: list[str] | None = None
) -> tuple[nn.Module, Recipe]:
    """Return the network as `load` does, and the recipe it was trained by.

    Of a file, the recipe has its encoder and views and else says nothing; and an encoder without a
    head in it has `NoHead`.

    Args:
        passed_over: receives a line for each newer checkpoint that is damaged.
    """
    if part not in get_args(Part):
        raise UsageError(f"part must be one of {', '.join(get_args(Part))}, got {part!r}")
    if os.path.lexists(path) and not os.path.isdir(path):
        file = read_foreign(path)
        return _part(encoder_of(file), file.encoder, part), recipe_of(file)
    checkpoint = find_checkpoint(Path(path), passed_over)
    recipe = checkpoint.identity.recipe
    return _part(stored_encoder(checkpoint, path), recipe.encoder, part), recipe


def stored_encoder(checkpoint: Checkpoint, path: str | Path) -> Encoder:
    """Return a checkpoint's query encoder, on the CPU in eval mode.

    Args:
        path: what an error calls it.

    Raises:
        CheckpointError: Its weights are not those of its recipe.
    """
    recipe = checkpoint.identity.recipe
    weights = {
        name.removeprefix("encoder."): value
        for name, value in checkpoint.model.items()
        if name.startswith("encoder.")
    }
    try:
        with torch.device("meta"):  # a network as large as a recipe says, without its memory
            build_encoder(recipe.encoder, recipe.views).load_state_dict(weights, assign=True)
        encoder = build_encoder(recipe.encoder, recipe.views)
        encoder.load_state_dict(weights, strict=True)
    except (UsageError, RuntimeError) as error:
        reason = str(error).partition("\n\t")[2].partition("\n")[0] or error
        raise CheckpointError(f"{path} does not fit its own recipe: {reason!s:.300}") from error
    return encoder.eval()


def _part(encoder: Encoder, spec: EncoderSpec, part: Part) -> nn.Module:
    network: nn.Module = encoder if part == "encoder" else encoder.backbone
    features = spec.dim if part == "encoder" else feature_count(encoder.backbone)
    setattr(network, "num_features", features)  # noqa: B010  typed more narrowly there
    return network.eval()


def kept_checkpoints(run: Path) -> list[Path]:
    """Return the checkpoint directories of a run, the oldest first, whether or not they verify.

    Raises:
        CheckpointError: There is none.
    """
    found = sorted((run / "checkpoints").glob("step_*"))
    if not found:
        what = "holds no checkpoint" if run.exists() else "does not exist"
        raise CheckpointError(f"{run} {what}; name a run directory")
    return found


def find_checkpoint(path: Path, passed_over: list[str] | None = None) -> Checkpoint:
    """Return a run's newest checkpoint that verifies, or the one of a checkpoint directory.

    Args:
        passed_over: receives a line for each newer checkpoint that is damaged.

    Raises:
        CheckpointError: There is none.
    """
    if os.path.exists(path / "manifest.json"):
        return load_checkpoint(path)
    checkpoint = load_newest(path, named=passed_over) if os.path.isdir(path) else None
    if checkpoint is None:
        what = "holds no checkpoint" if path.exists() else "does not exist"
        raise CheckpointError(
            f"{path} {what}; name a run directory, a checkpoint directory or a file of weights"
        )
    return checkpoint
