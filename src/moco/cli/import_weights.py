"""`moco import`."""

from __future__ import annotations

import argparse
import os
from pathlib import Path

import torch

from moco.cli.json_file import check_json_path, write_json
from moco.cli.output import say
from moco.encoders import build_backbone, feature_count
from moco.errors import UsageError
from moco.foreign import ForeignWeights, read_foreign
from moco.foreign.own_files import write_weights

SUFFIX = ".safetensors"
MOST_SHOWN = 3


def run(arguments: argparse.Namespace) -> int:
    """Say what a file is, and write it where that is asked."""
    check_json_path(arguments.json)
    if arguments.out is not None:
        _check_out(arguments.out, overwrite=arguments.overwrite)
    elif arguments.overwrite:
        raise UsageError("--overwrite needs --out, which names the file")
    weights = read_foreign(
        arguments.file, kind=arguments.kind, backbone=arguments.backbone, stem=arguments.stem
    )
    with torch.device("meta"):
        spec, views = weights.encoder, weights.views
        features = feature_count(build_backbone(spec, views.image_size, views.channels))
    if arguments.out is not None:
        write_weights(arguments.out, weights)
    for line in _lines(arguments.file, weights, features):
        say(line)
    if arguments.out is not None:
        say(f"written: {arguments.out}")
    write_json(arguments.json, _figures(arguments.file, arguments.out, weights, features))
    return 0


def _check_out(out: Path, *, overwrite: bool) -> None:
    """Refuse a file that must not or cannot be written, before the work.

    Raises:
        UsageError: It has another ending, or is there already.
        StorageError: Its folder is not writable.
    """
    if out.suffix.lower() != SUFFIX:
        raise UsageError(f"--out {out} must end in {SUFFIX}")
    if os.path.lexists(out) and not overwrite:
        raise UsageError(f"{out} is there already; name another --out, or add --overwrite")
    check_json_path(out, "--out")


def _lines(file: Path, weights: ForeignWeights, features: int) -> list[str]:
    """Return what a person is told."""
    done = "" if weights.epoch is None else f", after {weights.epoch} epochs"
    lines = [f"{file}: {weights.about}{done}"]
    rows = [
        ("backbone", f"{_network_in_words(weights)}, {features:,} features", weights.backbone),
        ("head", _head_in_words(weights), weights.head),
        ("predictor", weights.encoder.predictor, weights.predictor),
        ("key encoder", "as the query encoder", {**weights.key_backbone, **weights.key_head}),
    ]
    lines += [
        f"  {title:<12} {words:<52} {len(tensors):>4} tensors"
        for title, words, tensors in rows
        if tensors
    ]
    if weights.queue is not None:
        size, dim = weights.queue.shape
        lines.append(f"  {'queue':<12} {size:,} keys of {dim}, the next at {weights.queue_next:,}")
    for title in ("used", "ignored", "missing"):
        names = getattr(weights, title)
        shown = ", ".join(names[:MOST_SHOWN]) + (", ..." if len(names) > MOST_SHOWN else "")
        what = f"{len(names):>4} {shown}" if title != "used" else f"{len(names):>4}"
        lines.append(f"  {title:<12} {what}")
    return [*lines, *(f"  note: {note}" for note in weights.notes)]


def _network_in_words(weights: ForeignWeights) -> str:
    spec = weights.encoder
    width = "" if spec.width == 1 else f", {spec.width:g} times as wide"
    blocks = f", stages of {list(spec.stage_blocks)} blocks" if spec.stage_blocks else ""
    stem = "" if spec.stem == "imagenet" else f", {spec.stem} stem"
    return f"{spec.backbone}{width}{blocks}{stem}, {weights.channels} channels"


def _head_in_words(weights: ForeignWeights) -> str:
    spec = weights.encoder
    layers = f" of {spec.head_layers} layers" if spec.head == "mlp_bn" else ""
    return f"{spec.head}{layers} to {spec.dim}"


def _figures(
    file: Path, out: Path | None, weights: ForeignWeights, features: int
) -> dict[str, object]:
    spec = weights.encoder
    return {
        "file": str(file),
        "kind": weights.kind,
        "about": weights.about,
        "backbone": spec.backbone,
        "width": spec.width,
        "stem": spec.stem,
        "channels": weights.channels,
        "features": features,
        "head": spec.head if weights.head else "none",
        "predictor": spec.predictor if weights.predictor else "none",
        "dim": spec.dim if weights.head else 0,
        "key_encoder": bool(weights.key_backbone),
        "queue": 0 if weights.queue is None else len(weights.queue),
        "epoch": weights.epoch,
        "used": list(weights.used),
        "ignored": list(weights.ignored),
        "missing": list(weights.missing),
        "notes": list(weights.notes),
        "out": None if out is None else str(out),
    }
