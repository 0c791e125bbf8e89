"""From a file of weights to `ForeignWeights`: every tensor accounted for, or refused by name."""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal, cast, get_args

import torch
from torch import Tensor, nn

from moco.encoders import build_backbone, build_head, build_predictor, feature_count
from moco.errors import CheckpointError, UsageError
from moco.foreign.architecture import (
    find_resnet,
    find_transformer,
    has_fixed_positions,
    is_transformer,
    side_of,
)
from moco.foreign.heads import our_queue, plain_linear, with_head, with_predictor
from moco.foreign.layouts import Layout, PartName
from moco.foreign.own_files import NOTE, noted_network, read_notes
from moco.foreign.parts import Sorted, in_words, sort_tensors
from moco.foreign.recognition import Contents, open_contents, recognise
from moco.foreign.views import views_of
from moco.foreign.weights import ForeignWeights, Kind
from moco.specs import EncoderSpec, Stem, ViewsSpec


def read_foreign(
    path: str | Path,
    *,
    kind: str = "auto",
    backbone: str | None = None,
    stem: Stem | None = None,
) -> ForeignWeights:
    """Return a file's weights under this library's names, every tensor of it accounted for.

    Runs no code of the file. The architecture is found by names and shapes, and checked against the
    network tensor by tensor.

    Args:
        path: what torch.save wrote, of any age, a safetensors file, or a pickle of numpy arrays.
        kind: whose layout it has, one of `Kind`; auto: found by its names.
        backbone: its name where the file does not tell: as a recipe's encoder.backbone.
        stem: of a ResNet whose first convolution is 3x3.

    Raises:
        CheckpointError: It cannot be read, or a tensor is missing, has another shape or is unknown:
            with its name.
        UsageError: The file fits several networks, which `backbone` or `stem` tell apart; or there
            is no such kind.
    """
    path = Path(path)
    if kind != "auto" and kind not in get_args(Kind):
        names = ", ".join(("auto", *get_args(Kind)))
        raise UsageError(f"there is no kind '{kind:.40}' of file; take one of {names}")
    try:
        contents = open_contents(path)
    except (OSError, ValueError) as error:
        reason = str(getattr(error, "strerror", None) or error).removeprefix(f"{path.name}: ")
        raise CheckpointError(
            f"weights {path} cannot be read: {reason:.300}; name a state dict that torch.save or "
            "safetensors wrote"
        ) from error
    asked = Asked(None if kind == "auto" else cast(Kind, kind), backbone, stem)
    try:
        return _read(contents, asked)
    except UsageError as error:
        raise UsageError(f"weights {path}: {error}") from error
    except CheckpointError as error:
        raise CheckpointError(f"weights {path} {error}") from error


@dataclass(frozen=True)
class Asked:
    """What is told of a file; None for what its names and shapes tell."""

    kind: Kind | None
    backbone: str | None
    stem: Stem | None


def _read(contents: Contents, asked: Asked) -> ForeignWeights:
    layout = recognise(contents, asked.kind, is_named=asked.backbone is not None)
    found = sort_tensors(contents.tensors, layout, contents.wrapper)
    if not found.part("backbone"):
        raise CheckpointError(
            f"holds nothing of {layout.about}: its tensors are "
            f"{in_words(list(contents.raw(contents.tensors))) or 'none'}; add --from KIND"
        )
    own = read_notes(contents.notes[NOTE], contents.tensors) if layout.kind == "moco" else None
    if own is None:
        spec, views, notes = _network_of(contents, found, asked)
    else:
        spec, views, notes = own.recipe.encoder, own.recipe.views, own.notes
    network = _on_no_device(spec, views)
    for part in ("backbone", "key_backbone"):
        if found.part(part):
            found.check(part, network, spec.backbone)
    spec, more = _settle_heads(found, spec, feature_count(network))
    queue, queue_next, of_queue = _queue(contents, found, spec)
    if found.unknown:
        raise CheckpointError(
            f"is {layout.about}, which has no {in_words(list(contents.raw(found.unknown)))}; add "
            "--from KIND or --backbone NAME if it is another"
        )
    used = [name for names in found.called.values() for name in names.values()]
    weights = ForeignWeights(
        kind=layout.kind,
        about=layout.about,
        encoder=spec,
        views=views,
        backbone=found.part("backbone"),
        head=found.part("head"),
        key_backbone=found.part("key_backbone"),
        key_head=found.part("key_head"),
        predictor=found.part("predictor"),
        queue=queue,
        queue_next=queue_next,
        epoch=contents.epoch,
        optimizer=contents.optimizer if layout.is_official else None,
        used=contents.raw([*used, *of_queue]),
        ignored=contents.raw(found.ignored),
        missing=tuple(found.missing),
        notes=(*notes, *more),
    )
    if own is None:
        return weights
    return replace(
        weights,
        about=own.about,
        queue_next=own.queue_next,
        epoch=own.epoch,
        optimizer=own.optimizer,
        used=(*weights.used, *weights.ignored),
        ignored=(),
    )


