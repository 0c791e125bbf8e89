"""What the parts of `moco bench` take; no torch in here."""

from __future__ import annotations

from collections.abc import Callable

from moco.cli.parser import Parser, given_path

ABOUT_INPUT = """

Runs pipelines in turn on the same files in this one process, one thread: this library's (the
loading process's part, the same from packed shards, all on the CPU, the device's part), the
official one of Pillow and torchvision, and lightly and stable-pretraining where they are
installed. A rate counts source images per second of CPU time, each giving two views.

Without --images it makes 48 JPEGs of 500x375 pixels from photographs that scikit-image and
scikit-learn carry (pip install "moco-torch[bench]"). See docs/benchmarks.md."""

ABOUT_STEP = """

Takes training steps on given views, without any loading, in turn in this one process: this
library's as `moco pretrain` takes it here, the same in float32, the official MoCo v1 and v2 step,
the official one given what makes it fast, and lightly's and solo-learn's where they are installed.
On the CPU one thread and CPU time; on a GPU the clock on the wall, waiting for it as a turn ends.
All begin with the same weights and queue; before any is timed, their first two steps have to give
the same losses and move weights, key weights and queue alike.

  moco bench step --batch 256 --queue 65536
  moco bench step --recipe moco-v2 --batch 16

See docs/benchmarks.md."""

ABOUT_LOSS = """

From embeddings to the gradient of the queries': the loss as a training step of this library
computes it, its plain definition, and the official one, in turn in this one process; time as in
`moco bench step`, and the memory that each needs for a moment, on the CPU in a fresh process. Equal
losses and gradients are asserted first.

See docs/benchmarks.md."""

ABOUT_TRAIN = """

Trains from JPEG files with loading processes: this library's way, and the official script's adapted
to one process (torch's DataLoader of two views of each file, the official step, its meters), in
turn on the same files, with as many threads. A turn begins with new loading processes. Equal work
of the steps and equal pixels are asserted first.

Without --images it makes JPEGs as `moco bench input` does. See docs/benchmarks.md."""


def add_input_options(command: Parser) -> None:
    """Add the images, the recipe, and how long to measure."""
    command.add_argument(
        "--images",
        type=given_path,
        metavar="DIR",
        help="a folder of your own image files; up to 48 of them are timed",
    )
    command.add_argument(
        "--recipe",
        default="moco-v2",
        metavar="NAME|FILE.yaml",
        help="whose views are made (default: moco-v2)",
    )
    _add_turns(command, rounds=7)


def add_step_options(command: Parser) -> None:
    """Add the recipe, its changes, and how long to measure."""
    _add_recipe(command)
    _add_turns(command, rounds=5)
    command.add_argument(
        "--profile",
        type=given_path,
        metavar="FILE",
        help="say where the time of ours and of the official step goes, beside what operations "
        "and bytes alone would take here, and write a trace of a step of ours there",
    )


def add_train_options(command: Parser) -> None:
    """Add the images, the recipe, its changes, and how much to measure."""
    command.add_argument(
        "--images",
        type=given_path,
        metavar="DIR",
        help="a folder of your own image files, a batch of them at least",
    )
    _add_recipe(command)
    for name, default, what in (
        ("workers", 2, "loading processes"),
        ("steps", 4, "steps of a turn"),
        ("rounds", 5, "turns of each row"),
    ):
        command.add_argument(
            f"--{name}",
            type=int,
            default=default,
            metavar="N",
            help=f"{what} (default: {default})",
        )


def _add_recipe(command: Parser) -> None:
    command.add_argument(
        "--recipe",
        default="cifar10-resnet18",
        metavar="NAME|FILE.yaml",
        help="whose encoder, loss and optimizer take the step (default: cifar10-resnet18)",
    )
    command.add_argument(
        "--batch", type=int, metavar="N", help="images of a step (default: the recipe's)"
    )
    command.add_argument(
        "--queue", type=int, metavar="K", help="keys in the queue (default: the recipe's)"
    )
    command.add_argument(
        "--set",
        dest="settings",
        action="append",
        default=[],
        metavar="FIELD=VALUE",
        help="change a field of the recipe; may be given often",
    )


def add_loss_options(command: Parser) -> None:
    """Add the sizes of the loss, and how long to measure."""
    for name, letter, default, what in (
        ("batch", "N", 256, "queries"),
        ("queue", "K", 65536, "keys in the queue"),
        ("dim", "C", 128, "numbers of an embedding"),
    ):
        command.add_argument(
            f"--{name}",
            type=int,
            default=default,
            metavar=letter,
            help=f"{what} (default: {default})",
        )
    command.add_argument(
        "--temperature",
        type=float,
        default=0.2,
        metavar="T",
        help="divides every similarity (default: 0.2)",
    )
    _add_turns(command, rounds=7)


def _add_turns(command: Parser, *, rounds: int) -> None:
    command.add_argument(
        "--rounds",
        type=int,
        default=rounds,
        metavar="N",
        help="turns of each row (default: %(default)s)",
    )
    command.add_argument(
        "--seconds",
        type=float,
        default=1.0,
        metavar="S",
        help="what a turn takes at least (default: 1)",
    )


BENCHMARKS: dict[str, tuple[str, str, str, Callable[[Parser], None]]] = {
    "input": (
        "moco.cli.bench",
        "images per second and core, from files to views",
        ABOUT_INPUT,
        add_input_options,
    ),
    "step": (
        "moco.cli.bench_step",
        "images per second of one training step on given views",
        ABOUT_STEP,
        add_step_options,
    ),
    "loss": (
        "moco.cli.bench_loss",
        "time and memory of the loss alone, at any size of the queue",
        ABOUT_LOSS,
        add_loss_options,
    ),
    "train": (
        "moco.cli.bench_train",
        "images per second of training from files, loading included",
        ABOUT_TRAIN,
        add_train_options,
    ),
}
"""By part: the command's module, what it is for, more of that, and what it takes."""
