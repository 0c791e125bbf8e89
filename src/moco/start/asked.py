"""What a user says of where a run begins; no torch in here."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Literal, get_args

from moco.errors import UsageError
from moco.specs import MOST_CHANNELS

StartKind = Literal["continue", "backbone"]
"""continue: all of a checkpoint, its step too; backbone: that alone, with all else new."""
MEAN = "mean"


@dataclass(frozen=True)
class StartAsked:
    """Where a run is to begin.

    Args:
        word: a file of weights, a run or checkpoint directory, a directory of a fine-tuned network,
            timm:NAME@FILE or torchvision:NAME@FILE.
        kind: None continues what can be continued and takes the backbone of all else.
        channels: which channel of the file's each of ours takes, counted from 1; "mean": each takes
            the mean of them all; None where the images have the same channels.
    """

    word: str
    kind: StartKind | None = None
    channels: tuple[int, ...] | Literal["mean"] | None = None


def start_asked(
    word: str | Path | None, kind: str = "auto", channels: str | None = None
) -> StartAsked | None:
    """Return what was asked for, None where a run begins at random.

    Raises:
        UsageError: A word is none of those there are, or an option needs --from.
    """
    if word is None:
        if kind != "auto" or channels is not None:
            raise UsageError("--from-as and --from-channels need --from; add it, or leave them out")
        return None
    kinds = get_args(StartKind)
    if kind not in ("auto", *kinds):
        raise UsageError(f"--from-as must be auto, {' or '.join(kinds)}, got '{kind:.40}'")
    if not str(word):
        raise UsageError("--from is empty; name a file of weights or a run")
    return StartAsked(
        str(word), next((each for each in kinds if each == kind), None), _read(channels)
    )


def _read(channels: str | None) -> tuple[int, ...] | Literal["mean"] | None:
    if channels is None or channels == MEAN:
        return "mean" if channels else None
    words = channels.split(",")
    if len(words) > MOST_CHANNELS or not all(
        word.strip().isdecimal() and 1 <= len(word.strip()) <= 4 for word in words
    ):
        raise UsageError(
            f"--from-channels {channels:.40} is neither 'mean' nor numbers such as 3,2,1, counted "
            "from 1"
        )
    return tuple(int(word) for word in words)
