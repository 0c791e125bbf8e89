"""`--to official`: what the official scripts for linear evaluation and detection take."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from moco.checkpoint_reading import read_train_state
from moco.encoders import build_backbone
from moco.export.check import Check, WrongExportError, compare_features, forward_of
from moco.export.formats import Format
from moco.export.pickles import write_state_dict
from moco.export.resnet_shape import resnet_shape
from moco.export.source import ExportSource
from moco.export.torchvision_format import build_torchvision, library_version, torchvision_name
from moco.foreign.official_names import PREFIXES
from moco.foreign.official_state import to_official
from moco.vision_transformer import MOCO_V3_VITS

FILE = "checkpoint.pth.tar"


def refusal(source: ExportSource) -> str:
    """Say why the official scripts build no such network, "" where they do."""
    if source.views.channels != 3:
        return "the official scripts build networks for three colours"
    if source.encoder.backbone in MOCO_V3_VITS:
        is_usual = source.views.image_size == 224
        return "" if is_usual else "the official scripts build ViTs for images of 224 pixels"
    shape = resnet_shape(source.backbone)
    if shape is None or shape.stem != "imagenet" or not torchvision_name(shape):
        return "the official scripts build torchvision's networks by name, and v3's ViTs"
    return ""


def arch_of(source: ExportSource) -> str:
    """Return the official scripts' --arch."""
    if source.encoder.backbone in MOCO_V3_VITS:
        return source.encoder.backbone.removeprefix("moco_v3_")
    shape = resnet_shape(source.backbone)
    return "" if shape is None else torchvision_name(shape)


def prefix_of(source: ExportSource) -> str:
    """Return what is before each name: v3's for what v3 trains, else v1's and v2's."""
    recipe = source.recipe
    if recipe is not None and recipe.mechanism in PREFIXES:
        return PREFIXES[recipe.mechanism][0]
    is_vit = source.encoder.backbone in MOCO_V3_VITS
    return PREFIXES["in_batch" if is_vit else "queue"][0]


def classifier_of(source: ExportSource) -> str:
    """Return what the official networks call their last layer, whose place the head takes."""
    return "head" if source.encoder.backbone in MOCO_V3_VITS else "fc"


def is_whole(source: ExportSource) -> bool:
    """Say whether all of a run goes on from the file, not the query encoder alone."""
    recipe, checkpoint = source.recipe, source.checkpoint
    if recipe is None or checkpoint is None or recipe.mechanism not in PREFIXES:
        return False
    has_place = recipe.mechanism == "in_batch" or recipe.encoder.predictor == "none"
    return has_place and any(name.startswith("key_encoder.") for name in checkpoint.model)


def write(source: ExportSource, folder: Path) -> None:
    """Write a run whole where the official layout has a place for all of it.

    Of other methods and files: the query encoder with its head.
    """
    if source.checkpoint is not None and is_whole(source):
        write_state_dict(folder / FILE, to_official(source.checkpoint))
        return
    prefix, head = prefix_of(source), f"{classifier_of(source)}."
    state = {f"{prefix}{name}": value for name, value in source.state.items()}
    if source.head is not None:
        for name, value in source.head.state_dict().items():
            state[f"{prefix}{head}{name}"] = value.detach().clone()
    write_state_dict(folder / FILE, {"epoch": 0, "arch": arch_of(source), "state_dict": state})


def check(source: ExportSource, folder: Path) -> Check:
    """Load it as the official scripts do, and compare features."""
    content: Any = read_train_state(folder / FILE, of_modules=True)
    prefix, classifier = prefix_of(source), classifier_of(source)
    state: dict[str, Tensor] = {
        name.removeprefix(prefix): value
        for name, value in content["state_dict"].items()
        if name.startswith(prefix) and not name.startswith(prefix + classifier)
    }
    network = _network(source)
    found = network.load_state_dict(state, strict=False)
    if found.missing_keys or found.unexpected_keys:
        wrong = [*found.missing_keys, *found.unexpected_keys]
        raise WrongExportError(
            f"the official scripts would miss or not know {', '.join(wrong[:3])}; nothing is kept "
            "of it"
        )
    is_vit = source.encoder.backbone in MOCO_V3_VITS
    by = f"the official scripts' rules, {'a ViT of ours' if is_vit else library_version()}"
    return compare_features(source, forward_of(network), by)


def _network(source: ExportSource) -> nn.Module:
    """Return the network that the scripts build, without its classifier."""
    shape = resnet_shape(source.backbone)
    if shape is not None:
        return build_torchvision(shape)
    with torch.random.fork_rng(devices=[]):
        return build_backbone(source.encoder, source.views.image_size, source.views.channels)


def snippet(source: ExportSource) -> str:
    """Return Python that does what the scripts do."""
    prefix, classifier = prefix_of(source), classifier_of(source)
    if source.encoder.backbone in MOCO_V3_VITS:
        building = [
            "import vits  # of the official repository",
            "",
            f"model = vits.{arch_of(source)}()",
        ]
    else:
        building = ["import torchvision", "", f"model = torchvision.models.{arch_of(source)}()"]
    lines = [
        "import torch",
        *building,
        f'state = torch.load("{FILE}", weights_only=True)["state_dict"]',
        f'prefix, classifier = "{prefix}", "{prefix}{classifier}"',
        "kept = {",
        "    name[len(prefix) :]: value",
        "    for name, value in state.items()",
        "    if name.startswith(prefix) and not name.startswith(classifier)",
        "}",
        "missing = model.load_state_dict(kept, strict=False).missing_keys",
        f'assert set(missing) == {{"{classifier}.weight", "{classifier}.bias"}}',
        f"model.{classifier} = torch.nn.Identity()",
        "model.eval()",
    ]
    return "\n".join(lines)


OFFICIAL = Format("official", "pytorch", refusal, write, check, snippet)
