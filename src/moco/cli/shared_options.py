"""Options that several commands have; no torch in here."""

from __future__ import annotations

from moco.cli.parser import Parser, given_path
from moco.recipes import RECIPES
from moco.specs import BAD_LIMIT


def add_recipe(command: Parser) -> None:
    """Let the command name a recipe and change it."""
    command.add_argument(
        "--recipe",
        default="small",
        metavar="NAME|FILE.yaml",
        help=f"small (settings made for your images; the default), {', '.join(RECIPES)}; or a "
        "recipe file, such as the two lines `base: moco-v2` and `temperature: 0.1`",
    )
    command.add_argument(
        "--set",
        dest="settings",
        action="append",
        default=[],
        metavar="FIELD=VALUE",
        help="change a field of the recipe, also of a file; may be given often; `moco recipes show "
        "moco-v2` explains the fields",
    )


def add_monitor(command: Parser) -> None:
    """Let it score labelled images as it goes."""
    command.add_argument(
        "--monitor-train",
        type=given_path,
        metavar="SRC",
        help="class folders, or another source with labels, that vote in a kNN test",
    )
    command.add_argument(
        "--monitor-test",
        type=given_path,
        metavar="SRC2",
        help="labelled images of the same classes, tested after each epoch",
    )


def add_loading(command: Parser) -> None:
    """Let it say how images are loaded and what networks compute in."""
    command.add_argument(
        "--workers", type=int, metavar="N", help="image loading processes (default: by device)"
    )
    command.add_argument(
        "--precision",
        default="auto",
        choices=("auto", "float32", "bfloat16"),
        help="what networks compute in; auto: bfloat16 where the device is fast in it",
    )
    add_bad_limit(command)


def add_resident(command: Parser) -> None:
    """Let it keep the images on the device."""
    command.add_argument(
        "--resident",
        action="store_true",
        help="keep all images, of one size and 8 bits, in the training device's memory and cut "
        "views there; the same batches without loading processes (docs/resident.md)",
    )


def add_track(command: Parser) -> None:
    """Let it give its figures to trackers."""
    command.add_argument(
        "--track",
        action="append",
        default=[],
        choices=("tensorboard", "wandb"),
        help="also give the figures to TensorBoard (files in the run directory's tb) or to Weights "
        "& Biases (honours WANDB_MODE); may be given twice; one that fails does not end the run",
    )


def add_accumulate(command: Parser) -> None:
    """Let it take each batch in parts."""
    command.add_argument(
        "--accumulate",
        type=int,
        default=1,
        metavar="N",
        help="take each batch in N parts, for less memory: the same step (default: 1)",
    )


def add_compile(command: Parser) -> None:
    """Let it compile the networks, or replay them."""
    command.add_argument(
        "--compile",
        action="store_true",
        help="compile the networks' passes before the first step, where that works; where not, the "
        "run goes on without and says why (docs/speed.md)",
    )
    command.add_argument(
        "--cuda-graphs",
        action="store_true",
        help="replay the networks' passes as CUDA graphs, where that works; where not, the run "
        "goes on without and says why (docs/speed.md; not tried on a GPU yet)",
    )


def add_bad_limit(command: Parser) -> None:
    """Let it say how many images may be unusable."""
    command.add_argument(
        "--bad-limit",
        type=float,
        default=BAD_LIMIT,
        metavar="SHARE",
        help="share of the images that may turn out unusable before the run ends; one always may "
        "(default: %(default)s)",
    )


def add_device(command: Parser) -> None:
    """Let it choose where to compute."""
    command.add_argument(
        "--device", default="auto", choices=("auto", "cpu", "cuda", "mps"), help="default: auto"
    )


def add_resume(command: Parser) -> None:
    """Let it begin again."""
    command.add_argument(
        "--resume",
        nargs="?",
        const="auto",
        default="auto",
        choices=("auto", "never"),
        help="auto: go on from the newest checkpoint, if any (the default); never: put an earlier "
        "run in this directory aside and start again",
    )


def add_json(command: Parser, default: str | None = None) -> None:
    """Let it write its figures to a file."""
    command.add_argument(
        "--json",
        type=given_path,
        default=default,
        metavar="FILE",
        help="also write the figures there; see docs/json.md",
    )


def add_signals_every(command: Parser) -> None:
    """Add how often the signals of a run's health are read."""
    command.add_argument(
        "--signals-every",
        type=int,
        default=50,
        metavar="N",
        help="steps between readings of the signals of the run's health (default: 50; 0: none)",
    )


def add_timeout(command: Parser) -> None:
    """Let it say how long it waits for those that load or train beside it."""
    command.add_argument(
        "--timeout",
        type=float,
        default=300.0,
        metavar="SECONDS",
        help="how long a loading process, or another process of the run, may let it wait before "
        "it is given up, by name (default: 300)",
    )
