"""What others published, beside what was found here."""

from __future__ import annotations

from moco.cli.output import say
from moco.cli.terminal import print_table
from moco.evaluation.published import published


def print_published(recipe: str, top1: float | None, protocol: str) -> None:
    """Print published scores beside ours, those of the run's recipe where there are any."""
    own = published("linear", recipe) if recipe else ()
    heads = {row.recipe: row for row in reversed(published("linear"))}
    rows = own or tuple(reversed(heads.values()))
    ours = "-" if top1 is None else f"{100 * top1:.1f} %"
    print_table(
        f"published, beside this run by the {protocol} protocol"
        + ("" if own else "; none of its recipe"),
        ["published", "data", "protocol", "top-1", "here"],
        [
            [
                row.model,
                row.data,
                row.protocol.name,
                f"{100 * row.value:.1f}{f' ± {100 * row.spread:.1f}' if row.spread else ''} %",
                ours,
            ]
            for row in rows
        ],
    )
    for named in dict.fromkeys(row.protocol for row in rows):
        say(f"{named.name}: {named.settings} ({named.source})")
    say(f"to reproduce the {100 * rows[0].value:.1f} %: {rows[0].command}")
