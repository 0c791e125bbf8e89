"""The figures of `moco bench step` as Markdown, for docs/benchmarks.md.

python benchmarks/step_peers.py FIGURES.json [FIGURES.json ...]
"""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any


def markdown(figures: dict[str, Any]) -> str:
    """Return what was measured, with what, and a table."""
    versions = ", ".join(f"{name} {version}" for name, version in figures["versions"].items())
    rate = "images/s/core" if figures["rows"][0]["per_core"] else "images/s"
    lines = [
        f"Recipe {figures['recipe']}: {figures['backbone']}, {figures['image_size']} pixels, batch "
        f"{figures['batch_size']}, queue {figures['queue_size']:,}, {figures['rounds']} rounds of "
        f"at least {figures['seconds']:g} s; {figures['device_name']}, {figures['cores']} cores, "
        f"load {figures['load_before']} before and {figures['load_after']} after; {versions}.",
        "",
        f"| step | {rate} | from - to | x official | from - to |",
        "|---|---|---|---|---|",
    ]
    for row in figures["rows"]:
        rates = [f"{row[f'images_per_second{end}']:,.1f}" for end in ("", "_low", "_high")]
        ratios = [f"{row[f'times_official{end}']:.2f}" for end in ("", "_low", "_high")]
        lines.append(
            f"| {row['title']} | {rates[0]} | {rates[1]} - {rates[2]} | "
            f"{ratios[0]} | {ratios[1]} - {ratios[2]} |"
        )
    lines += [f"\nWithout {name}: {reason}" for name, reason in figures["left_out"].items()]
    return "\n".join(lines)


if __name__ == "__main__":
    if len(sys.argv) < 2:
        sys.exit(__doc__)
    for name in sys.argv[1:]:
        print(markdown(json.loads(Path(name).read_text(encoding="utf-8"))))
