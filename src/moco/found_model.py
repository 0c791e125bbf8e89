"""A network by a word: a run, fine-tuned weights, raw pixels, timm, torchvision, a weights file.

What evaluation, `moco embed` and `moco compare` start from.
"""

from __future__ import annotations

import difflib
import hashlib
import json
import os
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import timm
import torch
import torchvision
from timm.data.config import resolve_model_data_config
from torch import nn

from moco.errors import CheckpointError, UsageError
from moco.evaluation.finetune import random_backbone
from moco.evaluation.finetune_files import ABOUT, load_finetuned
from moco.evaluation.frozen import fingerprint
from moco.layer_output import LayerOutput
from moco.loading import Part, load_with_recipe
from moco.specs import ViewsSpec
from moco.weights_file import load_into

KINDS = ("untrained:RUN", "pixels:RUN", "timm:NAME[@FILE]", "torchvision:NAME[@FILE]")
"""Words beside the directory of a run, a checkpoint or a fine-tuned network."""
SEED = 0
"""Of random weights."""
MOST_NAMED = 3
LOOKS = ("evaluation_resize", "evaluation_size", "channels", "deep", "mean", "std")
"""What of the views decides a row of features."""


@dataclass(frozen=True)
class FoundModel:
    """A network, and how it looks at images."""

    network: nn.Module | None
    """[N, channels, H, W] -> [N, D], on the CPU in eval mode; None for raw pixels."""
    views: ViewsSpec
    """Their evaluation fields say how an image is resized, cut and normalized."""
    encoder: str
    """Which weights, layer and views: equal for equal rows of features, whatever the directory."""
    title: str
    recipe: str = ""
    """The recipe's name, where one trained it."""


class Built(NamedTuple):
    """A whole network, before a layer is chosen."""

    network: nn.Module
    views: ViewsSpec
    recipe: str = ""


def find_model(
    word: str, *, layer: str = "backbone", passed_over: list[str] | None = None
) -> FoundModel:
    """Return the network that a word means.

    Args:
        word: the directory of a run, of a checkpoint, or of what `moco evaluate finetune` kept;
            `untrained:RUN`, the same network with random weights; `pixels:RUN`, what the run's
            network sees; `timm:NAME` and `torchvision:NAME`, with random weights or, behind an @,
            those of a file. Nothing is downloaded.
        layer: "backbone", its features; "head", the projection head's output of a run; or the
            dotted name of a submodule of the backbone, see `LayerOutput`.
        passed_over: receives a line for each newer checkpoint of a run that is damaged.

    Raises:
        UsageError: No such kind, network or layer.
        CheckpointError: No run there, or a damaged one.
        DataError: A file of weights cannot be read, or is of another network.
    """
    kind, colon, name = word.partition(":")
    if not colon or kind not in ("pixels", "untrained", "timm", "torchvision"):
        return _at_layer(word, layer, _directory(word, layer, passed_over))
    if not name:
        raise UsageError(f"'{word:.80}' names nothing; write one of {', '.join(KINDS)}")
    if layer == "head" or (layer != "backbone" and kind == "pixels"):
        raise UsageError(f"{word:.80} has no --layer {layer:.80}; leave it out")
    if kind == "pixels":
        _, recipe = load_with_recipe(name, passed_over=passed_over)
        return FoundModel(None, recipe.views, _identity(None, recipe.views, "pixels"), word)
    if kind == "untrained":
        _, recipe = load_with_recipe(name, passed_over=passed_over)
        network = random_backbone(recipe.encoder, recipe.views, SEED)
        return _at_layer(word, layer, Built(network, recipe.views))
    name, _, file = name.partition("@")
    build = _timm if kind == "timm" else _torchvision
    return _at_layer(word, layer, build(name, Path(file) if file else None, word))


def _at_layer(word: str, layer: str, built: Built) -> FoundModel:
    """Return the model with features of the layer, in eval mode, and with its identity."""
    network = built.network
    if layer not in ("backbone", "head"):
        network = LayerOutput(network, layer)
    network = network.eval().requires_grad_(False)
    identity = _identity(network, built.views, layer)
    return FoundModel(network, built.views, identity, word, built.recipe)


def _identity(network: nn.Module | None, views: ViewsSpec, layer: str) -> str:
    looks = [getattr(views, name) for name in LOOKS]
    weights = fingerprint(network) if network is not None else "none"
    about = json.dumps([weights, looks, layer, type(network).__name__])
    return f"{hashlib.sha256(about.encode()).hexdigest()[:16]}, {layer}"


def _directory(word: str, layer: str, passed_over: list[str] | None) -> Built:
    if os.path.lexists(Path(word) / ABOUT):
        if layer == "head":
            raise UsageError(f"{word} has no head but its classifier; leave --layer out")
        encoder, _ = load_finetuned(word)
        return Built(encoder.backbone, encoder.views)
    part: Part = "encoder" if layer == "head" else "backbone"
    try:
        network, recipe = load_with_recipe(word, part, passed_over=passed_over)
    except CheckpointError as error:
        if os.path.lexists(word):
            raise
        raise CheckpointError(f"{error}, or one of {', '.join(KINDS)}") from error
    return Built(network, recipe.views, recipe.name)


def _timm(name: str, file: Path | None, title: str) -> Built:
    known = timm.list_models()
    plain = name.partition(".")[0]  # without the tag of weights that we do not download
    if plain not in known:
        raise UsageError(f"timm has no model '{name:.80}'{_near(plain, known)}")
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(SEED)
        network: nn.Module = timm.create_model(name, pretrained=False, num_classes=0)
    config: dict[str, Any] = resolve_model_data_config(network)  # type: ignore[no-untyped-call]
    if file is not None:
        classifier = getattr(network, "pretrained_cfg", {}).get("classifier") or ()
        layers = (classifier,) if isinstance(classifier, str) else tuple(classifier)
        load_into(network, file, title, left_out=layers)
    size = int(config["input_size"][-1])
    views = ViewsSpec(
        channels=int(config["input_size"][0]),
        mean=tuple(config["mean"]),
        std=tuple(config["std"]),
        evaluation_resize=max(size, int(size / config["crop_pct"])),
        evaluation_size=size,
    )
    return Built(network, views)


def _torchvision(name: str, file: Path | None, title: str) -> Built:
    known = torchvision.models.list_models(module=torchvision.models)
    if name not in known:
        raise UsageError(f"torchvision has no model '{name:.80}'{_near(name, known)}")
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(SEED)
        network = torchvision.models.get_model(name, weights=None)
    linear = [at for at, module in network.named_modules() if isinstance(module, nn.Linear)]
    if not linear:
        raise UsageError(f"torchvision's {name} has no linear classifier to take off")
    parent, _, last = linear[-1].rpartition(".")
    setattr(network.get_submodule(parent), last, nn.Identity())
    if file is not None:
        load_into(network, file, title, left_out=(linear[-1],))
    size = 299 if name == "inception_v3" else 224
    views = ViewsSpec(evaluation_resize=256 if size == 224 else 342, evaluation_size=size)
    return Built(network, views)


def _near(name: str, known: list[str]) -> str:
    near = difflib.get_close_matches(name, known, MOST_NAMED)
    return f"; did you mean {', '.join(near)}?" if near else ""
