"""Features of images: one row an image, the network frozen in eval mode.

Letters: N images, D features.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.data import DataLoader, Dataset

from moco.data.crops import evaluation_view
from moco.data.images import Images, UnreadableImageError
from moco.data.views import normalize
from moco.data.workers import LOADER_TIMEOUT_SECONDS, leave_signals_to_the_run
from moco.errors import DataError
from moco.specs import ViewsSpec

FEATURE_BATCH = 128


@dataclass(frozen=True)
class Features:
    """Rows of features and which images they belong to."""

    rows: Tensor
    """[N, D] float32 on the CPU."""
    image_ids: Tensor
    """[N] the images that could be read, in order."""
    skipped: list[tuple[str, str]]
    """Files that could not be read, and why."""


class EvaluationViews(Dataset[Tensor | tuple[str, str]]):
    """The one view of each image that evaluation looks at, or why it cannot be read."""

    def __init__(self, images: Images, views: ViewsSpec) -> None:
        self.images, self.views = images, views

    def __len__(self) -> int:
        return len(self.images)

    def __getitem__(self, image_id: int) -> Tensor | tuple[str, str]:
        try:
            return evaluation_view(self.images.read(image_id), self.views)
        except UnreadableImageError as error:
            return self.images.name(image_id), str(error)


@torch.no_grad()
def extract_features(
    network: nn.Module | None,
    images: Images,
    views: ViewsSpec,
    *,
    device: torch.device,
    workers: int = 0,
    report: Callable[[int, int], None] | None = None,
) -> Features:
    """Return the network's features of every readable image; no network gives raw pixels.

    The network's mode is restored afterwards and none of its weights or statistics change.

    Args:
        report: called with (images done, images in all) after each batch.

    Raises:
        DataError: None of the images can be read.
    """
    found = extract_some(
        network, images, views, range(len(images)), device=device, workers=workers, report=report
    )
    if not len(found.rows):
        first = ": ".join(found.skipped[0])
        raise DataError(f"none of the {len(images)} images can be read; {first}")
    return found


@torch.no_grad()
def extract_some(
    network: nn.Module | None,
    images: Images,
    views: ViewsSpec,
    image_ids: range,
    *,
    device: torch.device,
    workers: int = 0,
    precision: torch.dtype | None = None,
    report: Callable[[int, int], None] | None = None,
) -> Features:
    """Return features as `extract_features` does, of some of the images, maybe of none.

    Args:
        image_ids: which images; the same ones in the same order give the same bits.
        precision: the type that autocast runs the network in; None runs it as it is.
        report: called with (images done, images asked for) after each batch.
    """
    was_training = network is not None and network.training
    if network is not None:
        network.eval()
    rows: list[Tensor] = []
    read: list[int] = []
    skipped: list[tuple[str, str]] = []
    for first, items in _batches_of_views(images, views, image_ids, workers):
        readable = {
            image_ids[first + place]: item
            for place, item in enumerate(items)
            if torch.is_tensor(item)
        }
        skipped += [item for item in items if not torch.is_tensor(item)]
        if readable:
            inputs = normalize(torch.stack(list(readable.values())).to(device), views)
            with torch.autocast(device.type, precision, enabled=precision is not None):
                outputs = network(inputs) if network is not None else inputs.flatten(1)
            rows.append(outputs.float().cpu())
            read += readable
        if report is not None:
            report(first + len(items), len(image_ids))
    if network is not None:
        network.train(was_training)
    together = torch.cat(rows) if rows else torch.empty(0, 0)
    return Features(together, torch.tensor(read, dtype=torch.long), skipped)


def _batches_of_views(
    images: Images, views: ViewsSpec, image_ids: range, workers: int
) -> Iterator[tuple[int, list[Any]]]:
    """Yield the first image's place of a batch, and for each image its view or what is wrong."""
    loader = DataLoader(
        EvaluationViews(images, views),
        batch_size=FEATURE_BATCH,
        sampler=image_ids,
        num_workers=workers,
        collate_fn=list,
        timeout=LOADER_TIMEOUT_SECONDS if workers else 0,
        generator=torch.Generator(),  # or the loader would draw from a run's random state
        worker_init_fn=leave_signals_to_the_run,
    )
    for number, items in enumerate(loader):
        yield number * FEATURE_BATCH, items
