"""Does the file give the same features? Compared with the network that was exported."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from moco.errors import MocoError
from moco.export.source import ExportSource

TOLERANCE = 1e-4
"""Share of the largest feature by which a feature may differ: other kernels round otherwise."""
MOST_NAMED = 3
Shapes = dict[str, tuple[int, ...]]
"""Of tensors, by name."""


class WrongExportError(MocoError):
    """What was written does not give the network's features, so it was removed (exit code 1)."""


@dataclass(frozen=True)
class Check:
    """How an export was checked."""

    by: str
    """The library and its version, or whose published names."""
    difference: float
    """The largest difference of a feature on random images."""
    largest: float
    """The largest feature, whatever its sign."""
    keys: int | None = None
    """How many names and shapes were compared, where the library is not installed."""

    @property
    def is_loaded(self) -> bool:
        """Whether the library itself loaded it."""
        return self.keys is None

    @property
    def words(self) -> str:
        """The same as a sentence."""
        features = (
            f"largest difference of a feature {self.difference:.2g} "
            f"(largest feature {self.largest:.2g})"
        )
        if self.is_loaded:
            return f"loaded by {self.by}: {features}"
        return (
            f"{self.keys} names and shapes are those that {self.by} publishes, which did not load "
            f"it here; in a network of ours with these names: {features}"
        )


@torch.no_grad()
def compare_features(
    source: ExportSource,
    features: Callable[[Tensor], Tensor],
    by: str,
    *,
    images: Iterable[Tensor] | None = None,
) -> Check:
    """Return how far another library's features are from the source's, on random images.

    Args:
        features: of images [N, channels, H, W], by what was written.
        by: the library and its version.
        images: batches to compare on; two images of the evaluation's size if none are given.

    Raises:
        WrongExportError: They differ by more than rounding, or are of another shape.
    """
    difference = largest = 0.0
    for batch in images or [source.images()]:
        ours = source.backbone(batch)
        theirs = features(batch)
        if theirs.shape != ours.shape:
            raise WrongExportError(
                f"loaded by {by}, the export gives features {list(theirs.shape)} and not "
                f"{list(ours.shape)}; nothing is kept of it"
            )
        differs, most = float((theirs - ours).abs().max()), float(ours.abs().max())
        if not differs <= TOLERANCE * most:  # so that NaN is refused, too
            raise WrongExportError(
                f"loaded by {by}, the export gives features that differ by {differs:.2g} where "
                f"the largest is {most:.2g}; nothing is kept of it"
            )
        difference, largest = max(difference, differs), max(largest, most)
    return Check(by, difference, largest)


def compare_names(written: Shapes, expected: Shapes, by: str) -> int:
    """Return how many names and shapes are those that a library asks for, and no others.

    Raises:
        WrongExportError: The first that are not.
    """
    wrong = [
        *(f"no {name}" for name in expected if name not in written),
        *(f"also {name}" for name in written if name not in expected),
        *(
            f"{name} of shape {list(written[name])}, not {list(expected[name])}"
            for name in expected
            if name in written and written[name] != expected[name]
        ),
    ]
    if wrong:
        raise WrongExportError(
            f"the export is not as {by} has it: {', '.join(wrong[:MOST_NAMED])}; nothing is kept "
            "of it"
        )
    return len(expected)


def without_library(keys: int, features: Check) -> Check:
    """Return a check of names, and of features in a network of ours that has these names."""
    return Check(features.by, features.difference, features.largest, keys)


def forward_of(network: nn.Module) -> Callable[[Tensor], Tensor]:
    """Return its forward in eval mode."""
    return network.eval()
