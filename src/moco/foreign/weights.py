"""What `read_foreign` finds in a file.

Letters: C embedding size, K queue size.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any, Literal

from torch import Tensor

from moco.specs import EncoderSpec, ViewsSpec

Kind = Literal[
    "official-v1",
    "official-v2",
    "official-v3",
    "official-linear",
    "official-detection",
    "official-cifar",
    "lightly",
    "solo-learn",
    "mmselfsup",
    "mmpretrain",
    "vissl",
    "torchvision",
    "timm",
    "torchgeo",
    "moco",
]
"""Whose layout a file has."""


@dataclass(frozen=True, kw_only=True)
class ForeignWeights:
    """A file's weights under this library's names, and what became of each tensor in it.

    The backbone is whole: its tensors are those of `build_backbone(encoder, views.image_size,
    channels)`, name by name and shape by shape. The other parts are whole or {}.
    """

    kind: Kind
    """Whose layout it has."""
    about: str
    """The same in a person's words."""
    encoder: EncoderSpec
    """The backbone, and of head and predictor what the file tells: where `head` is {}, the fields
    of the head are those of a new recipe."""
    views: ViewsSpec
    """How images are looked at: their channels and size are the file's, and mean and deviation its
    authors', ImageNet's where nothing is known."""
    backbone: dict[str, Tensor]
    head: dict[str, Tensor] = field(default_factory=dict)
    """The projection head's, for `build_head`."""
    key_backbone: dict[str, Tensor] = field(default_factory=dict)
    """The key encoder's."""
    key_head: dict[str, Tensor] = field(default_factory=dict)
    predictor: dict[str, Tensor] = field(default_factory=dict)
    """What follows the head for queries alone (v3), for `build_predictor`."""
    queue: Tensor | None = None
    """[K, C], as `Queue.keys`."""
    queue_next: int = 0
    """The queue's next slot."""
    epoch: int | None = None
    """How many epochs were done, None where the file does not say."""
    optimizer: dict[str, Any] | None = None
    """An official checkpoint's optimizer state, as it lies there."""
    used: tuple[str, ...] = ()
    """Names in the file of tensors that are in one of the parts."""
    ignored: tuple[str, ...] = ()
    """Names of tensors that are known to be of no use here, such as a classifier's."""
    missing: tuple[str, ...] = ()
    """Names that the file would have but for its age: batch norm's counters, which are 0 then."""
    notes: tuple[str, ...] = ()
    """What a person should know before using it."""

    @property
    def channels(self) -> int:
        """Of the images."""
        return self.views.channels
