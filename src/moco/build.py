"""From a recipe to modules: the one place where a recipe's words become code."""

from __future__ import annotations

import torch
from torch.optim import SGD, AdamW, Optimizer

from moco.batch_norm import group_batch_norm, has_batch_norm
from moco.contrast import Contrast
from moco.cpu_kernels import narrow_pointwise_stride, outsized_stride
from moco.dictionaries import Queue
from moco.distributed import world_size
from moco.encoders import Encoder, build_encoder
from moco.errors import UsageError
from moco.recipes import Recipe
from moco.specs import OptimizerSpec, QueueSpec

CPU = torch.device("cpu")


def build_contrast(
    recipe: Recipe,
    *,
    seed: int,
    device: torch.device = CPU,
    precision: torch.dtype | None = None,
) -> Contrast:
    """Return the recipe's untrained contrast on the device, the same for the same seed.

    Args:
        precision: the type that the encoders compute in, None for float32. Float32 it is too where
            a CPU would get lower precision wrong: see `cpu_kernels`.

    Raises:
        UsageError: The backbone is unknown or does not take the recipe's image size, or the groups
            do not go with the number of processes.
    """
    torch.manual_seed(seed)
    encoder = build_encoder(recipe.encoder)
    groups_here, left = divmod(recipe.batch_norm_groups, world_size())
    if left or not groups_here:
        raise UsageError(
            f"batch_norm_groups {recipe.batch_norm_groups} does not split over "
            f"{world_size()} processes"
        )
    check_sizes(encoder, recipe)
    on_cpu = device.type == "cpu"
    if not (on_cpu and outsized_stride(encoder, recipe.views.image_size)):
        encoder.precision = precision
    if not (on_cpu and narrow_pointwise_stride(encoder)):
        encoder.layout = torch.channels_last
    leaks = has_batch_norm(encoder)
    if leaks and groups_here > 1:
        group_batch_norm(encoder, groups_here)
    contrast = Contrast(
        encoder,
        build_queue(recipe.dictionary, recipe.encoder.dim),
        temperature=recipe.temperature,
        symmetric=recipe.symmetric,
        shuffle_keys=leaks and recipe.batch_norm_groups > 1,
        shuffle_seed=seed,
    )
    return contrast.to(device, memory_format=encoder.layout)  # type: ignore[call-overload,no-any-return]


def build_queue(spec: QueueSpec, dim: int) -> Queue:
    """Return the queue.

    Raises:
        UsageError: It does not fit into memory.
    """
    try:
        return Queue(spec.size, dim, exclude_same_image=spec.exclude_same_image)
    except RuntimeError as error:  # torch's allocator says no
        raise UsageError(
            f"a queue of {spec.size:,} keys needs {spec.size * dim * 4 / 1e9:,.0f} GB; "
            "lower dictionary.size"
        ) from error


@torch.no_grad()
def check_sizes(encoder: Encoder, recipe: Recipe) -> None:
    """Encode one grey image of each size that the recipe uses, so that a misfit is found at once.

    Raises:
        UsageError: The backbone does not take such images.
    """
    encoder.eval()
    for field in ("image_size", "evaluation_size"):
        side = getattr(recipe.views, field)
        try:
            encoder(torch.zeros(1, 3, side, side))
        except (AssertionError, RuntimeError, ValueError) as error:
            reason = str(error).partition("\n")[0]
            raise UsageError(
                f"{recipe.encoder.backbone} does not take images of views.{field} {side} "
                f"({reason}); change one of them"
            ) from error
    encoder.train()


def build_optimizer(spec: OptimizerSpec, contrast: Contrast) -> Optimizer:
    """Return the optimizer of the query encoder's weights; decay is on all of them."""
    weights = [weight for weight in contrast.parameters() if weight.requires_grad]
    match spec.algorithm:
        case "sgd":
            return SGD(
                weights,
                lr=spec.learning_rate,
                momentum=spec.sgd_momentum,
                weight_decay=spec.weight_decay,
                fused=True,
            )
        case "adamw":
            return AdamW(weights, lr=spec.learning_rate, weight_decay=spec.weight_decay, fused=True)
