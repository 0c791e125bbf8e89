"""Features of any layer inside a network, the network left as it is.

Letters: N images, C channels, H rows, W columns, T tokens, D features.
"""

from __future__ import annotations

import difflib
from typing import Any

import torch
from torch import Tensor, nn

from moco.errors import UsageError


class LayerFeatures(nn.Module):
    """Images [N, channels, H, W] to what one layer inside a network gives of them, [N, D].

    A map [N, C, H, W] becomes its mean over places, also where channels are last, as in Swin:
    equal sides tell which. Tokens [N, T, D] become the class token, where the network has one and
    the layer sees it, else the mean over tokens. Between calls the network has no hook.

    Args:
        network: a whole network; its weights are shared, not copied.
        layer: the name of a module inside, such as "layer3" or "layer4.1.bn2".

    Raises:
        UsageError: There is no such layer.
    """

    def __init__(self, network: nn.Module, layer: str) -> None:
        super().__init__()
        self.network, self.layer = network, layer
        find_layer(network, layer)

    def forward(self, view: Tensor) -> Tensor:
        """Return the layer's features.

        Raises:
            UsageError: The layer is not run just once, or gives nothing that is of one image.
        """
        found: list[Tensor] = []

        def keep(_module: nn.Module, _inputs: Any, output: Any) -> None:
            # at once, since what follows may write into the same memory
            found.append(self._pooled(output, len(view)))

        hook = find_layer(self.network, self.layer).register_forward_hook(keep)
        try:
            self.network(view)
        finally:
            hook.remove()
        if len(found) != 1:
            raise UsageError(
                f"layer '{self.layer}' runs {len(found)} times for an image, not once; name another"
            )
        return found[0]

    def _pooled(self, output: Any, images: int) -> Tensor:
        is_of_images = isinstance(output, Tensor) and output.ndim > 1 and len(output) == images
        if not is_of_images or output.ndim > 4 or not output.is_floating_point():
            raise UsageError(
                f"layer '{self.layer}' gives {_said(output)}, not a map, tokens or a row for each "
                "image; name another"
            )
        rows: Tensor = output
        if rows.ndim == 4:
            channels, height, width = rows.shape[1:]
            is_last = channels == height != width
            return rows.mean(dim=(1, 2) if is_last else (2, 3))
        if rows.ndim == 3:
            return rows[:, 0].clone() if self._sees_class_token(rows) else rows.mean(dim=1)
        return rows.clone()

    def _sees_class_token(self, tokens: Tensor) -> bool:
        backbone = getattr(self.network, "backbone", self.network)
        patches = getattr(getattr(backbone, "patch_embed", None), "num_patches", None)
        token = [getattr(backbone, name, None) for name in ("cls_token", "class_token")]
        return any(torch.is_tensor(one) for one in token) and tokens.shape[1] != patches


def find_layer(network: nn.Module, layer: str) -> nn.Module:
    """Return the module of that name inside a network.

    Raises:
        UsageError: There is none; the nearest names.
    """
    known: dict[str, nn.Module] = {name: module for name, module in network.named_modules() if name}
    if layer in known:
        return known[layer]
    near = difflib.get_close_matches(layer, known, n=3)
    hint = f"did you mean {', '.join(near)}?" if near else f"it has {', '.join(list(known)[:6])}..."
    raise UsageError(f"the network has no layer '{layer}'; {hint}")


def _said(output: Any) -> str:
    return str(list(output.shape)) if isinstance(output, Tensor) else type(output).__name__
