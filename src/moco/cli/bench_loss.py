"""`moco bench loss`."""

from __future__ import annotations

import argparse

from moco.benchmark.loss.comparing import compare_losses
from moco.benchmark.loss.figures import LOSS_COLUMNS, loss_figures, loss_rows
from moco.benchmark.loss.rows import LossShape
from moco.cli.json_file import check_json_path, write_json
from moco.cli.output import printable, say
from moco.cli.terminal import print_table
from moco.device import pick_device


def run(arguments: argparse.Namespace) -> int:
    """Time the losses in turn and print what each takes, in time and in memory."""
    check_json_path(arguments.json)
    shape = LossShape(arguments.batch, arguments.queue, arguments.dim, arguments.temperature)
    comparison = compare_losses(
        shape,
        rounds=arguments.rounds,
        seconds=arguments.seconds,
        device=pick_device(arguments.device),
    )
    asked = {"rounds": arguments.rounds, "seconds": arguments.seconds}
    figures = {**asked, **loss_figures(comparison)}
    say(
        f"{shape.batch:,} queries, {shape.queue:,} keys of {shape.dim}, temperature "
        f"{shape.temperature:g}; {figures['rounds']} rounds; {printable(figures['device_name'])}"
    )
    print_table("InfoNCE alone, forward and backward", LOSS_COLUMNS, loss_rows(comparison))
    for result in comparison.results:
        say(f"{result.row.title}: {result.row.includes}")
    write_json(arguments.json, figures)
    return 0
