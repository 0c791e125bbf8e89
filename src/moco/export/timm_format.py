"""`--to timm`: a directory that `timm.create_model("local-dir:...", pretrained=True)` loads."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import timm
import torch

from moco.export.check import Check, compare_features, forward_of
from moco.export.formats import Format
from moco.export.safetensors_format import FILE, write_tensors
from moco.export.source import ExportSource
from moco.export.timm_names import VITS, timm_arguments, timm_name
from moco.foreign.own_files import network_note

CONFIG = "config.json"


def refusal(source: ExportSource) -> str:
    """Say why timm has no such network, "" where it has."""
    if timm_name(source):
        return ""
    return "timm builds no network with this first layer or width by name"


def write(source: ExportSource, folder: Path) -> None:
    """Write tensors and configuration."""
    write_tensors(folder / FILE, source.state, network_note(source.encoder, source.views))
    (folder / CONFIG).write_text(json.dumps(configuration(source), indent=2) + "\n")


def configuration(source: ExportSource) -> dict[str, Any]:
    """Return what timm reads: the network, its arguments, and how it looks at images."""
    views = source.views
    is_vit = source.encoder.backbone in VITS
    known = getattr(source.backbone, "pretrained_cfg", None) or {}
    first, classifier = known.get("first_conv"), known.get("classifier")
    if is_vit:
        first, classifier = "patch_embed.proj", "head"
    return {
        "architecture": timm_name(source),
        "num_classes": 0,
        "num_features": source.features,
        **({"model_args": timm_arguments(source)} if timm_arguments(source) else {}),
        "pretrained_cfg": {
            "num_classes": 0,
            "input_size": [views.channels, views.evaluation_size, views.evaluation_size],
            "fixed_input_size": is_vit or bool(known.get("fixed_input_size")),
            "interpolation": "bilinear",
            "crop_pct": views.evaluation_size / views.evaluation_resize,
            "crop_mode": "center",
            "mean": list(views.mean),
            "std": list(views.std),
            # timm would convert a first layer of other channels, from three that it has not
            "first_conv": first if views.channels == 3 else None,
            "classifier": classifier,
        },
    }


def check(source: ExportSource, folder: Path) -> Check:
    """Load the directory by timm and compare features."""
    with torch.random.fork_rng(devices=[]):
        network = timm.create_model(f"local-dir:{folder}", pretrained=True)
    return compare_features(source, forward_of(network), f"timm {timm.__version__}")


def snippet(_source: ExportSource) -> str:
    """Return Python that loads the directory."""
    return "\n".join(
        [
            "import timm",
            "",
            'model = timm.create_model("local-dir:.", pretrained=True)',
            "model.eval()",
        ]
    )


TIMM = Format("timm", "timm", refusal, write, check, snippet)
