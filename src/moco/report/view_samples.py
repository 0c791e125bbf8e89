"""What training compared: two random views of some images."""

from __future__ import annotations

from collections.abc import Sequence

from moco.data.images import Images, StoredImages, UnreadableImageError, spread
from moco.data.view_samples import sample_views
from moco.data.views import view_picture
from moco.errors import DataError
from moco.report.page import Cell, pairs, paragraph, section
from moco.report.run_files import ReportedRun
from moco.specs import ViewsSpec

MOST_IMAGES = 12


def views_section(runs: Sequence[ReportedRun], images: StoredImages) -> str:
    """Return pairs of views of images spread over the source, once for each recipe's views.

    Raises:
        DataError: None of the images can be read.
    """
    kinds: dict[ViewsSpec, list[ReportedRun]] = {}
    for run in runs:
        kinds.setdefault(run.recipe.views, []).append(run)
    count = MOST_IMAGES if len(kinds) == 1 else MOST_IMAGES // 2
    ids = readable_ids(images, count)
    if not ids:
        raise DataError(
            "no image that was looked at can be read; `moco data check` says why, or leave out "
            "--images"
        )
    parts = []
    for views, those in kinds.items():
        if len(kinds) > 1:
            parts.append(paragraph(", ".join(run.name for run in those)))
        parts.append(pairs(view_pairs(images, ids, views, seed_of(those[0]))))
    about = (
        "What training compares: the two views of a pair should get the same embedding, views of "
        "different images different ones. These are of the run's first epoch."
    )
    others = [run.name for run in runs if not is_of(run, images)]
    if others:
        about += f" The images given are not those that {', '.join(others)} trained on."
    return section("Two views of each image", *parts, paragraph(about, "soft"), key="views")


def view_pairs(
    images: Images, ids: Sequence[int], views: ViewsSpec, seed: int
) -> list[tuple[Cell, Cell]]:
    """Return both views of each image as training sees them in its first epoch."""
    made = []
    for image_id in ids:
        name = images.name(image_id)
        try:
            first, second = sample_views(images, image_id, views, seed=seed)
        except UnreadableImageError:  # it is of another kind than the recipe's
            continue
        made.append((Cell(view_picture(first), name), Cell(view_picture(second), name)))
    return made


def readable_ids(images: Images, count: int) -> list[int]:
    """Return readable image numbers, at most `count`, spread over all images."""
    chosen = []
    for image_id in spread(len(images), count):
        try:
            images.read(image_id)
        except UnreadableImageError:
            continue
        chosen.append(image_id)
    return chosen


def seed_of(run: ReportedRun) -> int:
    """Return the seed that the run's views are drawn with, 0 where no checkpoint tells it."""
    seed = run.identity.get("seed")
    return seed if isinstance(seed, int) and 0 <= seed < 1 << 63 else 0


def is_of(run: ReportedRun, images: StoredImages) -> bool:
    """Say whether the run trained on these images, or nothing tells."""
    known = run.identity.get("image_fingerprint")
    return known is None or known == images.fingerprint()
