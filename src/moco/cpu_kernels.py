"""What the CPU's convolutions get wrong, and how encoders steer clear of it.

Seen with oneDNN 3.12 in torch 2.14 on an x86 with AVX-512 and AMX; tests/test_cpu_kernels.py has
each case. Elsewhere these rules cost a little speed on networks that are too small to mind.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from moco.encoders import Encoder

NARROW_CHANNELS = 16


@torch.no_grad()
def outsized_stride(encoder: Encoder, side: int) -> str:
    """Return the name of a convolution whose stride is larger than the map it sees, "" if none.

    Images of `side` pixels are then so small for the network that parts of that layer's bfloat16
    weight gradient stay unwritten: whatever lay in memory is there, NaN included.
    """
    found: list[str] = []

    def look(name: str, layer: nn.Conv2d, seen: Tensor) -> None:
        if any(step > length for step, length in zip(layer.stride, seen.shape[2:], strict=True)):
            found.append(name)

    hooks = [
        layer.register_forward_pre_hook(lambda layer, seen, name=name: look(name, layer, seen[0]))
        for name, layer in encoder.named_modules()
        if isinstance(layer, nn.Conv2d)
    ]
    was_training = encoder.training
    encoder.eval()(torch.zeros(1, encoder.views.channels, side, side))
    encoder.train(was_training)
    for hook in hooks:
        hook.remove()
    return found[0] if found else ""


def narrow_pointwise_stride(encoder: Encoder) -> str:
    """Return the name of a strided 1x1 convolution of fewer than 16 channels, "" if none.

    With channels last, such a layer writes beyond its memory in float32 and the process dies.
    """
    return next(
        (
            name
            for name, layer in encoder.named_modules()
            if isinstance(layer, nn.Conv2d)
            and layer.kernel_size == (1, 1)
            and max(layer.stride) > 1
            and layer.in_channels < NARROW_CHANNELS
        ),
        "",
    )
