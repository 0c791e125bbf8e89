"""`moco bench train`."""

from __future__ import annotations

import argparse

from moco.benchmark.training.comparing import compare_training
from moco.benchmark.training.figures import TRAIN_COLUMNS, train_figures, train_table
from moco.benchmark.training.rows import Sizes
from moco.cli.bench import MADE
from moco.cli.bench_step import asked_recipe
from moco.cli.json_file import check_json_path, write_json
from moco.cli.output import printable, say
from moco.cli.terminal import print_table
from moco.device import pick_device


def run(arguments: argparse.Namespace) -> int:
    """Train in turn from image files and print how many images a second each way takes."""
    check_json_path(arguments.json)
    recipe = asked_recipe(arguments)
    device = pick_device(arguments.device)
    sizes = Sizes(arguments.steps, arguments.workers, device)
    source = MADE if arguments.images is None else printable(str(arguments.images))
    comparison = compare_training(recipe, arguments.images, rounds=arguments.rounds, sizes=sizes)
    figures = {
        "source": source,
        "rounds": arguments.rounds,
        **train_figures(comparison),
    }
    say(
        f"recipe {printable(recipe.name)}: {recipe.encoder.backbone}, {figures['image_size']} "
        f"pixels, batch {recipe.batch_size}, queue {figures['queue_size']:,}; "
        f"{figures['images']} images ({source}), {sizes.workers} workers, {sizes.steps} steps a "
        f"turn, {arguments.rounds} rounds; {printable(figures['device_name'])}"
    )
    title = "Images per second of training from files, by the clock and by CPU seconds"
    print_table(title, TRAIN_COLUMNS, train_table(comparison))
    for result in comparison.results:
        say(f"{result.row.title}: {result.row.includes}")
    write_json(arguments.json, figures)
    return 0
