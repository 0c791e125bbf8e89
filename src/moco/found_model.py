"""From a word to a network whose features are asked for: a run's, a library's, or raw pixels."""

from __future__ import annotations

import difflib
import hashlib
import os
from dataclasses import dataclass, replace
from pathlib import Path
from typing import cast

import torch
from torch import nn

from moco.encoders import Encoder, build_encoder
from moco.errors import MocoError, UsageError
from moco.evaluation.finetune_files import ABOUT, load_finetuned_with_recipe
from moco.evaluation.frozen import FrozenNetwork, fingerprint
from moco.evaluation.layer_features import LayerFeatures, find_layer
from moco.foreign.models import NoHead
from moco.library_models import Library, build_library_model, near_names
from moco.loading import load_with_recipe
from moco.recipe import Recipe
from moco.specs import ViewsSpec

KINDS = ("untrained", "pixels", "timm", "torchvision")
BACKBONE, HEAD = "backbone", "head"
SEED = 0
"""Of an untrained network's weights."""
PIXELS = ViewsSpec(image_size=32, evaluation_size=32, evaluation_resize=32)
"""How raw pixels are looked at where no model says it."""
DIGEST_LETTERS = 16
MOST_SHOWN = 4
"""Of images with more channels, mean and deviation are told by a digest."""


@dataclass(frozen=True)
class FoundModel:
    """A network that gives features, and what is known of it."""

    network: nn.Module | None
    """[N, channels, H, W] -> [N, D], on the CPU in eval mode; None for raw pixels, which
    `extract_features` takes too."""
    views: ViewsSpec
    """How it looks at images."""
    title: str
    """What a person calls it: the word that was given."""
    weights: str
    """Which weights these are: equal for equal ones wherever they lie, other for others."""
    layer: str
    """Whose features these are."""
    recipe: str = ""
    """The name of the recipe that it was trained by, "" where there is none."""
    features: int = 0
    """D."""

    @property
    def encoder(self) -> str:
        """Which weights, layer and views: `FeatureSet.encoder`."""
        return f"{self.weights}, layer {self.layer}, {views_in_words(self.views)}"


def find_model(
    word: str,
    *,
    layer: str = BACKBONE,
    like: ViewsSpec | None = None,
    passed_over: list[str] | None = None,
) -> FoundModel:
    """Return the network that a word means.

    A word is a run or checkpoint directory; a directory of a fine-tuned network; a file of weights
    whose names and shapes tell its network (`read_foreign`); untrained:RUN, the run's network with
    random weights; pixels or pixels:RUN, raw pixels as the run looks at them; timm:NAME or
    torchvision:NAME, with random weights, or with those of a local file as NAME@FILE. A directory
    that is called as one of these is named ./pixels.

    Args:
        layer: backbone; head, a run's projection head; or the name of a module inside the backbone,
            of a run also inside the head, such as head.0. `LayerFeatures` says what they give.
        like: how `pixels` without a run looks at images; None for 32 x 32 pixels.
        passed_over: receives a line for each newer checkpoint that is damaged.

    Raises:
        UsageError: There is no such model or layer.
        CheckpointError: The directory or file cannot be used.
    """
    kind, colon, rest = word.partition(":")
    if kind in KINDS and (colon or kind == "pixels"):
        if colon and not rest:
            raise UsageError(f"'{word}' names no model; write {_example(kind)}")
        match kind:
            case "pixels":
                views = _stored(rest, passed_over)[1].views if colon else like or PIXELS
                return _pixels(word, views, layer)
            case "untrained":
                _, recipe = _stored(rest, passed_over)
                return _of_encoder(word, _drawn(recipe), recipe, layer, is_run=False)
            case _:
                return _of_library(word, cast(Library, kind), rest, layer)
    _refuse_slip(word, kind)
    encoder, recipe = _stored(word, passed_over)
    return _of_encoder(word, encoder, recipe, layer, is_run=os.path.isdir(word))


def views_in_words(views: ViewsSpec) -> str:
    """Return how evaluation looks at images, in few words: equal only where features can be."""
    mean, std = (" ".join(f"{value:.9g}" for value in of) for of in (views.mean, views.std))
    if views.channels > MOST_SHOWN:
        digest = hashlib.sha256(f"{mean} {std}".encode()).hexdigest()[:DIGEST_LETTERS]
        mean, std = f"of {views.channels} channels", digest
    sizes = f"{views.evaluation_size} of {views.evaluation_resize} px"
    return f"{sizes}, mean {mean}, std {std}{', deep' if views.deep else ''}"


