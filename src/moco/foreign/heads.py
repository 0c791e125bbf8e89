"""Which head and predictor a file's tensors are of, and its queue.

Letters: C embedding size, K queue size.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import replace

from torch import Tensor

from moco.specs import EncoderSpec


def with_head(spec: EncoderSpec, head: Mapping[str, Tensor], features: int) -> EncoderSpec:
    """Return the spec with the head that has most of these tensors.

    Args:
        features: of the backbone.
    """
    if "0.weight" not in head and "0.bias" not in head:
        dim = _rows(head, "weight", spec.dim)
        return replace(spec, head="linear", dim=dim, head_width=0)
    width = _rows(head, "0.weight", features)
    spec = replace(spec, head_width=0 if width == features else width)
    if any(name.startswith("2.") for name in head):
        return replace(spec, head="mlp", dim=_rows(head, "2.weight", spec.dim))
    layers = [name for name in head if re.fullmatch(r"\d+\.weight", name) and head[name].ndim == 2]
    last = max(layers, key=lambda name: int(name.partition(".")[0]), default="")
    count = max(2, len(layers))
    dim = _rows(head, last, spec.dim)
    return replace(spec, head="mlp_bn", head_layers=count, dim=dim)


def with_predictor(spec: EncoderSpec, predictor: Mapping[str, Tensor]) -> EncoderSpec:
    """Return the spec with the predictor that has most of these tensors."""
    has_last = any(name.startswith("4.") for name in predictor)
    return replace(spec, predictor="mlp_bn" if has_last else "mlp")


def plain_linear(head: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Return the tensors of one layer that stands alone in a sequence as the layer's own."""
    if set(head) == {"0.weight", "0.bias"}:
        return {name.removeprefix("0."): value for name, value in head.items()}
    return dict(head)


def our_queue(queue: Tensor, dim: int) -> Tensor | None:
    """Return a queue as [K, C], None where it has none of the layouts that are in use."""
    if queue.ndim != 2 or dim not in queue.shape:
        return None
    return queue.T.contiguous() if queue.shape[0] == dim else queue.contiguous()


def _rows(tensors: Mapping[str, Tensor], name: str, default: int) -> int:
    value = tensors.get(name)  # an empty one can claim any number of rows
    return len(value) if value is not None and value.ndim == 2 and value.numel() else default
