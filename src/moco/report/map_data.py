"""A map of images as a page's script reads it: packed numbers, names, pictures.

Letters: N images, k neighbours.
"""

from __future__ import annotations

import base64
import json
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from moco.data_tools.reading import Report
from moco.report.browser_page import bytes_block, data_block, visible
from moco.report.mapped_images import MappedImages
from moco.report.thumbnails import make_sprites

MOST_BYTES = 13_500_000
"""Of all that a map brings to its page."""
MOST_NAME_BYTES, MOST_CLASS_BYTES = 2_500_000, 500_000
NAME_LENGTHS = (200, 120, 80, 60, 40, 28, 20, 14)
"""Letters of a name; the longest that all fit with are kept."""
PICTURE_BYTES, FEWEST_PICTURE_BYTES = 1500, 16
"""Of each picture: 64 pixels or so; a page is to be sent on."""
FEW_PICTURES_BYTES = 1_000_000
"""Of all where they are so few that each may be larger."""
STEPS = 65535
"""Places and cosines are told in so many steps, a tenth of a pixel or 0.00003; rows and classes in
two bytes, so this is also the most of either."""


@dataclass(frozen=True)
class Classes:
    """What the labels of images are, the most frequent first."""

    names: tuple[str, ...]
    counts: tuple[int, ...]
    of: tuple[int, ...]
    """[N] which each image has; empty without labels."""


def classes_of(labels: Sequence[str]) -> Classes:
    """Return the classes of images; of equally frequent ones the first by name comes first."""
    counted = sorted(Counter(labels).items(), key=lambda item: (-item[1], item[0]))
    place = {name: number for number, (name, _) in enumerate(counted)}
    return Classes(
        tuple(name for name, _ in counted),
        tuple(count for _, count in counted),
        tuple(place[label] for label in labels),
    )


def unit_places(places: Tensor) -> NDArray[np.float64]:
    """Return places [N, 2] from 0 to 1, both axes to one scale, the middle at 1/2."""
    low, high = places.min(dim=0).values, places.max(dim=0).values
    span = float((high - low).max()) or 1.0
    unit: NDArray[np.float64] = ((places - (low + high) / 2) / span + 0.5).numpy()
    return unit


def map_blocks(
    mapped: MappedImages,
    classes: Classes,
    *,
    colours: int,
    workers: int = 0,
    report: Report | None = None,
) -> str:
    """Return the inert elements that a map's script reads, `MOST_BYTES` at most.

    Args:
        colours: how many classes have one.
        report: called with (pictures made, pictures in all).

    Raises:
        UsageError: Pictures of so many images do not fit.
    """
    count = len(mapped.images)
    named = encoded_names([mapped.images.name(row) for row in range(count)])
    kinds = _shortened(classes.names, MOST_CLASS_BYTES, "\n".join)
    blocks = [
        bytes_block("map-pca", _stepped(unit_places(mapped.plane.places))),
        bytes_block("map-near", mapped.trained.rows.numpy().astype(np.uint16)),
        bytes_block("map-cosines", _stepped((mapped.trained.similarities.numpy() + 1) / 2)),
        bytes_block("map-near-before", mapped.untrained.rows.numpy().astype(np.uint16)),
        bytes_block("map-classes", np.array(classes.of, np.uint16)),
        bytes_block("map-shared", np.array(named.shared, np.uint8)),
        data_block("map-names", named.rest),
    ]
    if mapped.tsne is not None:
        blocks.append(bytes_block("map-tsne", _stepped(unit_places(mapped.tsne))))
    left = MOST_BYTES - sum(map(len, blocks)) - len(json.dumps(kinds))
    wanted = max(FEW_PICTURES_BYTES, PICTURE_BYTES * count)
    sprites = make_sprites(
        mapped.images,
        range(count),
        most_bytes=max(min(left, wanted), FEWEST_PICTURE_BYTES * count),
        workers=workers,
        report=report,
    )
    about: dict[str, Any] = {
        "images": count,
        "neighbours": mapped.trained.rows.shape[1],
        "classes": kinds,
        "colours": colours,
        "side": sprites.side,
        "columns": sprites.columns,
        "sheets": [base64.b64encode(sheet).decode() for sheet in sprites.sheets],
    }
    return "".join([*blocks, data_block("map-about", about)])


@dataclass(frozen=True)
class Names:
    """Names that follow one another: how many letters each shares with the one before, the rest."""

    shared: list[int]
    rest: str
    """A line each."""


def encoded_names(names: Sequence[str]) -> Names:
    """Return names on one line each; where all would take too much, without their middles."""
    return _front_coded(_shortened(names, MOST_NAME_BYTES, lambda short: _front_coded(short).rest))


def _shortened(
    names: Sequence[str], most_bytes: int, together: Callable[[Sequence[str]], str]
) -> list[str]:
    """Return names of the greatest length with which all `together` take at most `most_bytes`."""
    shown = [visible(name) for name in names]
    short = shown
    for length in NAME_LENGTHS:
        short = [_cut(name, length) for name in shown]
        if len(json.dumps(together(short))) <= most_bytes:
            break
    return short


def _cut(name: str, length: int) -> str:
    if len(name) <= length:
        return name
    end = length * 2 // 3  # what tells names of one folder apart comes last
    return f"{name[: length - end - 1]}…{name[-end:]}"


def _front_coded(names: Sequence[str]) -> Names:
    shared, rest, before = [], [], ""
    for name in names:
        same = 0
        for one, other in zip(before, name, strict=False):
            # a script counts letters beyond the first 65,536 twice
            if one != other or ord(one) > STEPS:
                break
            same += 1
        shared.append(same)
        rest.append(name[same:])
        before = name
    return Names(shared, "\n".join(rest))


def _stepped(values: NDArray[Any]) -> NDArray[np.uint16]:
    """Return values from 0 to 1 as whole steps."""
    steps: NDArray[np.uint16] = np.rint(np.clip(values, 0, 1) * STEPS).astype(np.uint16)
    return steps
