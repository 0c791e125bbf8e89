"""From a recipe to modules: the one place where a recipe's words become code."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.optim import SGD, AdamW, Optimizer

from moco.batch_norm import group_batch_norm, has_batch_norm
from moco.contrast import Contrast
from moco.dictionaries import Queue
from moco.distributed import world_size
from moco.encoders import Encoder, build_encoder
from moco.errors import UsageError
from moco.recipes import OptimizerSpec, Recipe

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
            the CPU would get lower precision wrong: see `outsized_stride`.

    Raises:
        UsageError: The backbone is unknown or does not take the recipe's image size, or the groups
            do not go with the number of processes.
    """
    torch.manual_seed(seed)
    encoder = build_encoder(recipe.encoder, precision)
    groups_here, left = divmod(recipe.batch_norm_groups, world_size())
    if left or not groups_here:
        raise UsageError(
            f"batch_norm_groups {recipe.batch_norm_groups} does not split over "
            f"{world_size()} processes"
        )
    check_sizes(encoder, recipe)
    if device.type == "cpu" and outsized_stride(encoder, recipe.views.image_size):
        encoder.precision = None
    leaks = has_batch_norm(encoder)
    if leaks and groups_here > 1:
        group_batch_norm(encoder, groups_here)
    contrast = Contrast(
        encoder,
        Queue(
            recipe.dictionary.size,
            recipe.encoder.dim,
            exclude_same_image=recipe.dictionary.exclude_same_image,
        ),
        temperature=recipe.temperature,
        symmetric=recipe.symmetric,
        shuffle_keys=leaks and recipe.batch_norm_groups > 1,
        shuffle_seed=seed,
    )
    return contrast.to(device, memory_format=torch.channels_last)  # type: ignore[call-overload,no-any-return]


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
            raise UsageError(
                f"{recipe.encoder.backbone} does not take images of views.{field} {side}: {error}"
            ) from error
    encoder.train()


@torch.no_grad()
def outsized_stride(encoder: Encoder, side: int) -> str:
    """Return the name of a convolution whose stride is larger than the map it sees, "" if none.

    On images so small for the network, oneDNN 3.12 (torch 2.14) leaves parts of that layer's
    bfloat16 weight gradient unwritten on CPUs: whatever lay in memory is there, NaN included.
    """
    found: list[str] = []
    layers = {
        name: layer for name, layer in encoder.named_modules() if isinstance(layer, nn.Conv2d)
    }

    def look(name: str, layer: nn.Conv2d, seen: Tensor) -> None:
        if any(step > length for step, length in zip(layer.stride, seen.shape[2:], strict=True)):
            found.append(name)

    hooks = [
        layer.register_forward_pre_hook(
            lambda layer, inputs, name=name: look(name, layer, inputs[0])
        )
        for name, layer in layers.items()
    ]
    encoder.eval()(torch.zeros(1, 3, side, side))
    encoder.train()
    for hook in hooks:
        hook.remove()
    return found[0] if found else ""


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
