"""A file's tensors by an encoder's parts, and checked against the networks that they are for."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

import torch
from torch import Tensor, nn

from moco.errors import CheckpointError
from moco.foreign.layouts import Layout, PartName, is_ignorable, part_of
from moco.foreign.spellings import ours, theirs

MOST_NAMED = 3
COUNTER = "num_batches_tracked"
"""Batch norm's, which nothing reads in training with a momentum, and old files lack."""
TRUNKS: tuple[PartName, ...] = ("backbone", "key_backbone")


@dataclass
class Sorted:
    """The tensors of each part under our names, and how the file calls each."""

    layout: Layout
    wrapper: str = ""
    """What stands before every name in the file."""
    tensors: dict[PartName, dict[str, Tensor]] = field(default_factory=dict)
    called: dict[PartName, dict[str, str]] = field(default_factory=dict)
    prefixes: dict[PartName, str] = field(default_factory=dict)
    unknown: list[str] = field(default_factory=list)
    """Names of no part."""
    ignored: list[str] = field(default_factory=list)
    missing: list[str] = field(default_factory=list)
    """Counters that `check` put 0 for."""

    def part(self, name: PartName) -> dict[str, Tensor]:
        """Return a part's tensors, {} where it is not there."""
        return self.tensors.get(name, {})

    def leave_out(self, name: PartName) -> bool:
        """Let a part's tensors count as ignored; say whether there were any."""
        self.tensors.pop(name, None)
        names = self.called.pop(name, {}).values()
        self.ignored += names
        return bool(names)

    def name_in_file(self, part: PartName, own: str) -> str:
        """Return how the file calls, or would call, a tensor of ours."""
        fragments = self.layout.fragments if part in TRUNKS else self.layout.head_fragments
        prefix = self.prefixes.get(part) or dict(self.layout.parts[::-1]).get(part, "")
        called = self.called.get(part, {}).get(own, prefix + theirs(own, fragments))
        return self.wrapper + called

    def check(self, part: PartName, network: nn.Module, title: str) -> None:
        """Hold a part to the network it is for, and turn its numbers into that network's types.

        Raises:
            CheckpointError: A tensor is missing, has another shape, or is none of the network's:
                by its name in the file.
        """
        held, own = self.part(part), network.state_dict()
        lacking = [name for name in own if name not in held]
        counters = [name for name in lacking if name.endswith(COUNTER)]
        shapes = [name for name in own if name in held and held[name].shape != own[name].shape]
        problems = [
            ("lacks", [self.name_in_file(part, name) for name in lacking if name not in counters]),
            ("has also", [self.name_in_file(part, name) for name in held if name not in own]),
            ("has", [self._shape_in_words(part, name, own[name]) for name in shapes]),
        ]
        if any(names for _, names in problems):
            found = "; it ".join(f"{what} {in_words(names)}" for what, names in problems if names)
            raise CheckpointError(f"is {self.layout.about}, and not a whole {title}: it {found}")
        for name in counters:
            held[name] = torch.zeros((), dtype=torch.long)
            self.missing.append(self.name_in_file(part, name))
        self.tensors[part] = {name: held[name].to(own[name].dtype) for name in own}

    def _shape_in_words(self, part: PartName, own: str, wanted: Tensor) -> str:
        shape, other = (list(of.shape) for of in (self.part(part)[own], wanted))
        return f"{self.name_in_file(part, own)} of shape {shape} in place of {other}"


def sort_tensors(tensors: Mapping[str, Tensor], layout: Layout, wrapper: str) -> Sorted:
    """Return a file's tensors by part.

    Args:
        wrapper: what stands before every name in the file.
    """
    found = Sorted(layout, wrapper)
    for name, value in tensors.items():
        place = part_of(name, layout)
        if name in (layout.queue, layout.queue_next):
            continue
        if is_ignorable(name, layout):
            found.ignored.append(name)
        elif place is None:
            found.unknown.append(name)
        else:
            part, prefix, inner = place
            own = ours(inner, layout.fragments if part in TRUNKS else layout.head_fragments)
            found.tensors.setdefault(part, {})[own] = value
            found.called.setdefault(part, {})[own] = name
            found.prefixes.setdefault(part, prefix)
    return found


def in_words(names: list[str]) -> str:
    """Return the first of many names, and how many more there are."""
    more = f" and {len(names) - MOST_NAMED} more" if len(names) > MOST_NAMED else ""
    return ", ".join(f"{name:.120}" for name in names[:MOST_NAMED]) + more
