"""From the word that says where a run begins to what lies there."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass, replace
from pathlib import Path
from typing import cast

import torch
from torch import Tensor

from moco.checkpoint import Checkpoint, load_checkpoint, load_newest
from moco.errors import CheckpointError, UsageError
from moco.evaluation.finetune_files import ABOUT, WEIGHTS, load_finetuned_with_recipe
from moco.foreign.official_state import EXTRA, KEYS, NEXT_SLOT, from_official
from moco.foreign.reading import read_foreign
from moco.foreign.weights import ForeignWeights
from moco.inert.reading import read_inert
from moco.library_models import Library, build_library_model
from moco.plain_files import open_regular
from moco.specs import EncoderSpec, Stem, ViewsSpec
from moco.start.asked import StartAsked, StartKind

CONTINUED = ("official-v1", "official-v2", "official-v3", "moco")
"""Whose files may hold all that decides the next step."""
LIBRARIES = ("timm", "torchvision")
BACKBONE = "encoder.backbone."


@dataclass(frozen=True)
class Whole:
    """All that a checkpoint has which can be continued."""

    model: dict[str, Tensor]
    """Under the names of a contrast's state dict."""
    epoch: int
    """The next one to run, counted from 0."""
    optimizer: object
    """As the official layout has it, None where there is none."""
    checkpoint: Checkpoint | None = None
    """Of ours, where the file was made from it."""


@dataclass(frozen=True)
class Origin:
    """What lies where a run is to begin."""

    word: str
    kind: StartKind
    about: str
    """What it is, for people."""
    sha256: str
    """Of the file of weights."""
    encoder: EncoderSpec
    """The backbone's architecture; for `continue` that of the head and predictor too."""
    views: ViewsSpec
    """The channels, and for a transformer the size, of its images."""
    backbone: dict[str, Tensor]
    notes: tuple[str, ...] = ()
    whole: Whole | None = None
    """For `continue`."""


@dataclass(frozen=True)
class Hints:
    """What the user's recipe says of a network that a file's names and shapes leave open."""

    backbone: str | None = None
    stem: Stem | None = None


def find_origin(asked: StartAsked, hints: Hints) -> Origin:
    """Return what a word means.

    Args:
        hints: for a file that fits several networks.

    Raises:
        UsageError: There is no such model, or it cannot be begun with in the way that was asked.
        CheckpointError: The file or directory cannot be used.
    """
    library, colon, rest = asked.word.partition(":")
    if colon and library in LIBRARIES and not os.path.lexists(asked.word):
        found = _of_library(asked.word, cast(Library, library), rest)
    elif os.path.isdir(asked.word):
        found = _of_directory(asked.word)
    else:
        return _of_file(asked, hints)
    if asked.kind == "continue":
        raise UsageError(
            f"{asked.word} cannot be continued in a new run; --run goes on with a run of ours, and "
            "--from-as backbone begins with its backbone"
        )
    return found


def _of_library(word: str, library: Library, rest: str) -> Origin:
    name, _, file = rest.partition("@")
    if not name or not file:
        raise UsageError(f"'{word:.80}' names no file of weights; write {library}:resnet50@FILE")
    found = build_library_model(library, name, Path(file))
    encoder = EncoderSpec(backbone=name.partition(".")[0])
    about = f"{library}'s {name}"
    state = found.network.state_dict()
    return Origin(word, "backbone", about, _sha256(Path(file)), encoder, found.views, state)


def _of_directory(word: str) -> Origin:
    path, notes = Path(word), list[str]()
    if os.path.lexists(path / ABOUT):
        encoder, _, recipe = load_finetuned_with_recipe(word)
        return Origin(
            word,
            "backbone",
            f"a fine-tuned {recipe.encoder.backbone}",
            _sha256(path / WEIGHTS),
            recipe.encoder,
            recipe.views,
            encoder.backbone.state_dict(),
        )
    folder, checkpoint = _checkpoint_in(path, notes)
    recipe = checkpoint.identity.recipe
    return Origin(
        word,
        "backbone",
        f"step {checkpoint.step} of a run of {recipe.name}, {recipe.encoder.backbone}",
        _sha256(folder / "model.safetensors"),
        recipe.encoder,
        recipe.views,
        _under(BACKBONE, checkpoint.model),
        tuple(f"passed over: {line}" for line in notes),
    )


