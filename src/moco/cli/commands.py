"""What each `moco` command takes; no torch in here."""

from __future__ import annotations

import argparse

from moco.cli.bench_options import BENCHMARKS
from moco.cli.bench_time_to_options import ABOUT_TIME_TO, add_time_to_options
from moco.cli.compare_options import ABOUT_COMPARE, add_compare_options
from moco.cli.data_options import DATA_COMMANDS
from moco.cli.demo_options import ABOUT_DEMO, add_demo_options
from moco.cli.doctor_options import ABOUT_DOCTOR, add_doctor_options
from moco.cli.embed_options import ABOUT_EMBED, add_embed_options
from moco.cli.evaluate_options import EVALUATIONS
from moco.cli.export_options import ABOUT_EXPORT, add_export_options
from moco.cli.import_options import ABOUT_IMPORT, add_import_options
from moco.cli.parser import Parser, Subparsers, given_path
from moco.cli.report_options import ABOUT_REPORT, add_report_options
from moco.cli.shared_options import (
    add_accumulate,
    add_compile,
    add_device,
    add_json,
    add_loading,
    add_monitor,
    add_recipe,
    add_resident,
    add_resume,
    add_signals_every,
    add_timeout,
    add_track,
)
from moco.cli.start_options import add_start
from moco.cli.study_options import LISTED_STUDIES, add_study_options

EXIT_CODES = """exit codes:
  0 done   1 bug   2 usage   3 images unusable   4 loss not finite   5 storage
  6 checkpoint unusable   7 another process lost   8 sick (doctor --strict)
  75 stopped and saved   130 stopped from the keyboard"""

RECIPE_HELP = "a recipe's name, a recipe file, or a run directory"


def build_parser() -> Parser:
    """Return the whole command line's parser."""
    parser = Parser(
        prog="moco",
        description="Momentum Contrast: pre-train an image backbone without labels.",
        epilog=EXIT_CODES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )
    from moco import __version__

    parser.add_argument("--version", action="version", version=f"moco {__version__}")
    commands = parser.add_subparsers(dest="command", metavar="COMMAND", required=True)
    _add_pretrain(commands)
    _add_import(commands)
    _add_embed(commands)
    _add_evaluate(commands)
    _add_compare(commands)
    _add_export(commands)
    _add_report(commands)
    _add_data(commands)
    _add_doctor(commands)
    _add_demo(commands)
    _add_study(commands)
    _add_recipes(commands)
    _add_bench(commands)
    return parser


def _command(
    commands: Subparsers, name: str, module: str, help_text: str, more: str = ""
) -> Parser:
    command: Parser = commands.add_parser(
        name,
        help=help_text,
        description=f"{help_text[0].upper()}{help_text[1:]}.{more}",
        formatter_class=argparse.RawDescriptionHelpFormatter,
        epilog=EXIT_CODES,
        allow_abbrev=False,
    )
    command.set_defaults(module=module, parser=command)
    command.add_argument("--debug", action="store_true", help="show the traceback of an error")
    return command


def _add_pretrain(commands: Subparsers) -> None:
    command = _command(
        commands,
        "pretrain",
        "moco.cli.pretrain",
        "train a backbone on unlabelled images",
        """

  moco pretrain PHOTOS                           any folder, searched recursively
  moco pretrain 'SHARDS/train-{000..099}.tar'    or a list, zip, Parquet, arrays
  moco pretrain IMAGENET/train --recipe moco-v2  the paper's run
  moco pretrain PHOTOS --recipe mine.yaml --set temperature=0.1
  moco pretrain PHOTOS --from resnet18.pth       begin with a trained backbone
  torchrun --nproc-per-node 8 -m moco pretrain IMAGENET/train --recipe moco-v1 --run-dir RUN

The run directory holds recipe.yaml, metrics.jsonl, signals.jsonl, status.json and checkpoints/.
The same command goes on where a stopped run was.""",
    )
    command.add_argument(
        "images",
        metavar="IMAGES",
        type=given_path,
        help="a folder, a list or CSV file, .zip, .tar shards, Parquet, .npy, CIFAR or IDX files; "
        "see docs/sources.md",
    )
    add_recipe(command)
    command.add_argument(
        "--run",
        "--run-dir",
        dest="run",
        type=given_path,
        metavar="DIR",
        help="the run directory (default: runs/RECIPE-FOLDER); torchrun takes --run for its own, "
        "so write --run-dir behind it",
    )
    command.add_argument("--epochs", type=int, metavar="N", help="passes over the images")
    add_device(command)
    command.add_argument("--seed", type=int, default=0, metavar="N", help="default: 0")
    add_loading(command)
    add_resident(command)
    add_accumulate(command)
    add_compile(command)
    add_timeout(command)
    add_start(command)
    add_resume(command)
    add_monitor(command)
    add_signals_every(command)
    add_track(command)
    command.add_argument(
        "--dry-run",
        action="store_true",
        help="show the plan and the resolved recipe; measure speed, memory and what binds in some "
        "steps, predict time and disk; write nothing",
    )
    add_json(command)