def _network_of(
    contents: Contents, found: Sorted, asked: Asked
) -> tuple[EncoderSpec, ViewsSpec, tuple[str, ...]]:
    """Return the backbone that the tensors are of, and how it looks at images."""
    layout, tensors = found.layout, found.part("backbone")
    told = noted_network(contents.notes) if asked == Asked(None, None, None) else None
    if told is not None:
        return *told, ()
    side = 224
    if layout.kind == "lightly":
        _refuse_missing_relu(found)
    if any(name.startswith("layer1.") for name in tensors):
        stem = asked.stem or ("small" if layout.kind == "official-cifar" else None)
        spec = find_resnet(tensors, stem)
        if asked.backbone:
            spec = replace(spec, backbone=asked.backbone, stage_blocks=())
        _refuse_wide_padding(layout, spec)
    elif is_transformer(tensors):
        side = side_of(tensors)
        name = asked.backbone or find_transformer(tensors, _heads(contents, found, asked))
        spec = EncoderSpec(backbone=name)
    else:
        spec = EncoderSpec(backbone=asked.backbone or "resnet50")
    firsts = ("conv1.weight", "patch_embed.proj.weight", "patch_embed.proj.0.weight")
    first = next((tensors[name] for name in firsts if name in tensors), None)
    channels = int(first.shape[1]) if first is not None and first.ndim == 4 else 3
    views, notes = views_of(layout.kind, channels, side, spec.stem)
    return spec, views, notes


def _refuse_missing_relu(found: Sorted) -> None:
    """Refuse a network whose weights would fit, and give other features.

    Raises:
        CheckpointError: lightly's own ResNet as nn.Sequential, whose first stage is its child 2.
    """
    if any(name.startswith("2.0.") for name in found.part("backbone")):
        raise CheckpointError(
            "is of lightly's own ResNet as nn.Sequential, which leaves out the ReLU behind its "
            "first batch norm; no backbone here does, so its features would differ; train a "
            "torchvision ResNet there"
        )


def _refuse_wide_padding(layout: Layout, spec: EncoderSpec) -> None:
    """Refuse a network whose weights would fit, and give other features.

    Raises:
        CheckpointError: solo-learn's for small images.
    """
    if layout.kind == "solo-learn" and spec.stem != "imagenet":
        raise CheckpointError(
            "is of solo-learn's ResNet for CIFAR, which pads its first convolution by 2 pixels; no "
            "backbone here does, so its features would differ; train it for larger images"
        )


def _heads(contents: Contents, found: Sorted, asked: Asked) -> Literal["moco", "timm", ""]:
    """Say whose number of heads the layout's vision transformers have, "" where it is not sure."""
    tensors = found.part("backbone")
    match found.layout.kind:
        case "official-v3":
            # SSL4EO-S12 trained satellite images with this code and 6 heads
            first = tensors.get("patch_embed.proj.weight")
            return "moco" if first is None or first.shape[1:2] == (3,) else ""
        case "official-linear" if contents.architecture.startswith("vit_"):
            return "moco"
        case "mmselfsup" if found.part("head"):
            return "moco"
        case "solo-learn" if found.part("predictor") and has_fixed_positions(tensors):
            return "moco"
        case "torchgeo" if asked.kind == "torchgeo":
            return "timm"
    return ""


def _on_no_device(spec: EncoderSpec, views: ViewsSpec) -> nn.Module:
    """Return the backbone without memory for its weights.

    Raises:
        UsageError: There is no such backbone.
    """
    with torch.device("meta"), torch.random.fork_rng(devices=[]):
        return build_backbone(spec, views.image_size, views.channels)


def _settle_heads(
    found: Sorted, spec: EncoderSpec, features: int
) -> tuple[EncoderSpec, tuple[str, ...]]:
    """Return the spec with the file's head and predictor, and what a person should know of them.

    Raises:
        CheckpointError: An official head or predictor is not whole.
    """
    with_all, notes = spec, []
    parts: tuple[tuple[PartName, str], ...] = (
        ("head", "head"),
        ("key_head", "head"),
        ("predictor", "predictor"),
    )
    for part, title in parts:
        is_key = part == "key_head" and found.layout.is_official and found.part("head")
        if not found.part(part) and not (is_key and found.part("key_backbone")):
            continue
        try:
            if part == "predictor":
                asked = with_predictor(with_all, found.part(part))
            else:
                found.tensors[part] = plain_linear(found.part(part))
                asked = with_head(with_all, found.part("head"), features)
            build = build_predictor if part == "predictor" else build_head
            with torch.device("meta"), torch.random.fork_rng(devices=[]):
                network = build(asked, features)
            found.check(part, cast(nn.Module, network), title)
        except (CheckpointError, UsageError):
            if found.layout.is_official:
                raise
            found.leave_out(part)
            notes.append(f"its {part.replace('_', ' ')} is none that this library has: left out")
            continue
        with_all = asked
    return with_all, tuple(notes)


def _queue(
    contents: Contents, found: Sorted, spec: EncoderSpec
) -> tuple[Tensor | None, int, list[str]]:
    """Return the queue, its next slot and the names of both.

    Raises:
        CheckpointError: An official queue is of another embedding size.
    """
    layout = found.layout
    queue, slot = (contents.tensors.get(name) for name in (layout.queue, layout.queue_next))
    if queue is None:
        if slot is not None:
            found.ignored.append(layout.queue_next)
        return None, 0, []
    names = [layout.queue, *([layout.queue_next] if slot is not None else [])]
    keys = our_queue(queue, spec.dim) if found.part("head") else None
    if keys is None:
        if layout.is_official and found.part("head"):
            name, shape = *contents.raw([layout.queue]), list(queue.shape)
            raise CheckpointError(f"has {name} of shape {shape}, and its head gives {spec.dim}")
        found.ignored += names
        return None, 0, []
    following = int(slot.flatten()[0]) if slot is not None and slot.numel() else 0
    return keys, following % len(keys) if len(keys) else 0, names
