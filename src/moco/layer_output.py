"""The features of any layer: what a submodule of the backbone gives out, one row an image."""

from __future__ import annotations

import difflib

from torch import Tensor, nn

from moco.errors import UsageError

MOST_NAMED = 3


class LayerOutput(nn.Module):
    """Images to a layer's output as rows, [N, channels, H, W] -> [N, D]; the rest runs as ever.

    [N, D, H, W] is averaged over places. Of [N, T, D], tokens, the first is taken where the
    backbone has a class token, else their mean. Anything else is refused.

    Args:
        backbone: whose `forward` passes through the layer once.
        layer: the submodule's dotted name.

    Raises:
        UsageError: There is no such layer.
    """

    def __init__(self, backbone: nn.Module, layer: str) -> None:
        super().__init__()
        self.backbone, self.layer = backbone, layer
        names = [name for name, _ in backbone.named_modules() if name]
        if layer not in names:
            near = difflib.get_close_matches(layer, names, MOST_NAMED, cutoff=0.4)
            outer = [name for name in names if "." not in name]
            raise UsageError(
                f"the backbone has no layer '{layer}'; "
                + (f"did you mean {', '.join(near)}? " if near else "")
                + f"Its outermost are {', '.join(outer)}"
            )

    def forward(self, images: Tensor) -> Tensor:
        found: list[object] = []
        module = self.backbone.get_submodule(self.layer)
        handle = module.register_forward_hook(lambda _, __, output: found.append(output))
        try:
            self.backbone(images)
        finally:
            handle.remove()
        if len(found) != 1:
            raise UsageError(
                f"layer '{self.layer}' runs {len(found)} times for an image; choose another"
            )
        return self._rows(found[0])

    def _rows(self, output: object) -> Tensor:
        if isinstance(output, Tensor):
            if output.ndim == 2:
                return output
            if output.ndim == 4:
                return output.mean(dim=(2, 3))
            if output.ndim == 3:
                has_class = isinstance(getattr(self.backbone, "cls_token", None), Tensor)
                return output[:, 0] if has_class else output.mean(dim=1)
        what = f"shape {list(output.shape)}" if isinstance(output, Tensor) else "no tensor"
        raise UsageError(f"layer '{self.layer}' gives out {what}, no features; choose another")
