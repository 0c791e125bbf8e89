"""What `moco embed` takes; no torch in here."""

from __future__ import annotations

from moco.cli.evaluate_options import LAYER_HELP, MODEL_HELP, add_labels
from moco.cli.parser import Parser, given_model, given_path
from moco.cli.shared_options import add_device, add_json

ABOUT_EMBED = """

  moco embed RUN PHOTOS --out photos.npz
  moco embed timm:resnet50@imagenet.safetensors PHOTOS --out photos.parquet --layer layer3
  torchrun --nproc-per-node 8 -m moco embed RUN PHOTOS --out photos.safetensors

One row of features an image, with labels where the source has them, and names. Evaluations
start from such files (docs/features.md). The same command goes on where a stopped one was:
parts that are done lie in FILE.parts until FILE is there."""


def add_embed_options(command: Parser) -> None:
    """Let it take a network, images, and where their features go."""
    command.add_argument("model", metavar="MODEL", type=given_model, help=MODEL_HELP)
    command.add_argument(
        "images", metavar="IMAGES", type=given_path, help="any source, labels or none"
    )
    command.add_argument(
        "--out",
        required=True,
        type=given_path,
        metavar="FILE",
        help="a new file that ends in .npz, .parquet or .safetensors",
    )
    command.add_argument("--layer", default="backbone", metavar="NAME", help=LAYER_HELP)
    add_labels(command)
    add_device(command)
    command.add_argument("--workers", type=int, default=0, metavar="N", help="default: 0")
    command.add_argument(
        "--precision",
        default="float32",
        choices=("auto", "float32", "bfloat16"),
        help="what the network computes in; float32 (the default), as evaluations do; auto: "
        "bfloat16 where the device is fast in it",
    )
    add_json(command)
