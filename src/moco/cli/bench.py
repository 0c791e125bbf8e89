"""`moco bench input`."""

from __future__ import annotations

import argparse

from moco.benchmark.figures import COLUMNS, plain_figures, table_rows
from moco.benchmark.input import Comparison, compare_input
from moco.cli.json_file import check_json_path, write_json
from moco.cli.output import printable, say
from moco.cli.recipes import fixed_recipe
from moco.cli.terminal import print_table
from moco.device import pick_device

MADE = "made photographs"


def run(arguments: argparse.Namespace) -> int:
    """Time the input pipelines and print how many images a core makes two views of."""
    check_json_path(arguments.json)
    recipe = fixed_recipe(arguments.recipe)
    source = MADE if arguments.images is None else printable(str(arguments.images))
    comparison = compare_input(
        recipe,
        arguments.images,
        rounds=arguments.rounds,
        seconds=arguments.seconds,
        device=pick_device(arguments.device),
    )
    asked = {
        "recipe": recipe.name,
        "source": source,
        "rounds": arguments.rounds,
        "seconds": arguments.seconds,
    }
    figures = {**asked, **plain_figures(comparison)}
    show(comparison, figures)
    write_json(arguments.json, figures)
    return 0


def show(comparison: Comparison, figures: dict[str, object]) -> None:
    """Print what was timed, the table, and what each row of it includes."""
    say(
        f"{comparison.images} images of {comparison.mean_bytes / 1000:.0f} kB in the mean "
        f"({figures['source']}), recipe {printable(str(figures['recipe']))}, "
        f"{figures['rounds']} rounds; {figures['processor']}"
    )
    likeness = comparison.likeness
    say(
        f"our pixels are off the official pipeline's by {likeness.decoded:.3f} of 255 in the mean "
        f"when decoded, crops by {likeness.crops:.3f}"
    )
    title = "Source images per second of one core, each giving two views"
    print_table(title, COLUMNS, table_rows(comparison))
    for row in comparison.rows:
        say(f"{row.contender.title}: {row.contender.includes}")
    for name, reason in comparison.left_out.items():
        say(printable(f"without {name}: {reason}"))
