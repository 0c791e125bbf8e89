"""Weights that somebody keeps in a file, for a network that timm or torchvision builds.

Nothing is downloaded. A pickle is read as a stranger's: tensors and plain values alone.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import torch
from torch import Tensor, nn

from moco.checkpoint_reading import read_train_state, read_weights
from moco.errors import DataError

WRAPPERS = ("state_dict_ema", "state_dict", "model_ema", "model", "model_state_dict")
"""What files call the weights that they hold beside other things; the first that is there."""
PREFIX = "module."
"""Before every name of a network that was wrapped for several GPUs."""
MOST_NAMED = 3


def read_weights_file(path: Path) -> dict[str, Tensor]:
    """Return the weights in a .safetensors file, or in one that `torch.save` wrote, by name.

    Raises:
        DataError: It is missing, damaged, asks to run code, or holds no weights.
    """
    try:
        if path.suffix.lower() == ".safetensors":
            return read_weights(path)
        found: Mapping[str, object] = read_train_state(path)
    except OSError as error:
        raise DataError(f"weights {path} cannot be read: {error.strerror or error}") from error
    except Exception as error:  # whatever readers say of a damaged file
        raise DataError(
            f"weights {path} cannot be used ({error!s:.200}); name a .safetensors file, or a .pth "
            "file of tensors as torch.save writes it"
        ) from error
    inner = next((each for name in WRAPPERS if isinstance(each := found.get(name), dict)), found)
    weights = {str(name): value for name, value in inner.items() if isinstance(value, Tensor)}
    if not weights:
        raise DataError(f"weights {path} hold no tensors by name; name a file of weights")
    if all(name.startswith(PREFIX) for name in weights):
        weights = {name.removeprefix(PREFIX): value for name, value in weights.items()}
    return weights


def load_into(network: nn.Module, path: Path, title: str, *, left_out: tuple[str, ...]) -> None:
    """Give a network the weights of a file.

    Args:
        title: what a person calls the network.
        left_out: the layers of the classifier, which the network no longer has.

    Raises:
        DataError: The file cannot be read, or its weights are of another network.
    """
    weights = read_weights_file(path)
    mine = network.state_dict()
    given = {
        name: value
        for name, value in weights.items()
        if name in mine or not name.startswith(tuple(f"{layer}." for layer in left_out))
    }
    wrong = [
        *(f"{name} is missing" for name in mine if name not in given),
        *(f"{name} is unknown" for name in given if name not in mine),
        *(
            f"{name} is {list(given[name].shape)}, not {list(value.shape)}"
            for name, value in mine.items()
            if name in given and given[name].shape != value.shape
        ),
    ]
    if wrong:
        more = f", and {len(wrong) - MOST_NAMED} more" if len(wrong) > MOST_NAMED else ""
        raise DataError(
            f"{path} holds weights of another network than {title}: "
            f"{'; '.join(wrong[:MOST_NAMED])}{more}"
        )
    with torch.no_grad():
        network.load_state_dict(given)
