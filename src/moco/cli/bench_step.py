"""`moco bench step`."""

from __future__ import annotations

import argparse

from moco.benchmark.steps.comparing import compare_steps
from moco.benchmark.steps.figures import (
    profile_figures,
    profile_rows,
    step_columns,
    step_figures,
    step_rows,
)
from moco.benchmark.steps.profiling import profile_steps
from moco.benchmark.steps.rows import with_sizes
from moco.cli.json_file import check_json_path, write_json
from moco.cli.output import printable, say
from moco.cli.recipes import fixed_recipe
from moco.cli.terminal import print_table
from moco.device import pick_device
from moco.recipe import Recipe
from moco.recipe_files import set_fields


def run(arguments: argparse.Namespace) -> int:
    """Time training steps in turn and print how many images a second each takes."""
    check_json_path(arguments.json)
    check_json_path(arguments.profile, "--profile")
    comparison = compare_steps(
        asked_recipe(arguments),
        rounds=arguments.rounds,
        seconds=arguments.seconds,
        device=pick_device(arguments.device),
    )
    asked = {"rounds": arguments.rounds, "seconds": arguments.seconds}
    figures = {**asked, **step_figures(comparison)}
    say(
        f"recipe {printable(figures['recipe'])}: {figures['backbone']}, {figures['image_size']} "
        f"pixels, batch {figures['batch_size']}, queue {figures['queue_size']:,}; "
        f"{figures['rounds']} rounds; {printable(figures['device_name'])}"
    )
    rows = [result.row for result in comparison.results]
    title = "Images per second of whole training steps on given views"
    print_table(title, step_columns(per_core=rows[0].is_per_core), step_rows(comparison))
    for row in rows:
        say(f"{row.title}: {row.includes}")
    for name, reason in comparison.left_out.items():
        say(printable(f"without {name}: {reason}"))
    if arguments.profile is not None:
        profiles = profile_steps(comparison, arguments.profile)
        figures["profile"] = profile_figures(profiles)
        columns = ["part of a step", *(each.title for each in profiles)]
        print_table("Where a step's time goes", columns, profile_rows(profiles))
        say(printable(f"a trace of a step of ours is in {arguments.profile}"))
    write_json(arguments.json, figures)
    return 0


def asked_recipe(arguments: argparse.Namespace) -> Recipe:
    """Return the recipe with the command's changes.

    Raises:
        UsageError: There is none, or the changes make no sense.
    """
    recipe = set_fields(fixed_recipe(arguments.recipe), arguments.settings)
    return with_sizes(recipe, arguments.batch, arguments.queue)
