"""Features of each image as evaluation sees it and of two random views, as a run draws them.

Letters: N images, C channels, S side of a view, D features.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.utils.data import DataLoader, Dataset

from moco.data.changes import draw_changes
from moco.data.crops import CROP_DRAWS, crop_box, cut, evaluation_view, fit
from moco.data.device_views import apply_changes
from moco.data.draws import uniform_draws
from moco.data.images import Images, Pixels, UnreadableImageError
from moco.data.views import normalize
from moco.data.workers import LOADER_TIMEOUT_SECONDS, leave_signals_to_the_run
from moco.errors import DataError
from moco.evaluation.features import FEATURE_BATCH
from moco.specs import ViewsSpec

EPOCH = 0
"""Views are those of this epoch of a run with the same seed."""


@dataclass(frozen=True)
class ViewFeatures:
    """Three rows of features for each image that could be read."""

    plain: Tensor
    """[N, D] of the evaluation view."""
    view_a: Tensor
    """[N, D] of the first random view."""
    view_b: Tensor
    """[N, D] of the second."""
    image_ids: Tensor
    """[N] the images' numbers."""
    skipped: list[tuple[str, str]]
    """Files that could not be read, and why."""


@dataclass(frozen=True)
class ThreeViews(Dataset[tuple[Tensor, Tensor, Tensor] | tuple[str, str]]):
    """The evaluation view of an image and its two crops, or its name and why it cannot be read."""

    images: Images
    image_ids: Sequence[int]
    views: ViewsSpec
    seed: int

    def __len__(self) -> int:
        return len(self.image_ids)

    def __getitem__(self, place: int) -> tuple[Tensor, Tensor, Tensor] | tuple[str, str]:
        image_id = self.image_ids[place]
        try:
            pixels = self.images.read(image_id)
            plain = evaluation_view(pixels, self.views)
            fitted = fit(pixels, self.views.channels, self.views.deep)
        except UnreadableImageError as error:
            return self.images.name(image_id), str(error)
        return plain, self._crop(fitted, image_id, 0), self._crop(fitted, image_id, 1)

    def _crop(self, pixels: Pixels, image_id: int, view: int) -> Tensor:
        """Return the square [C, S, S] that a random view starts from."""
        draws = uniform_draws(self.seed, EPOCH, np.array([image_id]), view, CROP_DRAWS)
        height, width = pixels.shape[:2]
        box = crop_box(draws[0].tolist(), height, width, self.views.crop_scale)
        return cut(pixels, box, self.views.image_size, self.views.channels)


@torch.no_grad()
def extract_view_features(
    network: nn.Module,
    images: Images,
    image_ids: Sequence[int],
    views: ViewsSpec,
    *,
    device: torch.device,
    seed: int = 0,
    workers: int = 0,
    report: Callable[[int, int], None] | None = None,
) -> ViewFeatures:
    """Return the network's features of these images, each in three views.

    The views are a function of the seed and the image's number: the same whichever other images are
    asked for. The network's mode is restored afterwards and nothing of it changes.

    Args:
        report: called with (images done, images in all) after each batch.

    Raises:
        DataError: None of the images can be read.
    """
    was_training = network.training
    network.eval()
    rows: list[list[Tensor]] = []
    known: list[int] = []
    skipped: list[tuple[str, str]] = []
    loader = DataLoader(
        ThreeViews(images, image_ids, views, seed),
        batch_size=FEATURE_BATCH,
        num_workers=workers,
        collate_fn=list,
        timeout=LOADER_TIMEOUT_SECONDS if workers else 0,
        generator=torch.Generator(),  # or the loader would draw from the caller's random state
        worker_init_fn=leave_signals_to_the_run,
    )
    done = 0
    for items in loader:
        ids = image_ids[done : done + len(items)]
        done += len(items)
        readable = [place for place, item in enumerate(items) if len(item) == 3]
        skipped += [item for item in items if len(item) != 3]
        if readable:
            own = [ids[place] for place in readable]
            made = _views([items[place] for place in readable], own, views, seed, device)
            rows.append([network(normalize(part, views)).float().cpu() for part in made])
            known += own
        if report is not None:
            report(done, len(image_ids))
    network.train(was_training)
    if not rows:
        raise DataError(f"none of the {len(image_ids)} images can be read; {': '.join(skipped[0])}")
    plain, view_a, view_b = (torch.cat(parts) for parts in zip(*rows, strict=True))
    return ViewFeatures(plain, view_a, view_b, torch.tensor(known), skipped)


def _views(
    items: list[Any], image_ids: Sequence[int], views: ViewsSpec, seed: int, device: torch.device
) -> tuple[Tensor, Tensor, Tensor]:
    """Return the evaluation views and both random views [N, C, S, S] of a batch, on the device."""
    plain, crops_a, crops_b = (torch.stack(parts).to(device) for parts in zip(*items, strict=True))
    ids = np.array(image_ids, np.int64)
    view_a = apply_changes(crops_a, draw_changes(views, seed, EPOCH, ids, 0), views)
    view_b = apply_changes(crops_b, draw_changes(views, seed, EPOCH, ids, 1), views)
    return plain, view_a, view_b
