"""An origin and a recipe: what the file says of the recipe, and whether they go together."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from typing import Any

import torch
from torch import Tensor, nn

from moco.encoders import build_backbone
from moco.errors import CheckpointError, UsageError
from moco.foreign.official_state import KEYS
from moco.recipe import Recipe
from moco.recipe_files import change_fields, flat_fields
from moco.small import Choice
from moco.start.asked import StartAsked
from moco.start.channels import first_layer, mapped_filters
from moco.start.origin import Origin
from moco.start_spec import StartSpec

RESIZE = "views.evaluation_resize"
"""At least the size that is cut out of it; else it is the recipe's own affair."""
HELD_EPOCHS, RISE_EPOCHS = 1.0, 1.0
MOST_SHOWN = 4
MOST_SHARE = 0.1
"""Of a run's epochs that each of the two takes at most."""


def network_fields(origin: Origin) -> dict[str, Any]:
    """Return the recipe's fields that the file decides, by full name.

    Of its backbone; of a checkpoint to be continued also of head, predictor and queue.
    """
    spec = origin.encoder
    fields: dict[str, Any] = {
        "encoder.backbone": spec.backbone,
        "encoder.stem": spec.stem,
        "encoder.width": spec.width,
        "encoder.stage_blocks": list(spec.stage_blocks),
    }
    if any("pos_embed" in name for name in origin.backbone):
        side = origin.views.image_size
        fields |= {"views.image_size": side, "views.evaluation_size": side}
        fields[RESIZE] = max(side, origin.views.evaluation_resize)
    whole = origin.whole
    if whole is None:
        return fields
    fields |= {"encoder.head": spec.head, "encoder.dim": spec.dim}
    if spec.head != "linear":
        fields["encoder.head_width"] = spec.head_width
    if spec.head == "mlp_bn":
        fields["encoder.head_layers"] = spec.head_layers
    has_predictor = any(name.startswith("predictor.") for name in whole.model)
    fields["encoder.predictor"] = spec.predictor if has_predictor else "none"
    fields["mechanism"] = "queue" if KEYS in whole.model else "in_batch"
    if KEYS in whole.model:
        fields["dictionary.size"] = len(whole.model[KEYS])
    return fields


def check_network(origin: Origin, recipe: Recipe) -> None:
    """Refuse a recipe of another network than the file's.

    Raises:
        UsageError: The fields, and how to set them.
    """
    own = flat_fields(recipe)
    wrong = {
        name: value
        for name, value in network_fields(origin).items()
        if own[name] != value and name != RESIZE
    }
    if not wrong:
        return
    told = ", ".join(
        f"{name} is {value} there and {own[name]} here" for name, value in wrong.items()
    )
    remedy = " ".join(f"--set {name}={_in_shell(value)}" for name, value in wrong.items())
    raise UsageError(f"{origin.word} ({origin.about}) is of another network: {told}; add {remedy}")


def _in_shell(value: Any) -> str:
    return f"'{value}'" if isinstance(value, list) else str(value)


def warmed(recipe: Recipe, origin: Origin, given: Collection[str]) -> tuple[Recipe, list[Choice]]:
    """Return the recipe with the warm-up of a new head, unless the user or the recipe has one.

    Args:
        given: fields that the user set, by full name.
    """
    if origin.kind == "continue" or recipe.start != StartSpec():
        return recipe, []
    wanted = {"start.held_epochs": HELD_EPOCHS, "start.rise_epochs": RISE_EPOCHS}
    reasons = {
        "start.held_epochs": "the new head learns before it may move the backbone",
        "start.rise_epochs": "and then moves it by small steps at first; docs/start_from.md",
    }
    changes = {
        name: min(epochs, MOST_SHARE * recipe.epochs)
        for name, epochs in wanted.items()
        if epochs and name not in given
    }
    choices = [Choice(name, epochs, reasons[name]) for name, epochs in changes.items()]
    return change_fields(recipe, changes), choices


def fitted_backbone(origin: Origin, recipe: Recipe, asked: StartAsked) -> dict[str, Tensor]:
    """Return the backbone's state dict for the recipe's images.

    Raises:
        UsageError: The images have other channels.
        CheckpointError: A tensor is missing, left over or of another shape, by name.
    """
    with torch.device("meta"):
        network = build_backbone(recipe.encoder, recipe.views.image_size, recipe.views.channels)
    own: Mapping[str, Tensor] = network.state_dict()
    state = dict(origin.backbone)
    first = first_layer(network)
    if first is not None and first in state and state[first].ndim == 4:
        state[first] = mapped_filters(
            state[first], recipe.views.channels, asked.channels, origin.word
        )
    elif asked.channels is not None:
        raise UsageError(
            f"the first layer of {origin.word} is no convolution, so --from-channels has nothing "
            "to choose; leave it out"
        )
    for what, names in (
        ("has no", [name for name in own if name not in state]),
        ("has also", [name for name in state if name not in own]),
        (
            "has another shape of",
            [name for name in own if name in state and state[name].shape != own[name].shape],
        ),
    ):
        if names:
            raise CheckpointError(
                f"{origin.word} does not fit {recipe.encoder.backbone}: it {what} {names[0]:.80}"
                f"{f' and {len(names) - 1} more' if len(names) > 1 else ''}; name the encoder that "
                "it is of with --set encoder.backbone=NAME"
            )
    return state


def normalization_notes(origin: Origin, recipe: Recipe) -> list[str]:
    """Return a line where the file's images were normalized in another way than the recipe's."""
    there, here = origin.views, recipe.views
    if there.channels != here.channels or (there.mean, there.std) == (here.mean, here.std):
        return []
    settings = []
    for name in ("mean", "std"):
        shown = ", ".join(f"{value:.4g}" for value in getattr(there, name)[:MOST_SHOWN])
        more = ", ..." if there.channels > MOST_SHOWN else ""
        settings.append(f"views.{name} [{shown}{more}]")
    return [f"its images were normalized by {' and '.join(settings)}; the recipe has others"]


def load_backbone(contrast: nn.Module, backbone: Mapping[str, Tensor]) -> None:
    """Put a backbone into a new contrast: both encoders start equal, with the head as drawn."""
    encoder: nn.Module = contrast.get_submodule("encoder")
    encoder.get_submodule("backbone").load_state_dict(backbone)
    if hasattr(contrast, "key_encoder"):
        contrast.get_submodule("key_encoder").load_state_dict(encoder.state_dict())
