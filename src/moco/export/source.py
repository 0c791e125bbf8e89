"""What is exported: a backbone, and what is known of where it comes from."""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor, nn

from moco.checkpoint import Checkpoint
from moco.encoders import Encoder, feature_count
from moco.errors import CheckpointError
from moco.foreign.models import encoder_of
from moco.foreign.reading import read_foreign
from moco.loading import find_checkpoint, stored_encoder
from moco.recipe import Recipe
from moco.specs import EncoderSpec, ViewsSpec


@dataclass(frozen=True)
class ExportSource:
    """A backbone on the CPU in eval mode, and its history as far as it is known."""

    title: str
    """What a person calls it: the word that was given."""
    backbone: nn.Module
    """[N, channels, H, W] -> [N, D]."""
    encoder: EncoderSpec
    views: ViewsSpec
    """How it looks at images."""
    head: nn.Module | None = None
    """[N, D] -> [N, C], None where there is none."""
    recipe: Recipe | None = None
    """By which it was trained, None of a file from elsewhere."""
    checkpoint: Checkpoint | None = None
    """All of a run that goes on from here, None of a file from elsewhere."""
    place: Path | None = None
    """The run's directory, in which evaluations may lie."""
    dynamic_size: bool = False
    """A graph is to take images of any height and width."""
    about: str = ""
    """What a file from elsewhere is."""

    @property
    def features(self) -> int:
        """D."""
        return feature_count(self.backbone)

    @property
    def state(self) -> dict[str, Tensor]:
        """The backbone's tensors by name, each of its own memory."""
        return {name: value.detach().clone() for name, value in self.backbone.state_dict().items()}

    def images(self, count: int = 2) -> Tensor:
        """Return random images [count, channels, H, W], normalized, the same each time."""
        side, draw = self.views.evaluation_size, torch.Generator().manual_seed(0)
        return torch.randn(count, self.views.channels, side, side, generator=draw)


def read_source(path: Path, passed_over: list[str] | None = None) -> ExportSource:
    """Return the backbone of a run or checkpoint directory, or of a file of weights.

    Args:
        passed_over: receives a line for each newer checkpoint that is damaged.

    Raises:
        CheckpointError: There is none that can be used.
        UsageError: A file does not tell its network apart from others.
    """
    if os.path.lexists(path) and not os.path.isdir(path):
        return read_file(path)
    with torch.random.fork_rng(devices=[]):  # what is loaded was drawn before
        checkpoint = find_checkpoint(path, passed_over)
        encoder: Encoder = stored_encoder(checkpoint, path)
    recipe = checkpoint.identity.recipe
    source = ExportSource(
        title=str(path),
        backbone=encoder.backbone,
        encoder=recipe.encoder,
        views=recipe.views,
        head=encoder.head,
        recipe=recipe,
        checkpoint=checkpoint,
        place=path,
    )
    check_finite(source)
    return source


def read_file(path: Path) -> ExportSource:
    """Return the backbone of a file of weights, of any kind that `read_foreign` takes.

    Raises:
        CheckpointError, UsageError: It cannot be used.
    """
    with torch.random.fork_rng(devices=[]):
        weights = read_foreign(path)
        encoder = encoder_of(weights)
    source = ExportSource(
        title=str(path),
        backbone=encoder.backbone,
        encoder=weights.encoder,
        views=weights.views,
        head=encoder.head if weights.head else None,
        about=weights.about,
    )
    check_finite(source)
    return source


def check_finite(source: ExportSource) -> None:
    """Refuse a backbone of numbers that no comparison can pass.

    Raises:
        CheckpointError: A tensor of it that is not finite, by name.
    """
    for name, value in source.state.items():
        if value.is_floating_point() and not bool(value.isfinite().all()):
            raise CheckpointError(
                f"{source.title} holds numbers that are not finite in {name}; export an earlier "
                "checkpoint"
            )
