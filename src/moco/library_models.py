"""Backbones of timm and torchvision as they are, with weights from a file or random ones.

Nothing is downloaded. Images are seen as the library says of the model: size, mean and deviation;
they are resized as everywhere here, bilinearly, whatever filter the library names.
"""

from __future__ import annotations

import difflib
import warnings
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, cast

import timm
import torch
import torchvision
from timm.data.config import resolve_data_config
from torch import Tensor, nn

from moco.errors import CheckpointError, UsageError
from moco.inert.reading import NOTES, read_inert
from moco.specs import ViewsSpec

Library = Literal["timm", "torchvision"]
SEED = 0
"""Of random weights."""
WRAPPERS = ("state_dict_ema", "state_dict", "model_ema", "model", "model_state_dict")
"""Under these names training scripts keep a state dict beside other things."""
MOST_NAMED = 3


@dataclass(frozen=True)
class LibraryModel:
    """A backbone without its classifier, on the CPU in eval mode."""

    network: nn.Module
    """[N, channels, H, W] -> [N, D]."""
    views: ViewsSpec
    """How images are cut and normalized for it."""


def build_library_model(library: Library, name: str, weights: Path | None = None) -> LibraryModel:
    """Return a model of timm or torchvision.

    Args:
        name: as the library has it; a timm name may have a tag, which decides mean and size.
        weights: a state dict as .safetensors, or as `torch.save` wrote it; the classifier's weights
            are left out. None for random weights, the same each time.

    Raises:
        UsageError: The library has no such model.
        CheckpointError: The file cannot be read, or is of another model.
    """
    with torch.random.fork_rng(devices=[]), warnings.catch_warnings():
        warnings.simplefilter("ignore")  # on how later releases will draw random weights
        torch.manual_seed(SEED)
        build = _timm_model if library == "timm" else _torchvision_model
        network, views, classifier = build(name)
    if weights is not None:
        _load(network, weights, classifier, f"{library} {name}")
    return LibraryModel(network.eval(), views)


def near_names(name: str) -> list[str]:
    """Return the words, timm:NAME or torchvision:NAME, whose names are nearest to one."""
    known: dict[Library, list[str]] = {"timm": timm.list_models(), "torchvision": _classifiers()}
    return [
        f"{library}:{near}"
        for library, names in known.items()
        for near in difflib.get_close_matches(name.lower(), names, n=1, cutoff=0.8)
    ]


def _timm_model(name: str) -> tuple[nn.Module, ViewsSpec, tuple[str, ...]]:
    _check_name("timm", name.partition(".")[0], timm.list_models())
    try:
        model: Any = timm.create_model(name, pretrained=False, num_classes=0)
    except RuntimeError as error:  # an unknown tag
        raise UsageError(f"timm:{name}: {error}; leave out what is behind the dot") from error
    found: Any = resolve_data_config({}, model=model)  # type: ignore[no-untyped-call]
    size = int(found["input_size"][-1])
    views = _views(size, int(size / found["crop_pct"]), found["mean"], found["std"])
    classifier = model.pretrained_cfg.get("classifier") or ()
    return model, views, (classifier,) if isinstance(classifier, str) else tuple(classifier)


def _torchvision_model(name: str) -> tuple[nn.Module, ViewsSpec, tuple[str, ...]]:
    _check_name("torchvision", name, _classifiers())
    model = cast(nn.Module, torchvision.models.get_model(name, weights=None))
    own_size = getattr(model, "image_size", None)  # of models that take one size only
    kinds = torchvision.models.get_model_weights(name)
    looks = [kind.transforms() for kind in (kinds.DEFAULT, *kinds)]
    look = next((look for look in looks if look.crop_size[0] == own_size), looks[0])
    views = _views(look.crop_size[0], look.resize_size[0], look.mean, look.std)
    # what gives the classes comes last in each of them
    classifier = [
        path for path, layer in model.named_modules() if isinstance(layer, nn.Linear | nn.Conv2d)
    ][-1]
    parent, _, child = classifier.rpartition(".")
    setattr(model.get_submodule(parent), child, nn.Identity())
    return model, views, (classifier,)


def _classifiers() -> list[str]:
    return list(torchvision.models.list_models(module=torchvision.models))


def _check_name(library: Library, name: str, names: Sequence[str]) -> None:
    if name in names:
        return
    near = difflib.get_close_matches(name.lower(), names, n=3)
    hint = f"did you mean {', '.join(near)}?" if near else "its list_models() has the names"
    raise UsageError(f"{library} has no model '{name}'; {hint}")


def _views(size: int, resize: int, mean: Sequence[float], std: Sequence[float]) -> ViewsSpec:
    return ViewsSpec(
        image_size=size,
        evaluation_size=size,
        evaluation_resize=max(size, resize),
        channels=len(mean),
        mean=tuple(mean),
        std=tuple(std),
    )


def _load(network: nn.Module, file: Path, classifier: Sequence[str], title: str) -> None:
    """Load a file's weights but the classifier's.

    Raises:
        CheckpointError: It cannot be read, or its tensors are not those of the network.
    """
    try:
        state = _read(file)
    except (OSError, ValueError) as error:
        raise CheckpointError(
            f"weights {file} cannot be read ({_reason(error):.200}); name a state dict as "
            ".safetensors, or a .pth file that torch.save wrote of nothing else"
        ) from error
    own = network.state_dict()
    left_out = tuple(f"{name}." for name in classifier)
    given = {name: value for name, value in state.items() if not name.startswith(left_out)}
    for what, names in (
        ("has no", [name for name in own if name not in given]),
        ("has also", [name for name in given if name not in own]),
        (
            "has another shape of",
            [name for name in own if name in given and given[name].shape != own[name].shape],
        ),
    ):
        if names:
            more = f" and {len(names) - MOST_NAMED} more" if len(names) > MOST_NAMED else ""
            raise CheckpointError(
                f"weights {file} are not of {title}: the file {what} "
                f"{', '.join(f'{name:.80}' for name in names[:MOST_NAMED])}{more}; name the model "
                "that it is of"
            )
    network.load_state_dict(given)


def _read(file: Path) -> dict[str, Tensor]:
    """Return the tensors of a state dict by name, out of what a training script put around it.

    Of any age: torchvision's own files of before 1.6 have torch's old layout.
    """
    state = read_inert(file)
    state.pop(NOTES, None)
    for name in WRAPPERS:
        inner = state.get(name)
        if isinstance(inner, dict):
            state = inner
    if odd := [name for name, value in state.items() if not isinstance(value, Tensor)]:
        raise ValueError(f"{file.name}: '{odd[0]!s:.80}' is no tensor")
    names = [str(name) for name in state]
    if names and all(name.startswith("module.") for name in names):  # of DistributedDataParallel
        return {name.removeprefix("module."): state[name] for name in names}
    return {str(name): value for name, value in state.items()}


def _reason(error: Exception) -> str:
    return str(getattr(error, "strerror", None) or error)
