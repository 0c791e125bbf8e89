"""Features of very many images, taken in parts that outlive a kill, by one process or several."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from moco.data.images import Images, StoredImages
from moco.data.sources.folder import FolderImages
from moco.distributed import rank, world_size
from moco.errors import DataError
from moco.evaluation.feature_parts import FeatureParts, Skipped
from moco.evaluation.feature_set import FeatureSet, Task
from moco.evaluation.features import Features, extract_some
from moco.evaluation.finetune_training import Compute
from moco.evaluation.label_kinds import read_labels, task_of_labels
from moco.processes import check_same, gather_lists, together
from moco.specs import ViewsSpec

PART_IMAGES = 4096
"""A multiple of what goes through the network at once, so that parts change no batch."""


@dataclass(frozen=True)
class Embedded:
    """Rows of features of the images that could be read."""

    rows: Tensor
    """[N, D] float32, memory-mapped from the folder of parts: it goes when that is dropped."""
    image_ids: Tensor
    """[N]"""
    skipped: list[Skipped]


def embed(
    network: nn.Module | None,
    images: Images,
    views: ViewsSpec,
    parts: FeatureParts,
    *,
    compute: Compute,
    report: Callable[[int, int], None] | None = None,
) -> Embedded | None:
    """Take the features of all images, those of parts that are done before left alone.

    The same images and network on the same kind of device give the same bytes, however often it
    was stopped. Of several processes each takes its share of the parts, on storage that all see.

    Args:
        network: on the device, in eval mode; None for raw pixels.
        report: called with (images done, images in all) of this process's share, after each batch.

    Returns:
        What was taken; None in all processes but the first.

    Raises:
        UsageError: The folder has parts of something else.
        DataError: None of the images can be read.
        StorageError: A part cannot be written.
    """
    check_same("images, model or options", repr(parts.about))
    missing = gather_lists(together(lambda: _begin(parts)))
    own = missing[rank() :: world_size()]
    together(lambda: _take(network, images, views, parts, own, missing, compute, report))
    return together(lambda: _put_together(parts) if rank() == 0 else None)


def _begin(parts: FeatureParts) -> list[int]:
    """Return which parts are missing, in the first process; none in others."""
    if rank() > 0:
        return []
    parts.begin()
    return parts.missing()


def _take(
    network: nn.Module | None,
    images: Images,
    views: ViewsSpec,
    parts: FeatureParts,
    own: Sequence[int],
    missing: Sequence[int],
    compute: Compute,
    report: Callable[[int, int], None] | None,
) -> None:
    about = parts.about
    done = about.count - sum(len(about.image_ids(part)) for part in missing)
    total = done + sum(len(about.image_ids(part)) for part in own)
    for part in own:

        def tell(of_part: int, _: int, before: int = done) -> None:
            if report is not None:
                report(before + of_part, total)

        found = extract_some(
            network,
            images,
            views,
            about.image_ids(part),
            device=compute.device,
            workers=compute.workers,
            precision=compute.precision,
            report=tell,
        )
        parts.keep(part, found)
        done += len(about.image_ids(part))


def _put_together(parts: FeatureParts) -> Embedded:
    skipped, count = parts.skipped(), parts.about.count
    if len(skipped) == count:
        first = f"{skipped[0].name}: {skipped[0].reason}"
        raise DataError(f"none of the {count} images can be read; {first}")
    is_read = torch.ones(count, dtype=torch.bool)
    is_read[[image.image_id for image in skipped]] = False
    return Embedded(parts.rows(skipped), is_read.nonzero().flatten(), skipped)


def source_labels(
    images: StoredImages, source: object, task: Task | None
) -> tuple[Tensor, tuple[str, ...]]:
    """Return the labels of all images as `FeatureSet` has them, and the classes' names.

    Args:
        task: what is asked of the images; None for what the labels look like.

    Raises:
        DataError: A task is asked for and there are no labels, or labels that do not suit it.
    """
    names = images.labels()
    if names is None and task is not None:
        raise DataError(f"{source} has no labels; leave --labels out, or label the images")
    if names is None:
        return torch.empty(0, dtype=torch.long), ()
    if task is None:
        task = "one_class" if isinstance(images, FolderImages) else task_of_labels(names)
    return read_labels(names, task, source)


def as_feature_set(
    found: Embedded | Features,
    images: Images,
    labels: tuple[Tensor, tuple[str, ...]],
    *,
    encoder: str,
    title: str,
) -> FeatureSet:
    """Return features with labels and names; rows that are memory-mapped stay so.

    Args:
        labels: by `source_labels`.
    """
    of_all, classes = labels
    return FeatureSet(
        found.rows,
        of_all[found.image_ids] if len(of_all) else of_all,
        classes,
        paths=tuple(images.name(image_id) for image_id in found.image_ids.tolist()),
        encoder=encoder,
        title=title,
    )
