"""Checkpoints: a directory a step, written aside, synced, renamed; verified before use.

    checkpoints/step_00001234/  model.safetensors   query encoder, key encoder, queue
                                train_state.pt      optimizer, step, random state
                                recipe.json         recipe, seed, what the images were
                                manifest.json       size and SHA-256 of each file, format version
    latest                      the newest one's name, a text file

Nothing else in the package writes pickled files; `checkpoint_reading` reads them.
"""

from __future__ import annotations

import errno
import hashlib
import io
import json
import os
import shutil
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import save_file
from torch import Tensor

from moco.checkpoint_reading import read_json, read_train_state, read_weights
from moco.errors import CheckpointError, StorageError, storage_remedy
from moco.plain_files import open_regular, through_no_link
from moco.recipe import Recipe
from moco.recipe_files import recipe_from_dict, recipe_to_dict

FORMAT_VERSION = 1
SPARE_BYTES = 1 << 20
"""Of small files and what the file system keeps about them."""
KEPT = 2
"""How many checkpoints stay: the newest, and one to fall back to."""


class NewerFormatError(CheckpointError):
    """A later release wrote the checkpoint: it is whole, and must not be passed over."""


@dataclass(frozen=True)
class Identity:
    """What must not change between a run and its continuation."""

    recipe: Recipe
    seed: int
    image_count: int
    image_fingerprint: str
    """SHA-256 over the images' names in order."""


@dataclass
class Checkpoint:
    """Everything that decides the next step."""

    step: int
    """Steps that are done."""
    model: dict[str, Tensor]
    """The contrast's state dict."""
    train_state: dict[str, Any]
    """Optimizer and random states, plain values and tensors only."""
    identity: Identity


def save_checkpoint(run: Path, checkpoint: Checkpoint) -> Path:
    """Write the checkpoint under `run`, point `latest` at it, drop the oldest; return its path.

    Raises:
        StorageError: It could not be written; earlier checkpoints are untouched.
    """
    folder = run / "checkpoints"
    name = f"step_{checkpoint.step:08d}"
    aside, before = (folder / f".tmp-{name}-{kind}{os.getpid()}" for kind in ("", "old-"))
    try:
        folder.mkdir(exist_ok=True)  # the run directory is there, or it was taken away
        shutil.rmtree(aside, ignore_errors=True)
        aside.mkdir()
        _write_files(aside, checkpoint)
        if (folder / name).exists():  # a finished run that was extended, or a broken one redone
            os.rename(folder / name, before)
        os.rename(aside, folder / name)
        _sync(folder)
        _write_synced(run / ".latest.tmp", name.encode())
        os.replace(run / ".latest.tmp", run / "latest")
        _sync(run)
    except (OSError, SafetensorError) as error:
        shutil.rmtree(aside, ignore_errors=True)
        reason = getattr(error, "strerror", None) or str(error)
        raise StorageError(
            f"cannot write checkpoint {folder / name}: {reason}; {storage_remedy(error)}, then "
            "the same command goes on from the last one"
        ) from error
    _rotate(folder, name)
    return folder / name


def load_newest(run: Path, *, named: list[str] | None = None) -> Checkpoint | None:
    """Return the newest checkpoint of a run that verifies, or None when it has no checkpoint.

    Args:
        named: receives a line for each newer checkpoint that is damaged.

    Raises:
        CheckpointError: There are checkpoints, and none verifies.
    """
    folders = sorted((run / "checkpoints").glob("step_*"), reverse=True)
    problems: list[str] = []
    for folder in folders:
        try:
            checkpoint = load_checkpoint(folder)
        except NewerFormatError:
            raise
        except CheckpointError as error:
            problems.append(str(error))
            continue
        if named is not None:
            named.extend(problems)
        return checkpoint
    if problems:
        raise CheckpointError(
            f"no checkpoint of {run} can be used: {problems[0]}; restore it from a copy, or start "
            "again with --resume never"
        )
    return None


def load_checkpoint(folder: Path) -> Checkpoint:
    """Return one checkpoint directory's content, verified against its manifest.

    Raises:
        CheckpointError: A file is missing, damaged, or of a newer format.
    """
    verify(folder)
    try:
        about = read_json(folder / "recipe.json")
        identity = Identity(
            recipe_from_dict(about["recipe"]),
            int(about["seed"]),
            int(about["image_count"]),
            str(about["image_fingerprint"]),
        )
        train_state = read_train_state(folder / "train_state.pt")
        model = read_weights(folder / "model.safetensors")
        step = int(train_state["step"])
        if step < 0:
            raise ValueError(f"train_state.pt: its step is {step}")
        return Checkpoint(step, model, train_state, identity)
    except Exception as error:  # whatever a file holds, it is the file that is wrong
        raise CheckpointError(f"checkpoint {folder} cannot be read: {error}") from error


