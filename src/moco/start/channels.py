"""The first layer of a backbone for images of other channels than it was trained on.

Letters: O filters, C channels, H rows, W columns.
"""

from __future__ import annotations

from typing import Literal

from torch import Tensor, nn

from moco.errors import UsageError


def first_layer(backbone: nn.Module) -> str | None:
    """Return the name of the weight that meets the image, None where no convolution does."""
    for name, layer in backbone.named_modules():
        if isinstance(layer, nn.Conv2d):
            return f"{name}.weight"
    return None


def mapped_filters(
    filters: Tensor, channels: int, asked: tuple[int, ...] | Literal["mean"] | None, word: str
) -> Tensor:
    """Return filters [O, channels, H, W] from a file's [O, C, H, W].

    With numbers, each channel of ours has the file's filters of the channel that was named, as they
    are. With "mean", each has the mean over the file's channels times C / channels, so that an
    image of equal channels is answered as before.

    Args:
        asked: as `StartAsked.channels`; None where the channels are the same.
        word: what the file is called.

    Raises:
        UsageError: The channels differ and nobody said how they go together, or numbers do not fit.
    """
    given = filters.shape[1]
    if asked is None:
        if given == channels:
            return filters
        example = ",".join(str(number % given + 1) for number in range(min(channels, 4)))
        raise UsageError(
            f"the first layer of {word} takes {given} channels and the images have {channels}; say "
            f"which of its channels each of yours takes, counted from 1, such as --from-channels "
            f"{example}{',...' if channels > 4 else ''}, or --from-channels mean for their mean"
        )
    if asked == "mean":
        mean = filters.mean(dim=1, keepdim=True) * (given / channels)
        return mean.expand(-1, channels, -1, -1).contiguous()
    if len(asked) != channels:
        raise UsageError(
            f"--from-channels names {len(asked)} channels and the images have {channels}; name one "
            "for each"
        )
    if wrong := [number for number in asked if not 1 <= number <= given]:
        raise UsageError(
            f"--from-channels names channel {wrong[0]} and {word} has 1 to {given}; count from 1"
        )
    return filters[:, [number - 1 for number in asked]].contiguous()