def _add_import(commands: Subparsers) -> None:
    command = _command(
        commands, "import", "moco.cli.import_weights", "read other projects' weights", ABOUT_IMPORT
    )
    add_import_options(command)


def _add_embed(commands: Subparsers) -> None:
    command = _command(
        commands,
        "embed",
        "moco.cli.embed",
        "write a network's features of images to a file",
        ABOUT_EMBED,
    )
    add_embed_options(command)


def _add_doctor(commands: Subparsers) -> None:
    text = "say whether a run is healthy, or this machine fit for runs, and what to change if not"
    command = _command(commands, "doctor", "moco.cli.doctor", text, ABOUT_DOCTOR)
    add_doctor_options(command)


def _add_evaluate(commands: Subparsers) -> None:
    evaluate = _command(commands, "evaluate", "", "say what a run's features are worth")
    kinds = evaluate.add_subparsers(dest="evaluation", metavar="KIND", required=True)
    for kind, evaluation in EVALUATIONS.items():
        command = _command(kinds, kind, evaluation.module, evaluation.about, evaluation.more)
        evaluation.add_options(command)


def _add_compare(commands: Subparsers) -> None:
    text = "say which of several networks is better, and whether the data suffice to say so"
    command = _command(commands, "compare", "moco.cli.compare", text, ABOUT_COMPARE)
    add_compare_options(command)


def _add_export(commands: Subparsers) -> None:
    text = "write a backbone for another library, and check it by loading it there"
    add_export_options(_command(commands, "export", "moco.cli.export", text, ABOUT_EXPORT))


def _add_report(commands: Subparsers) -> None:
    text = "write all that is known of a run, or of several, as one HTML page"
    add_report_options(_command(commands, "report", "moco.cli.report", text, ABOUT_REPORT))


def _add_data(commands: Subparsers) -> None:
    data = _command(commands, "data", "", "check, count, pack or preview images")
    kinds = data.add_subparsers(dest="kind", metavar="KIND", required=True)
    for kind, (about, more, add_options) in DATA_COMMANDS.items():
        command = _command(kinds, kind, "moco.cli.data", about, more)
        add_options(command)
        if kind == "preview":
            add_recipe(command)
            add_device(command)
        add_json(command)


def _add_demo(commands: Subparsers) -> None:
    command = _command(
        commands,
        "demo",
        "moco.cli.demo",
        "pre-train for some minutes, compare with raw pixels and no training, write a report",
        ABOUT_DEMO,
    )
    add_demo_options(command)


def _add_recipes(commands: Subparsers) -> None:
    recipes = _command(
        commands,
        "recipes",
        "moco.cli.recipes",
        "list the recipes with the scores that were published for them",
        """

  moco recipes                           the table
  moco recipes show moco-v2 > mine.yaml  a recipe file with every field explained, to edit
  moco recipes diff moco-v1 moco-v2      what differs""",
    )
    add_json(recipes)
    actions = recipes.add_subparsers(dest="action", metavar="ACTION")
    show = _command(
        actions,
        "show",
        "moco.cli.recipes",
        "print a recipe as a file for `moco pretrain --recipe FILE.yaml`, every field explained",
    )
    show.add_argument("recipe", metavar="RECIPE", help=RECIPE_HELP)
    diff = _command(
        actions,
        "diff",
        "moco.cli.recipes",
        "say what differs between two recipes",
        """

Several fields of encoder, dictionary, views or optimizer are one change. Name and source
are none.""",
    )
    diff.add_argument("old", metavar="A", help=RECIPE_HELP)
    diff.add_argument("new", metavar="B", help="the same")
    for command in (show, diff):
        add_json(command, default=argparse.SUPPRESS)  # keep what `moco recipes --json` was given


def _add_study(commands: Subparsers) -> None:
    command = _command(
        commands,
        "study",
        "moco.cli.study",
        "re-run a paper's own comparison: settings times seeds, a table, a figure, verdicts",
        LISTED_STUDIES,
    )
    add_study_options(command)
    add_recipe(command)
    add_device(command)
    add_loading(command)
    add_json(command)


def _add_bench(commands: Subparsers) -> None:
    bench = _command(commands, "bench", "", "measure how fast a part is beside its rivals")
    parts = bench.add_subparsers(dest="part", metavar="PART", required=True)
    for name, (module, text, about, add_options) in BENCHMARKS.items():
        command = _command(parts, name, module, text, about)
        add_options(command)
        add_device(command)
        add_json(command)
    _add_time_to(parts)


def _add_time_to(parts: Subparsers) -> None:
    text = "how long a recipe trains until a kNN test reaches a score"
    command = _command(parts, "time-to", "moco.cli.bench_time_to", text, ABOUT_TIME_TO)
    add_time_to_options(command)
    add_monitor(command)
    add_recipe(command)
    add_device(command)
    add_loading(command)
    add_json(command)
