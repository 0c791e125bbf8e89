"""What `moco export` takes; no torch in here."""

from __future__ import annotations

from moco.cli.parser import Parser, given_model, given_path
from moco.cli.shared_options import add_json
from moco.export.format_names import FORMAT_NAMES, UNKNOWN_LICENSE

ABOUT_EXPORT = f"""

  moco export RUN --to timm --out EXPORTED
  moco export RUN/checkpoints/step_00001000 --to torchvision --out EXPORTED --license MIT
  moco export moco_v2_800ep.pth.tar --to hf --out EXPORTED

EXPORTED is a new directory: the library's files, README.md (a model card with the lines that
load it) and export.json. It is loaded again by the library, where that is installed, and the
largest difference of a feature is printed; what differs is not kept. See docs/export.md.

formats:
{chr(10).join(f"  {name:<13} {about}" for name, about in FORMAT_NAMES.items())}"""


def add_export_options(command: Parser) -> None:
    """Let it take a network, a format, and where to put it."""
    command.add_argument(
        "model",
        metavar="MODEL",
        type=given_model,
        help="a run or checkpoint directory, or a file of weights (docs/import.md); the query "
        "encoder's backbone is exported",
    )
    command.add_argument(
        "--to", required=True, metavar="FORMAT", help=f"one of {', '.join(FORMAT_NAMES)}"
    )
    command.add_argument(
        "--out", required=True, type=given_path, metavar="DIR", help="a new directory"
    )
    command.add_argument(
        "--dynamic-size",
        action="store_true",
        help="of onnx and torch-export: let height and width of the images vary",
    )
    command.add_argument(
        "--license",
        default=UNKNOWN_LICENSE,
        metavar="ID",
        help="the weights' licence, for the model card, such as MIT or CC-BY-NC-4.0 "
        f"(default: {UNKNOWN_LICENSE})",
    )
    command.add_argument(
        "--overwrite", action="store_true", help="replace an earlier export in DIR"
    )
    add_json(command)
