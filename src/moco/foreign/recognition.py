"""Whose layout a file has, by the names in it."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from torch import Tensor

from moco.errors import CheckpointError
from moco.foreign import layouts
from moco.foreign.layouts import Layout
from moco.foreign.own_files import NOTE
from moco.foreign.parts import in_words
from moco.foreign.weights import Kind
from moco.inert.reading import NOTES, read_inert
from moco.library_models import WRAPPERS

DATA_PARALLEL = "module."
"""Before every name, where a network was saved inside torch's wrapper for several devices."""


@dataclass(frozen=True)
class Contents:
    """What lies in a file: tensors by name, and what stands beside them."""

    tensors: dict[str, Tensor]
    """Without the wrapper's prefix."""
    wrapper: str
    beside: Mapping[str, Any]
    """The file's other entries."""
    notes: Mapping[str, str]
    """Of a safetensors file."""

    @property
    def is_own(self) -> bool:
        """Whether `moco import` wrote it."""
        return NOTE in self.notes

    @property
    def epoch(self) -> int | None:
        """How many epochs were done: that is what every project here stores as its epoch."""
        epoch = self.beside.get("epoch", self.beside.get("meta", {}).get("epoch"))
        return epoch if isinstance(epoch, int) and epoch >= 0 else None

    @property
    def optimizer(self) -> dict[str, Any] | None:
        """The optimizer's state, as it lies there."""
        state = self.beside.get("optimizer")
        return state if isinstance(state, dict) else None

    @property
    def architecture(self) -> str:
        """What an official script was told to build, "" where it is not said."""
        name = self.beside.get("arch")
        return name if isinstance(name, str) else ""

    def raw(self, names: Iterable[str]) -> tuple[str, ...]:
        """Return the names as the file has them."""
        return tuple(self.wrapper + name for name in names)


def open_contents(path: Path) -> Contents:
    """Return what lies in a file.

    Raises:
        OSError: It cannot be opened.
        ValueError: It is no file of weights, or asks for code.
    """
    values = read_inert(path)
    notes = values.pop(NOTES, {})
    state, beside = _vissl_state(values) or _inner_state(values)
    tensors = {str(name): value for name, value in state.items() if isinstance(value, Tensor)}
    wrapped = bool(tensors) and all(name.startswith(DATA_PARALLEL) for name in tensors)
    wrapper = DATA_PARALLEL if wrapped else ""
    tensors = {name.removeprefix(wrapper): value for name, value in tensors.items()}
    return Contents(tensors, wrapper, beside, notes)


def _inner_state(values: Mapping[str, Any]) -> tuple[Mapping[str, Any], Mapping[str, Any]]:
    for name in WRAPPERS:
        inner = values.get(name)
        if isinstance(inner, dict) and inner:
            beside = {other: value for other, value in values.items() if other != name}
            deeper, _ = _inner_state(inner)
            return deeper, beside
    return values, {}


def _vissl_state(values: Mapping[str, Any]) -> tuple[dict[str, Any], Mapping[str, Any]] | None:
    """Return VISSL's tensors, which lie in dictionaries, under names with dots."""
    state = values.get("classy_state_dict")
    if not isinstance(state, dict):
        return None
    found: dict[str, Any] = {}
    model = state.get("base_model")
    model = model.get("model") if isinstance(model, dict) else None
    places = {"loss": state.get("loss")}
    if isinstance(model, dict):
        places |= {"trunk": model.get("trunk"), "heads": model.get("heads")}
    for place, tensors in places.items():
        if isinstance(tensors, dict):
            found |= {f"{place}.{name}": value for name, value in tensors.items()}
    return found, {}


def recognise(contents: Contents, kind: Kind | None, *, is_named: bool) -> Layout:
    """Return the layout of a file.

    Args:
        kind: whose layout it is taken for, None for that which its names show.
        is_named: the backbone is told, so that a file of unknown names may be timm's.

    Raises:
        CheckpointError: Its names are none's.
    """
    if contents.is_own and kind in (None, "moco"):
        return layouts.OWN
    shown = _shown(contents)
    if kind is None and shown is not None:
        return shown
    if kind == "moco":
        raise CheckpointError("is no file that moco import --out wrote; leave --from out")
    if kind is not None:
        known = [layout for _, layout in layouts.MARKS if layout.kind == kind]
        fitting = [layout for layout in known if layout == shown]
        return (fitting or known)[0]
    if any(name.startswith("encoder.backbone.") for name in contents.tensors):
        raise CheckpointError("is one file of a checkpoint of moco; name its directory")
    if is_named and contents.tensors:
        return layouts.TIMM
    raise CheckpointError(
        f"has none of the layouts that are known here; its tensors: "
        f"{in_words(list(contents.tensors)) or 'none'}; add --from KIND and --backbone NAME if it "
        "is one"
    )


def _shown(contents: Contents) -> Layout | None:
    """Return the layout that the names show, None for none."""
    names = contents.tensors
    fitting = (
        layout
        for marks, layout in layouts.MARKS
        if marks and any(name.startswith(marks) for name in names)
    )
    layout = next(fitting, None)
    if layout not in (layouts.TORCHVISION, layouts.TIMM):
        return layout
    if contents.wrapper and "best_acc1" in contents.beside:
        return layouts.OFFICIAL_LINEAR
    first = names.get("conv1.weight", names.get("patch_embed.proj.weight"))
    many = first is not None and first.ndim == 4 and first.shape[1] not in (1, 3)
    return layouts.TORCHGEO if many else layout
