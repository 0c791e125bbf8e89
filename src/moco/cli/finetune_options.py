"""What fine-tuning and few labels take on the command line; no torch in here."""

from __future__ import annotations

import argparse
from dataclasses import replace

from moco.cli.parser import Parser, given_path
from moco.errors import UsageError
from moco.evaluation.finetune_spec import (
    FINETUNE_SPECS,
    FROM_SCRATCH,
    FinetuneSpec,
    with_settings,
)

ABOUT_FEW_LABELS = """

  moco evaluate few-labels RUN --train DIR --test DIR2        1 %, 10 % and all labels
  moco evaluate few-labels RUN ... --per-class 1 5 10         so many of each class
  moco evaluate few-labels RUN ... --split 1percent.txt       a published list of file names

Smaller draws are parts of larger ones, by seed and file name. The probe's penalty is
chosen within the few labels; no other train label and no test label is looked at before
the score. Prints the mean and its 95 % t interval over draws; with --finetune also the
fine-tuned network's, on the same draws."""
ABOUT_FINETUNE = """

  moco evaluate finetune RUN --train DIR --test DIR2 --out NETWORK
  moco evaluate finetune RUN ... --untrained          from scratch, the rival
  moco evaluate finetune RUN ... --tuning vit-v3      MoCo v3's recipe for ViTs

Keeps the epoch that does best on a fifth of the train images, and looks at the test
images once. With --out the same command goes on where it was stopped."""
MEASURES = ("auto", "top1", "balanced_accuracy", "roc_auc")


def add_few_labels(command: Parser) -> None:
    """Let it say how many labels, how often drawn, and by which classifiers."""
    command.add_argument(
        "--shares",
        type=float,
        nargs="+",
        metavar="SHARE",
        help="of each class, at least one image (default: 0.01 0.1 1)",
    )
    command.add_argument(
        "--per-class", type=int, nargs="+", default=[], metavar="N", help="labels of each class"
    )
    command.add_argument(
        "--split",
        type=given_path,
        action="append",
        default=[],
        metavar="FILE",
        help="a text file with an image's path or file name a line; given often, each its own row",
    )
    command.add_argument(
        "--write-splits",
        type=given_path,
        metavar="DIR",
        help="also write the draws there, as such files",
    )
    command.add_argument("--draws", type=int, default=5, metavar="N", help="default: 5")
    command.add_argument(
        "--finetune", action="store_true", help="fine-tune the network on each draw, too"
    )


def add_tuning(command: Parser) -> None:
    """Let it say how a network is trained."""
    command.add_argument(
        "--tuning",
        choices=FINETUNE_SPECS,
        default="default",
        help="default: AdamW, slower near the pixels; the others are MoCo v3's for its ViTs",
    )
    command.add_argument(
        "--set",
        dest="settings",
        action="append",
        default=[],
        metavar="FIELD=VALUE",
        help="change a field of it, such as epochs=20, learning_rate=5e-4 or layer_decay=0.9",
    )
    command.add_argument(
        "--untrained",
        action="store_true",
        help="train the run's network from random weights, all layers at one rate: the rival",
    )
    command.add_argument(
        "--precision",
        default="auto",
        choices=("auto", "float32", "bfloat16"),
        help="auto: bfloat16 where the device is fast in it",
    )
    command.add_argument(
        "--measure",
        choices=MEASURES,
        default="auto",
        help="auto: ROC AUC for two classes, balanced accuracy where classes are unequal, else "
        "top1",
    )
    command.add_argument("--seed", type=int, default=0, metavar="N", help="default: 0")


def add_network(command: Parser) -> None:
    """Let it keep the network."""
    command.add_argument(
        "--out",
        type=given_path,
        metavar="DIR",
        help="keep the fine-tuned network there, as safetensors and JSON, and go on from there "
        "after a stop",
    )


def asked_spec(arguments: argparse.Namespace) -> FinetuneSpec:
    """Return how the network is to be trained.

    Raises:
        UsageError: A setting that makes no sense, or the head's features.
    """
    if arguments.layer != "backbone":
        raise UsageError("fine-tuning starts from the backbone; leave --layer out")
    spec = FINETUNE_SPECS[arguments.tuning]
    if arguments.untrained:
        spec = replace(spec, layer_decay=FROM_SCRATCH.layer_decay)
    return with_settings(spec, arguments.settings)