def _checkpoint_in(path: Path, notes: list[str]) -> tuple[Path, Checkpoint]:
    if os.path.lexists(path / "manifest.json"):
        return path, load_checkpoint(path)
    checkpoint = load_newest(path, named=notes)
    if checkpoint is None:
        raise CheckpointError(f"{path} holds no checkpoint; name a run, or a file of weights")
    return path / "checkpoints" / f"step_{checkpoint.step:08d}", checkpoint


def _of_file(asked: StartAsked, hints: Hints) -> Origin:
    path = Path(asked.word)
    if (own := _made_by_us(path, asked.kind)) is not None and own.checkpoint is not None:
        recipe = own.checkpoint.identity.recipe
        about = f"step {own.checkpoint.step} of a run of {recipe.name}, as an official checkpoint"
        origin = Origin(
            asked.word,
            asked.kind or "continue",
            f"{about}, {recipe.encoder.backbone}",
            _sha256(path),
            recipe.encoder,
            recipe.views,
            _under(BACKBONE, own.checkpoint.model),
            whole=own,
        )
        return origin if origin.kind == "continue" else replace(origin, whole=None)
    found = _read(path, hints)
    missing = parts_missing(found)
    if asked.kind == "continue" and missing:
        raise UsageError(
            f"{asked.word} cannot be continued: it is {found.about} without {missing}; begin with "
            "its backbone by --from-as backbone"
        )
    kind: StartKind = asked.kind or ("backbone" if missing else "continue")
    return Origin(
        asked.word,
        kind,
        f"{found.about}, {found.encoder.backbone}",
        _sha256(path),
        found.encoder,
        found.views,
        found.backbone,
        found.notes,
        whole_of(found) if kind == "continue" else None,
    )


def _read(path: Path, hints: Hints) -> ForeignWeights:
    """Read a file; what it leaves open is as the recipe has it, and nothing else is."""
    try:
        return read_foreign(path)
    except (UsageError, CheckpointError) as error:
        # a backbone's name says less than the file's shapes do: only if it must
        for backbone in dict.fromkeys((None, hints.backbone)):
            with suppress(UsageError, CheckpointError):
                return read_foreign(path, backbone=backbone, stem=hints.stem)
        if isinstance(error, CheckpointError):
            raise
        raise UsageError(
            f"{error}; here that is --set encoder.stem=STEM or --set encoder.backbone=NAME"
        ) from error


def parts_missing(found: ForeignWeights) -> str:
    """Return what a file lacks to be continued, "" for nothing: the official v1 to v3 have all."""
    needed = {"head": found.head, "key encoder": found.key_backbone, "key head": found.key_head}
    if found.kind == "official-v3":  # whose queue is the batch
        needed["predictor"] = found.predictor
    elif found.kind not in CONTINUED:
        return "a layout that says all that a step needs"
    elif found.queue is None and not found.predictor:
        needed["queue"] = {}
    lacking = [name for name, tensors in needed.items() if not tensors]
    return ", ".join(lacking) or ("an epoch" if found.epoch is None else "")


def whole_of(found: ForeignWeights) -> Whole:
    """Return all that a file has, which lacks no part."""
    parts = {
        BACKBONE: found.backbone,
        "encoder.head.": found.head,
        "key_encoder.backbone.": found.key_backbone,
        "key_encoder.head.": found.key_head,
        "predictor.": found.predictor,
    }
    model = {prefix + name: of for prefix, part in parts.items() for name, of in part.items()}
    if found.queue is not None:
        model |= {KEYS: found.queue, NEXT_SLOT: torch.tensor(found.queue_next)}
    return Whole(model, found.epoch or 0, found.optimizer)


def _made_by_us(path: Path, kind: StartKind | None) -> Whole | None:
    """Return the checkpoint of ours that an official file was made from, None for other files.

    Raises:
        CheckpointError: The file says that it was, and is damaged.
    """
    try:
        content = read_inert(path)
    except (OSError, ValueError):
        return None  # whoever reads it next says why
    if EXTRA not in content:
        return None
    try:
        checkpoint = from_official(content)
    except CheckpointError as error:
        if kind == "backbone":
            return None
        raise CheckpointError(
            f"{path} cannot be continued: {error}; begin with its backbone by --from-as backbone"
        ) from error
    optimizer = content.get("optimizer")
    return Whole(checkpoint.model, int(content["epoch"]), optimizer, checkpoint)


def _under(prefix: str, model: Mapping[str, Tensor]) -> dict[str, Tensor]:
    return {
        name.removeprefix(prefix): value for name, value in model.items() if name.startswith(prefix)
    }


def _sha256(path: Path) -> str:
    with open_regular(path) as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
