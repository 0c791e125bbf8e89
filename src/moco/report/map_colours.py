"""The colours of classes on a map, and the map as a still picture for where no script runs."""

from __future__ import annotations

import base64
import io
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from moco.report.map_data import Classes

CLASS_COLOURS = (
    *(("#1f5fc4", "#7fb0ff"), ("#c4460a", "#ff9a5c"), ("#11805a", "#57cfa2")),
    *(("#a23e8f", "#e79ad6"), ("#7a6200", "#dcc04e"), ("#1884a8", "#66c9ec")),
    *(("#6a4bc2", "#b8a2ff"), ("#b3261e", "#f58b82"), ("#4d7c0f", "#a3d65c")),
    *(("#be185d", "#ff7eb6"), ("#0f766e", "#4fd1c5"), ("#8a5a2b", "#d9a877")),
)
"""Of the most frequent classes, on light and on dark ground."""
OTHERS = ("#7d8794", "#8b95a3")
"""Of all other classes, and of images without labels."""
STILL_SIDE = 640
DOTS = 20_000
"""More dots than this are drawn a pixel large."""


def colour_variables() -> str:
    """Return the CSS that names the colours --dot-0, --dot-1, ... and --dot-others."""
    both = (*CLASS_COLOURS, OTHERS)
    names = [*(f"--dot-{number}" for number in range(len(CLASS_COLOURS))), "--dot-others"]
    light, dark = (
        " ".join(f"{name}: {colour[ground]};" for name, colour in zip(names, both, strict=True))
        for ground in (0, 1)
    )
    kinds = " ".join(
        f".map-key .k{number} {{ background: var({name}); }}"
        for number, name in enumerate(names[:-1])
    )
    return (
        f"{kinds}\n:root {{ {light} }}\n"
        f"@media screen and (prefers-color-scheme: dark) {{ :root {{ {dark} }} }}\n"
    )


def still_picture(places: NDArray[np.float64], classes: Classes) -> str:
    """Return dots at places [N, 2] from 0 to 1 as the address that an `img` takes."""
    size = 3 if len(places) <= DOTS else 1
    shown = np.zeros((STILL_SIDE, STILL_SIDE), np.uint8)
    corner = np.rint(places * (STILL_SIDE - size)).astype(int)
    across, down = corner[:, 0], STILL_SIDE - size - corner[:, 1]
    colour = _colour_numbers(classes.of, len(places))
    for right in range(size):
        for below in range(size):
            shown[down + below, across + right] = colour
    picture = Image.fromarray(shown, "P")
    flat = [(0, 0, 0), *(_rgb(light) for light, _ in CLASS_COLOURS), _rgb(OTHERS[0])]
    picture.putpalette([part for each in flat for part in each])
    content = io.BytesIO()
    picture.save(content, "PNG", transparency=0, optimize=True)
    return f"data:image/png;base64,{base64.b64encode(content.getvalue()).decode()}"


def _colour_numbers(of: Sequence[int], count: int) -> NDArray[np.uint8]:
    """Return [N] places in the palette; 0 is the ground."""
    known = np.array(of, int) if len(of) else np.full(count, len(CLASS_COLOURS))
    numbers: NDArray[np.uint8] = (1 + np.minimum(known, len(CLASS_COLOURS))).astype(np.uint8)
    return numbers


def _rgb(colour: str) -> tuple[int, int, int]:
    return int(colour[1:3], 16), int(colour[3:5], 16), int(colour[5:7], 16)