def _refuse_slip(word: str, kind: str) -> None:
    """Refuse what is no path but nearly another word.

    Raises:
        UsageError: The words that may be meant.
    """
    if kind in KINDS:
        raise UsageError(f"'{word}' names no model; write {_example(kind)}, or ./{word} for a run")
    if os.path.lexists(word) or os.sep in kind:
        return
    if near := difflib.get_close_matches(kind, KINDS, n=1, cutoff=0.7):
        rest = word.removeprefix(kind)
        meant = near[0] + rest if rest.strip(":") else _example(near[0])
        raise UsageError(f"'{word}' does not exist; did you mean {meant}?")
    if names := near_names(word):
        raise UsageError(f"'{word}' does not exist; did you mean {' or '.join(names)}?")


def _example(kind: str) -> str:
    return {"untrained": "untrained:RUN", "pixels": "pixels or pixels:RUN"}.get(
        kind, f"{kind}:resnet50, or {kind}:resnet50@FILE"
    )


def _stored(path: str, passed_over: list[str] | None) -> tuple[Encoder, Recipe]:
    """Return the encoder in a directory and its recipe; a fine-tuned one's head gives classes."""
    if os.path.lexists(os.path.join(path, ABOUT)):
        encoder, _, recipe = load_finetuned_with_recipe(path)
        return encoder, recipe
    with torch.random.fork_rng(devices=[]):  # what is loaded was drawn before
        network, recipe = load_with_recipe(path, "encoder", passed_over=passed_over)
    return cast(Encoder, network), recipe


def _drawn(recipe: Recipe) -> Encoder:
    """Return the recipe's encoder with random weights, those a run with this seed begins with."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(SEED)
        return build_encoder(recipe.encoder, recipe.views).eval()


def _pixels(word: str, views: ViewsSpec, layer: str) -> FoundModel:
    if layer != BACKBONE:
        raise UsageError(f"'{word}' has no layer '{layer}'; leave --layer out")
    features = views.channels * views.evaluation_size**2
    return FoundModel(None, views, word, "raw pixels", layer, features=features)


def _of_encoder(
    word: str, encoder: Encoder, recipe: Recipe, layer: str, *, is_run: bool
) -> FoundModel:
    spec, backbone = recipe.encoder, encoder.backbone
    about = [spec.backbone, spec.stem, spec.width, spec.stage_blocks]
    inside = {name for name, _ in backbone.named_modules()}
    of_head = layer == HEAD or (layer.startswith(f"{HEAD}.") and layer not in inside)
    if of_head and os.path.lexists(os.path.join(word, ABOUT)):
        raise UsageError(f"{word} is fine-tuned: its head gives classes; name another --layer")
    if of_head and isinstance(encoder.head, NoHead):
        raise UsageError(f"{word} holds no projection head; name another --layer")
    if of_head:
        about += [spec.head, spec.head_layers, spec.head_width]
    whole = encoder if of_head else backbone
    return _checked(
        FoundModel(
            whole if layer in (BACKBONE, HEAD) else _inner(whole, layer),
            recipe.views,
            word,
            f"{spec.backbone} {_digest(about, whole)}",
            layer,
            recipe.name if is_run else "",
        )
    )


def _of_library(word: str, library: Library, asked: str, layer: str) -> FoundModel:
    name, at, file = asked.partition("@")
    if at and not file:
        raise UsageError(f"'{word}' names no file; write {_example(library)}")
    if layer == HEAD:
        raise UsageError(f"'{word}' has no projection head; name another --layer")
    found = build_library_model(library, name, Path(file) if at else None)
    network = found.network if layer == BACKBONE else _inner(found.network, layer)
    architecture = name.partition(".")[0]
    weights = f"{library} {architecture} {_digest([library, architecture], found.network)}"
    return _checked(FoundModel(network, found.views, word, weights, layer))


def _inner(network: nn.Module, layer: str) -> nn.Module:
    find_layer(network, layer)
    return LayerFeatures(network, layer).eval()


def _digest(about: object, network: nn.Module) -> str:
    """Return letters that are other for other weights, or for equal weights used otherwise."""
    text = f"{about}\0{fingerprint(network)}"
    return hashlib.sha256(text.encode()).hexdigest()[:DIGEST_LETTERS]


@torch.no_grad()
def _checked(model: FoundModel) -> FoundModel:
    """Return the model, once one grey image went through it.

    Raises:
        UsageError: It does not take such images, or its layer gives no features.
        ChangedNetworkError: It changes itself.
    """
    side = model.views.evaluation_size
    network = cast(nn.Module, model.network)
    frozen = FrozenNetwork(network)
    try:
        row = network(torch.zeros(1, model.views.channels, side, side))
    except MocoError:
        raise
    except (AssertionError, RuntimeError, ValueError) as error:
        reason = str(error).partition("\n")[0]
        raise UsageError(
            f"{model.title} does not take images of {side} px ({reason:.200}); name another model"
        ) from error
    frozen.check(network, "after one image")
    if not torch.is_tensor(row) or row.ndim != 2:
        raise UsageError(f"{model.title} gives no row of features for an image; name another model")
    return replace(model, features=row.shape[1])