def verify(folder: Path) -> None:
    """Check every file of a checkpoint directory against the manifest.

    Raises:
        CheckpointError: The first file that does not match, by name.
    """
    try:
        manifest = read_json(folder / "manifest.json")
        version, files = int(manifest["format_version"]), dict(manifest["files"])
        expected = {str(name): (entry["sha256"], entry["bytes"]) for name, entry in files.items()}
    except (OSError, ValueError, KeyError, TypeError, OverflowError) as error:
        raise CheckpointError(f"checkpoint {folder} has no readable manifest.json") from error
    if version > FORMAT_VERSION:
        raise NewerFormatError(
            f"checkpoint {folder} has format {version!s:.20}; update moco to read it"
        )
    if odd := [name for name in expected if "/" in name or "\\" in name]:
        raise CheckpointError(f"checkpoint {folder} lists {odd[0]:.80}, which is not beside it")
    for name in ("model.safetensors", "train_state.pt", "recipe.json"):
        if name not in expected:
            raise CheckpointError(f"checkpoint {folder} lists no {name}")
        path = folder / name
        digest, size = expected[name]
        try:
            intact = path.stat().st_size == size and _sha256(path) == digest
        except OSError as error:
            raise CheckpointError(
                f"checkpoint file {path} cannot be read: {error.strerror}"
            ) from error
        if not intact:
            raise CheckpointError(
                f"checkpoint file {path} is damaged: it does not match its checksum"
            )


def image_fingerprint(names: list[str]) -> str:
    """Return a SHA-256 over image names in order: which images, not their pixels."""
    return hashlib.sha256("\0".join(names).encode("utf-8", "surrogateescape")).hexdigest()


def _write_files(folder: Path, checkpoint: Checkpoint) -> None:
    about = {
        "recipe": recipe_to_dict(checkpoint.identity.recipe),
        "seed": checkpoint.identity.seed,
        "image_count": checkpoint.identity.image_count,
        "image_fingerprint": checkpoint.identity.image_fingerprint,
    }
    model = {name: value.detach().contiguous() for name, value in checkpoint.model.items()}
    train_state = io.BytesIO()  # torch's own writer hides why a disk refuses
    torch.save({**checkpoint.train_state, "step": checkpoint.step}, train_state)
    _check_room(folder, train_state.tell() + sum(value.nbytes for value in model.values()))
    save_file(model, folder / "model.safetensors")
    (folder / "train_state.pt").write_bytes(train_state.getbuffer())
    (folder / "recipe.json").write_text(json.dumps(about, indent=1), encoding="utf-8")
    files = {
        path.name: {"sha256": _sha256(path), "bytes": path.stat().st_size}
        for path in sorted(folder.iterdir())
    }
    manifest = {"format_version": FORMAT_VERSION, "step": checkpoint.step, "files": files}
    (folder / "manifest.json").write_text(json.dumps(manifest, indent=1), encoding="utf-8")
    for path in folder.iterdir():
        _sync(path)
    _sync(folder)


def _check_room(folder: Path, size: int) -> None:
    """Refuse to begin what the disk has no room for, with the figures that a full disk leaves out.

    Raises:
        OSError: ENOSPC.
    """
    needed, free = size + SPARE_BYTES, shutil.disk_usage(folder).free
    if free < needed:
        figures = f"{needed / 1e6:,.0f} MB are needed and {free / 1e6:,.0f} MB are free"
        raise OSError(errno.ENOSPC, f"{os.strerror(errno.ENOSPC)}: {figures}")


def _rotate(folder: Path, newest: str) -> None:
    """Keep the newest and what verifies before it, `KEPT` in all; drop what killed writers left."""
    for stale in folder.glob(".tmp-*"):
        shutil.rmtree(stale, ignore_errors=True)
    kept = 1
    for other in sorted(folder.glob("step_*"), reverse=True):
        if other.name == newest:
            continue
        if other.name < newest and kept < KEPT and _verifies(other):
            kept += 1
        else:
            shutil.rmtree(other, ignore_errors=True)


def _verifies(folder: Path) -> bool:
    try:
        verify(folder)
    except CheckpointError:
        return False
    return True


def _sha256(path: Path) -> str:
    with open_regular(path) as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _write_synced(path: Path, content: bytes) -> None:
    with open(path, "wb", opener=through_no_link) as file:
        file.write(content)
        file.flush()
        os.fsync(file.fileno())


def _sync(path: Path) -> None:
    if os.name == "nt" and path.is_dir():
        return  # Windows cannot sync a directory
    handle = os.open(path, os.O_RDONLY if path.is_dir() else os.O_RDWR)  # Windows syncs no reader
    try:
        os.fsync(handle)
    finally:
        os.close(handle)
