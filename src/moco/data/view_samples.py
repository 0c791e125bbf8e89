"""The views of single images, as training would see them: for pages and previews."""

from __future__ import annotations

import numpy as np
from torch import Tensor

from moco.data.changes import draw_changes
from moco.data.crops import CROP_DRAWS, crop_box, cut, fit
from moco.data.device_views import apply_changes
from moco.data.draws import uniform_draws
from moco.data.images import Images
from moco.specs import ViewsSpec


def sample_views(
    images: Images, image_id: int, views: ViewsSpec, *, seed: int, epoch: int = 0, side: int = 0
) -> tuple[Tensor, Tensor]:
    """Return both views [C, S, S] of an image in an epoch of the run with this seed.

    Args:
        side: S, 0 for the recipe's image_size.

    Raises:
        UnreadableImageError: The image cannot be used.
    """
    pixels = fit(images.read(image_id), views.channels, views.deep)
    ids = np.array([image_id])
    made = []
    for view in (0, 1):
        numbers = uniform_draws(seed, epoch, ids, view, CROP_DRAWS)[0].tolist()
        height, width = pixels.shape[:2]
        box = crop_box(numbers, height, width, views.crop_scale)
        crop = cut(pixels, box, side or views.image_size, views.channels)
        changes = draw_changes(views, seed, epoch, ids, view)
        made.append(apply_changes(crop[None], changes, views)[0])
    return made[0], made[1]
