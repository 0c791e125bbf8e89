"""From a recipe to modules: the one place where a recipe's words become code."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import nn
from torch.optim import SGD, AdamW, Optimizer

from moco.batch_norm import group_batch_norm, has_batch_norm, sync_batch_norm
from moco.contrast import Contrast, KeySource
from moco.cpu_kernels import narrow_pointwise_stride, outsized_stride
from moco.dictionaries import InBatch, MemoryBank, Queue
from moco.distributed import world_size
from moco.encoders import (
    Encoder,
    build_encoder,
    build_predictor,
    drop_tokens,
    feature_count,
)
from moco.errors import UsageError
from moco.lars import LARS
from moco.recipe import Recipe
from moco.specs import KeyPrecision, Mechanism, OptimizerSpec

CPU = torch.device("cpu")
KEYS_FROM: dict[Mechanism, KeySource] = {
    "queue": "momentum_encoder",
    "in_batch": "momentum_encoder",
    "end_to_end": "query_encoder",
    "memory_bank": "query_itself",
}
KEY_PRECISIONS: dict[KeyPrecision, torch.dtype] = {
    "float32": torch.float32,
    "bfloat16": torch.bfloat16,
}


def build_contrast(
    recipe: Recipe,
    *,
    images: int,
    seed: int,
    device: torch.device = CPU,
    precision: torch.dtype | None = None,
    accumulate: int = 1,
) -> Contrast:
    """Return the recipe's untrained contrast on the device, the same for the same seed.

    Args:
        images: how many there are: a memory bank has a vector for each.
        precision: the type that the encoders compute in, None for float32. Float32 it is too where
            a CPU would get lower precision wrong: see `cpu_kernels`.
        accumulate: how many parts a batch is taken in.

    Raises:
        UsageError: The backbone is unknown, does not take the recipe's image size or drops no
            tokens, or the groups do not go with the number of processes.
    """
    check_shares(recipe, accumulate)
    torch.manual_seed(seed)
    encoder = build_encoder(recipe.encoder, recipe.views)
    drop_tokens(encoder.backbone, recipe.encoder)
    check_sizes(encoder, recipe)
    on_cpu = device.type == "cpu"
    if not (on_cpu and outsized_stride(encoder, recipe.image_size_at(0))):
        encoder.precision = precision
    if not (on_cpu and narrow_pointwise_stride(encoder)):
        encoder.layout = torch.channels_last
    predictor = build_predictor(recipe.encoder, feature_count(encoder.backbone))
    for module in (encoder, predictor):
        if module is not None:
            share_batch_norm(module, recipe.batch_norm_groups, accumulate)
    contrast = Contrast(
        encoder,
        build_dictionary(recipe, images),
        keys_from=KEYS_FROM[recipe.mechanism],
        temperature=recipe.temperature,
        predictor=predictor,
        symmetric=recipe.symmetric,
        shuffle_keys=has_batch_norm(encoder) and recipe.shuffles_keys,
        seed=seed,
    )
    return contrast.to(device, memory_format=encoder.layout)  # type: ignore[call-overload,no-any-return]


def check_shares(recipe: Recipe, accumulate: int = 1) -> None:
    """Refuse a batch that its processes cannot share equally, or take in so many parts.

    Raises:
        UsageError: It is no multiple of their number, or of their parts.
    """
    if accumulate < 1:
        raise UsageError(f"accumulate must be from 1, got {accumulate}")
    if recipe.batch_size % world_size():
        raise UsageError(
            f"batch_size {recipe.batch_size} does not split over {world_size()} processes; set it "
            "to a multiple (it counts the images of all of them)"
        )
    if recipe.batch_size // world_size() % accumulate:
        raise UsageError(
            f"a process's {recipe.batch_size // world_size()} images do not split into "
            f"{accumulate} parts; choose another accumulate"
        )


def share_batch_norm(module: nn.Module, groups: int, accumulate: int = 1) -> None:
    """Make the batch norm inside `module` normalize each of `groups` slices of the global batch.

    Args:
        accumulate: how many parts a process's images come in, whole groups in each.

    Raises:
        UsageError: The groups do not split over the processes, nor one group over all of them, or
            they do not split into the parts.
    """
    processes = world_size()
    if accumulate > 1 and has_batch_norm(module) and groups % (processes * accumulate):
        raise UsageError(
            f"batch_norm_groups {groups} does not split into {accumulate} parts of "
            "each process: batch norm would see less than a group; choose an accumulate that "
            "divides them, or another batch_norm_groups, which is another recipe"
        )
    if groups == 1 < processes:
        sync_batch_norm(module)
    elif groups % processes:
        raise UsageError(
            f"batch_norm_groups {groups} does not split over {processes} processes; set it to 1, "
            "for one group over all, or to a multiple"
        )
    elif groups > processes * accumulate:
        group_batch_norm(module, groups // processes // accumulate)


def build_dictionary(recipe: Recipe, images: int) -> Queue | InBatch | MemoryBank:
    """Return what the recipe's mechanism compares queries with.

    Raises:
        UsageError: It does not fit into memory.
    """
    try:
        return _build_dictionary(recipe, images)
    except RuntimeError as error:  # torch's allocator says no
        rows = images if recipe.mechanism == "memory_bank" else recipe.dictionary.size
        bytes_each = KEY_PRECISIONS[recipe.dictionary.key_precision].itemsize
        size = rows * recipe.encoder.dim * bytes_each / 1e9
        raise UsageError(
            f"a dictionary of {rows:,} vectors needs {size:,.0f} GB; "
            "lower dictionary.size or encoder.dim"
        ) from error


def _build_dictionary(recipe: Recipe, images: int) -> Queue | InBatch | MemoryBank:
    spec, dim = recipe.dictionary, recipe.encoder.dim
    match recipe.mechanism:
        case "queue":
            return Queue(
                spec.size,
                dim,
                exclude_same_image=spec.exclude_same_image,
                filled_only=spec.filled_only,
                key_precision=KEY_PRECISIONS[spec.key_precision],
            )
        case "in_batch" | "end_to_end":
            return InBatch()
        case "memory_bank":
            return MemoryBank(images, dim, negatives=spec.size, bank_momentum=spec.bank_momentum)


@torch.no_grad()
def check_sizes(encoder: Encoder, recipe: Recipe) -> None:
    """Encode one grey image of each size that the recipe uses, so that a misfit is found at once.

    Raises:
        UsageError: The backbone does not take such images.
    """
    encoder.eval()
    views = recipe.views
    sides = [
        (f"views.image_size {views.image_size}", views.image_size),
        (f"views.evaluation_size {views.evaluation_size}", views.evaluation_size),
    ]
    if views.first_size:
        second = min(views.first_size + views.size_step, views.image_size)
        sides += [
            (f"views.first_size {views.first_size}", views.first_size),
            (f"views.first_size + views.size_step {second}", second),
        ]
    for words, side in sides:
        try:
            encoder(torch.zeros(1, encoder.views.channels, side, side))
        except (AssertionError, RuntimeError, ValueError) as error:
            reason = str(error).partition("\n")[0]
            raise UsageError(
                f"{recipe.encoder.backbone} does not take images of {words} "
                f"({reason}); change one of them"
            ) from error
    encoder.train()


def take_up_optimizer(optimizer: Optimizer, state: Mapping[str, Any]) -> None:
    """Load an optimizer's state dict, of this or another machine.

    Each tensor then lies in memory as its weight does: fused steps walk through both side by side,
    and would mix up the numbers of a convolution whose channels lie last in one of them alone.
    """
    optimizer.load_state_dict(dict(state))
    for weight, values in optimizer.state.items():
        for name, value in values.items():
            if isinstance(value, torch.Tensor) and value.shape == weight.shape:
                values[name] = torch.empty_like(weight, dtype=value.dtype).copy_(value)


def build_optimizer(spec: OptimizerSpec, contrast: Contrast) -> Optimizer:
    """Return the optimizer of every weight that trains, the query encoder's and the predictor's."""
    weights = [weight for weight in contrast.parameters() if weight.requires_grad]
    rate, decay, momentum = spec.learning_rate, spec.weight_decay, spec.sgd_momentum
    match spec.algorithm:
        case "sgd":
            optimizer = SGD(weights, lr=rate, momentum=momentum, weight_decay=decay, fused=True)
            if momentum:  # or a first step that is left out would leave them undefined
                for weight in weights:
                    optimizer.state[weight]["momentum_buffer"] = torch.zeros_like(weight)
            return optimizer
        case "adamw":
            return AdamW(weights, lr=rate, weight_decay=decay, fused=True)
        case "lars":
            return LARS(weights, lr=rate, weight_decay=decay, sgd_momentum=momentum)
