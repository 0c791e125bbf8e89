"""`--to safetensors`: the backbone's tensors under their own names, which timm's networks have."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import safetensors
import torch
from safetensors.torch import save_file
from torch import Tensor

from moco.checkpoint_reading import read_weights
from moco.encoders import build_backbone
from moco.export.check import Check, compare_features, forward_of
from moco.export.formats import Format
from moco.export.resnet_shape import resnet_shape
from moco.export.source import ExportSource
from moco.export.timm_names import timm_arguments, timm_name
from moco.export.torchvision_format import building_lines
from moco.export.torchvision_format import refusal as not_in_torchvision
from moco.foreign.own_files import network_note
from moco.specs import EncoderSpec

FILE = "model.safetensors"


def write_tensors(
    path: Path, state: dict[str, Tensor], notes: Mapping[str, str] | None = None
) -> None:
    """Write tensors by name, marked as PyTorch's, which transformers asks for."""
    tensors = {name: value.contiguous() for name, value in state.items()}
    save_file(tensors, path, {"format": "pt", **(notes or {})})


def refusal(_source: ExportSource) -> str:
    """Say nothing: it holds any backbone."""
    return ""


def write(source: ExportSource, folder: Path) -> None:
    """Write the tensors."""
    note = network_note(source.encoder, source.views)
    write_tensors(folder / FILE, source.state, note)


def check(source: ExportSource, folder: Path) -> Check:
    """Load them into the network of the same settings and compare features."""
    with torch.random.fork_rng(devices=[]):
        views = source.views
        network = build_backbone(source.encoder, views.image_size, views.channels)
    network.load_state_dict(read_weights(folder / FILE))
    by = f"safetensors {safetensors.__version__}"
    return compare_features(source, forward_of(network), by)


def snippet(source: ExportSource) -> str:
    """Return Python that loads the file, by torchvision or timm where they have the network."""
    shape = resnet_shape(source.backbone)
    if shape is not None and not not_in_torchvision(source):
        imports, building = ["torch", "torchvision"], building_lines(shape)
    elif name := timm_name(source):
        given = "".join(f", {key}={value!r}" for key, value in timm_arguments(source).items())
        imports, building = ["timm"], [f'model = timm.create_model("{name}", num_classes=0{given})']
    else:
        imports, building = [], _own_building(source)
    return "\n".join(
        [
            *(f"import {name}" for name in imports),
            "from safetensors.torch import load_file",
            "",
            *building,
            f'model.load_state_dict(load_file("{FILE}"))',
            "model.eval()",
        ]
    )


def _own_building(source: ExportSource) -> list[str]:
    fields = ("backbone", "stem", "width", "stage_blocks")
    told = {name: getattr(source.encoder, name) for name in fields}
    given = ", ".join(
        f"{name}={value!r}" for name, value in told.items() if value != getattr(EncoderSpec(), name)
    )
    views = source.views
    return [
        "from moco.encoders import build_backbone",
        "from moco.specs import EncoderSpec",
        "",
        f"model = build_backbone(EncoderSpec({given}), {views.image_size}, {views.channels})",
    ]


SAFETENSORS = Format("safetensors", "safetensors", refusal, write, check, snippet)
