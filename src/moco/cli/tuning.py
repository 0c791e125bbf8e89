"""What `moco evaluate finetune`, `few-labels --finetune` and `linear --protocol official` share."""

from __future__ import annotations

import argparse
import sys
import time
from contextlib import suppress
from pathlib import Path

from torch import nn

from moco.cli.output import printable
from moco.cli.terminal import LOG_EVERY_SECONDS
from moco.device import pick_device, pick_precision
from moco.errors import StorageError, UsageError, storage_remedy
from moco.evaluation.finetune import random_backbone
from moco.evaluation.finetune_training import Compute, EpochFigures
from moco.evaluation.linear_training import LinearEpoch
from moco.loading import load_with_recipe
from moco.recipe import Recipe

CACHE_BYTES = 1 << 30
"""Decoded train images are kept in memory up to this size, in all loading processes together."""


def starting_network(arguments: argparse.Namespace) -> tuple[nn.Module, Recipe]:
    """Return the backbone that is fine-tuned, trained or random, and the run's recipe."""
    backbone, recipe = trained_network(arguments)
    if arguments.untrained:
        backbone = random_backbone(recipe.encoder, recipe.views, arguments.seed)
    return backbone, recipe


def trained_network(arguments: argparse.Namespace) -> tuple[nn.Module, Recipe]:
    """Return the run's backbone and its recipe; a damaged checkpoint before it is told.

    Raises:
        UsageError: No run was named.
        CheckpointError: There is none, or it is damaged.
    """
    if arguments.run is None:
        raise UsageError("name a RUN: a network is trained on, and files of features have none")
    passed_over: list[str] = []
    backbone, recipe = load_with_recipe(arguments.run, passed_over=passed_over)
    for line in passed_over:
        print(printable(f"an older checkpoint is evaluated: {line}"), file=sys.stderr)
    return backbone, recipe


def make_folder(folder: Path) -> None:
    """Make a folder that results go to, unless it is there.

    Raises:
        StorageError: It cannot be made.
    """
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        reason = error.strerror or error
        raise StorageError(f"cannot make {folder}: {reason}; {storage_remedy(error)}") from error


def asked_compute(arguments: argparse.Namespace) -> Compute:
    """Return where and how to compute.

    Raises:
        UsageError: A device that is not there, or fewer workers or a lower seed than 0.
    """
    if arguments.workers < 0:
        raise UsageError(f"--workers must be from 0, got {arguments.workers}")
    if not 0 <= arguments.seed < 1 << 31:
        raise UsageError(f"--seed must be from 0 to 2^31 - 1, got {arguments.seed}")
    device = pick_device(arguments.device)
    precision = pick_precision(arguments.precision, device)
    return Compute(device, precision, arguments.workers)


def train_cache_bytes(compute: Compute) -> int:
    """Return how much of the decoded train images a process keeps: they come again each epoch."""
    return CACHE_BYTES // max(1, compute.workers)


class EpochLines:
    """Says on standard error how epochs go: each on a terminal, now and then elsewhere."""

    def __init__(self) -> None:
        self.shown_at = time.monotonic()

    def report(self, figures: EpochFigures | LinearEpoch) -> None:
        """Show the epoch, unless one was shown a moment ago."""
        now = time.monotonic()
        with suppress(OSError, ValueError, AttributeError):  # nobody reads it any more
            if not sys.stderr.isatty() and now - self.shown_at < LOG_EVERY_SECONDS:
                return
            self.shown_at = now
            line = f"epoch {figures.epoch}/{figures.epochs}  loss {figures.loss:.4f}"
            if isinstance(figures, LinearEpoch):
                line += f"  test {100 * figures.test_top1:.2f} %"
            elif figures.validation_score is not None:
                line += f"  held out {100 * figures.validation_score:.2f} %"
            print(line, file=sys.stderr, flush=True)
