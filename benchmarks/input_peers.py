"""The figures of `moco bench input` as Markdown, for docs/benchmarks.md.

python benchmarks/input_peers.py FIGURES.json [FIGURES.json ...]
"""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any


def markdown(figures: dict[str, Any]) -> str:
    """Return what was measured, with what, and a table."""
    versions = ", ".join(f"{name} {version}" for name, version in figures["versions"].items())
    lines = [
        f"{figures['images']} images ({figures['source']}), {figures['mean_bytes'] / 1000:.0f} kB "
        f"in the mean, recipe {figures['recipe']}, {figures['rounds']} rounds of at least "
        f"{figures['seconds']:g} s; {figures['processor']}, {figures['cores']} cores, load "
        f"{figures['load_before']} before and {figures['load_after']} after; {versions}.",
        "",
        "| pipeline | images/s/core | from - to | x official | from - to |",
        "|---|---|---|---|---|",
    ]
    for row in figures["rows"]:
        rates = [row[f"images_per_second{end}"] for end in ("", "_low", "_high")]
        ratios = [row[f"times_official{end}"] for end in ("", "_low", "_high")]
        where = "" if row["per_core"] else f" (images/s of the {row['device']})"
        lines.append(
            f"| {row['title']}{where} | {rates[0]:,.0f} | {rates[1]:,.0f} - {rates[2]:,.0f} | "
            f"{ratios[0]:.2f} | {ratios[1]:.2f} - {ratios[2]:.2f} |"
        )
    lines += [f"\nWithout {name}: {reason}" for name, reason in figures["left_out"].items()]
    return "\n".join(lines)


if __name__ == "__main__":
    if len(sys.argv) < 2:
        sys.exit(__doc__)
    for name in sys.argv[1:]:
        print(markdown(json.loads(Path(name).read_text(encoding="utf-8"))))
