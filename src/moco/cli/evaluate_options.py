"""What each kind of `moco evaluate` takes; no torch in here."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from moco.cli.finetune_options import (
    ABOUT_FEW_LABELS,
    ABOUT_FINETUNE,
    add_few_labels,
    add_network,
    add_tuning,
)
from moco.cli.linear_options import ABOUT_LINEAR, add_linear
from moco.cli.parser import Parser, given_model, given_path
from moco.cli.shared_options import add_device, add_json

ABOUT_KNN = """

Prints top1 with its 95 % interval, balanced accuracy and, with two classes, the
ROC AUC of the second class by name; then the same for all numbers of neighbours and
temperatures, the setting that train images choose, and published protocols with their
numbers. Labelled images are class folders, or any source with labels (docs/sources.md)."""
ABOUT_RETRIEVAL = """

Test images ask, train images are the gallery: recall at k (is one of the first k of the
query's class?) and mean average precision over all of its class. Give one source as
both --train and --test and each image asks for the others."""

MEASURES = (
    "auto",
    "top1",
    "balanced_accuracy",
    "macro_f1",
    "roc_auc",
    "mean_average_precision",
    "r2",
)

ABOUT_LABEL_FREE = """

  moco evaluate label-free RUN --images PHOTOS
  moco evaluate label-free RUN --images PHOTOS --checkpoints all
  moco evaluate label-free RUN1 RUN2 RUN3 --images PHOTOS

Prints effective rank, feature deviation, uniformity, alignment, and whether the
neighbours of an image stay the same in another view; of several checkpoints, which
one each measure would choose. Any source serves, labels or none. None of the
measures is an accuracy: docs/label_free.md says what each tells and where it failed."""


MODEL_HELP = (
    "a run, checkpoint or fine-tuned network's directory; a file of weights (docs/import.md); "
    "untrained:RUN; pixels[:RUN]; "
    "timm:NAME or torchvision:NAME, with random weights or, as NAME@FILE, those of a file"
)
LAYER_HELP = (
    "backbone (the default), head (a run's projection head), or a layer of the backbone, such as "
    "layer3"
)


def add_sources(command: Parser) -> None:
    """Let it take labelled images to learn of, and others to be asked about."""
    command.add_argument(
        "--train", required=True, type=given_path, metavar="SRC", help="labelled images to learn of"
    )
    command.add_argument(
        "--test", required=True, type=given_path, metavar="SRC2", help="those that are asked about"
    )


def add_labelled_pair(command: Parser) -> None:
    """Let it take a model and the labelled images that it is judged on, or their features."""
    command.add_argument(
        "run",
        metavar="MODEL",
        nargs="?",
        type=given_model,
        help=f"{MODEL_HELP}; none where --train and --test are files of features",
    )
    add_sources(command)
    add_layer(command)


def add_layer(command: Parser) -> None:
    """Let it say which features are taken, and where."""
    command.add_argument("--layer", default="backbone", metavar="NAME", help=LAYER_HELP)
    add_device(command)
    command.add_argument("--workers", type=int, default=0, metavar="N", help="default: 0")
    add_json(command)


def add_labels(command: Parser) -> None:
    """Let it say what the labels are."""
    command.add_argument(
        "--labels",
        choices=("auto", "one-class", "several-classes", "numbers"),
        default="auto",
        help="what labels are; auto: several classes where one has ; or | between names, numbers "
        "where all are numbers and one has a fraction, else one class an image",
    )


def add_measure(command: Parser) -> None:
    """Let it say what is scored."""
    command.add_argument(
        "--measure",
        choices=MEASURES,
        default="auto",
        help="what is scored; auto: ROC AUC for two classes, balanced accuracy where classes are "
        "unequal, else top1; mean AP for several classes an image, R2 for numbers",
    )


def add_linear_options(command: Parser) -> None:
    """Let it say how the classifier is fitted."""
    add_labelled_pair(command)
    add_labels(command)
    add_measure(command)
    add_linear(command)


def add_knn_options(command: Parser) -> None:
    """Let it say who votes and how much."""
    add_labelled_pair(command)
    add_labels(command)
    command.add_argument("--neighbours", type=int, default=200, metavar="K", help="default: 200")
    command.add_argument(
        "--temperature", type=float, default=0.07, metavar="T", help="default: 0.07"
    )
    add_measure(command)


def add_retrieval_options(command: Parser) -> None:
    """Let it say how far down the found images are looked at."""
    add_labelled_pair(command)
    add_labels(command)
    command.add_argument(
        "--depths",
        type=int,
        nargs="+",
        default=[1, 5, 10, 20, 100],
        metavar="K",
        help="recall is told at these (default: 1 5 10 20 100)",
    )


def add_few_labels_options(command: Parser) -> None:
    """Let it say how many labels there are."""
    add_labelled_pair(command)
    command.set_defaults(labels="one-class")
    add_few_labels(command)
    add_tuning(command)


def add_finetune_options(command: Parser) -> None:
    """Let it say how the network is trained and where it is kept."""
    command.add_argument(
        "run", metavar="RUN", type=given_path, help="a run or checkpoint directory"
    )
    add_sources(command)
    add_layer(command)
    add_tuning(command)
    add_network(command)


def add_label_free_options(command: Parser) -> None:
    """Let it take checkpoints and images without labels."""
    command.add_argument(
        "runs", metavar="RUN", nargs="+", type=given_path, help="run or checkpoint directories"
    )
    command.add_argument(
        "--images", required=True, type=given_path, metavar="SRC", help="images, labels or none"
    )
    command.add_argument(
        "--checkpoints",
        choices=("newest", "all"),
        default="newest",
        help="of each run: the newest (the default) or all that it keeps",
    )
    command.add_argument(
        "--layer",
        choices=("backbone", "head"),
        default="backbone",
        help="features of the backbone (the default) or of the projection head",
    )
    command.add_argument(
        "--most-images",
        type=int,
        default=2000,
        metavar="N",
        help="look at so many at most, spread over the source (default: 2000)",
    )
    command.add_argument(
        "--neighbours",
        type=int,
        default=10,
        metavar="K",
        help="compared between two views of an image (default: 10)",
    )
    command.add_argument(
        "--seed", type=int, default=0, metavar="N", help="decides the views (default: 0)"
    )
    add_device(command)
    command.add_argument("--workers", type=int, default=0, metavar="N", help="default: 0")
    add_json(command)


@dataclass(frozen=True)
class Evaluation:
    """A kind of evaluation: its module, a line and more about it, and its options."""

    module: str
    about: str
    more: str
    add_options: Callable[[Parser], None]


EVALUATIONS = {
    "knn": Evaluation(
        "moco.cli.evaluate_knn",
        "weighted nearest-neighbour classification on labelled images",
        ABOUT_KNN,
        add_knn_options,
    ),
    "linear": Evaluation(
        "moco.cli.evaluate_linear",
        "a linear classifier on frozen features, without a learning rate to guess",
        ABOUT_LINEAR,
        add_linear_options,
    ),
    "retrieval": Evaluation(
        "moco.cli.evaluate_retrieval",
        "whether the images nearest to a test image are of its class",
        ABOUT_RETRIEVAL,
        add_retrieval_options,
    ),
    "few-labels": Evaluation(
        "moco.cli.evaluate_few_labels",
        "a linear probe, or fine-tuning, with a share or some of the labels of each class",
        ABOUT_FEW_LABELS,
        add_few_labels_options,
    ),
    "finetune": Evaluation(
        "moco.cli.evaluate_finetune",
        "train the whole network on labelled images, and score and keep it",
        ABOUT_FINETUNE,
        add_finetune_options,
    ),
    "label-free": Evaluation(
        "moco.cli.evaluate_label_free",
        "what features show without labels, over one checkpoint or many",
        ABOUT_LABEL_FREE,
        add_label_free_options,
    ),
}
