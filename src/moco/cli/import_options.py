"""What `moco import` takes; no torch in here."""

from __future__ import annotations

from moco.cli.parser import Parser, given_path
from moco.cli.shared_options import add_json

ABOUT_IMPORT = """

  moco import moco_v2_800ep_pretrain.pth.tar
  moco import vit-s.pth --backbone moco_v3_vit_small --out vit-s.safetensors
  moco evaluate knn moco_v2_800ep_pretrain.pth.tar --train TRAIN --test TEST

Says what a file is and what became of each tensor in it, and refuses it by the name of the
first that is missing, unknown or of another shape. Nothing in a file is run. Files that it
takes are models for every command, as a run is; --out keeps what --backbone and --stem told
(docs/import.md)."""
KINDS = (
    *("auto", "official-v1", "official-v2", "official-v3", "official-linear"),
    *("official-detection", "official-cifar", "lightly", "solo-learn", "mmselfsup", "mmpretrain"),
    *("vissl", "torchvision", "timm", "torchgeo", "moco"),
)


def add_import_options(command: Parser) -> None:
    """Let it take a file, what is told of it, and where it goes."""
    command.add_argument(
        "file",
        metavar="FILE",
        type=given_path,
        help="what torch.save wrote, of any age, a .safetensors file, or a pickle of numpy arrays",
    )
    command.add_argument(
        "--from",
        dest="kind",
        default="auto",
        choices=KINDS,
        help="whose layout it has; auto (the default): by its names",
    )
    command.add_argument(
        "--backbone",
        metavar="NAME",
        help="where the file does not tell: any timm name, resnext50_32x8d, moco_v3_vit_small, "
        "moco_v3_vit_base",
    )
    command.add_argument(
        "--stem",
        choices=("small", "strided"),
        help="of a ResNet whose first convolution is 3x3: stride 1 without max-pool, or stride 2",
    )
    command.add_argument(
        "--out", type=given_path, metavar="FILE", help="a new file that ends in .safetensors"
    )
    command.add_argument(
        "--overwrite", action="store_true", help="let --out take the place of a file"
    )
    add_json(command)
