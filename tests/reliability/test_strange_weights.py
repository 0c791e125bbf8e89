"""Tensors that no network has, in files that are otherwise right: refused in a line, whatever."""

from __future__ import annotations

import random
import time
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from moco.encoders import build_backbone
from moco.errors import MocoError
from moco.foreign import read_foreign
from moco.specs import EncoderSpec

FILES = 60
SMALL = EncoderSpec(backbone="resnet18", width=1 / 16)


def official() -> dict[str, Tensor]:
    """Return a small official v2 state."""
    backbone = build_backbone(SMALL)
    head = nn.Sequential(nn.Linear(32, 32), nn.ReLU(), nn.Linear(32, 8))
    state: dict[str, Tensor] = {}
    for part in ("encoder_q", "encoder_k"):
        for prefix, network in ((f"module.{part}.", backbone), (f"module.{part}.fc.", head)):
            state |= {prefix + name: value for name, value in network.state_dict().items()}
    return state | {"module.queue": torch.randn(8, 16), "module.queue_ptr": torch.tensor([4])}


def transformer() -> dict[str, Tensor]:
    """Return the shapes of a ViT's state, narrow."""
    state = {
        "cls_token": torch.zeros(1, 1, 24),
        "pos_embed": torch.zeros(1, 197, 24),
        "patch_embed.proj.weight": torch.zeros(24, 3, 16, 16),
    }
    for block in range(3):
        state[f"blocks.{block}.norm1.weight"] = torch.zeros(24)
        state[f"blocks.{block}.attn.qkv.weight"] = torch.zeros(72, 24)
    return {f"module.base_encoder.{name}": value for name, value in state.items()}


def strange(value: Tensor, draw: random.Random) -> Any:
    """Return another value in a tensor's place."""
    return draw.choice(
        [
            torch.empty(2**40, 0),
            torch.empty(0, 2**40, 1, 1),
            torch.zeros(()),
            torch.zeros(0),
            torch.zeros(3, dtype=torch.bool),
            torch.zeros(value.shape, dtype=torch.float16),
            torch.zeros(value.shape, dtype=torch.int64),
            value.flatten()[:0],
            value.flatten(),
            value[None],
            "text",
            None,
            [1],
        ]
    )


@pytest.mark.slow
@pytest.mark.parametrize("make", [official, transformer])
def test_no_strange_tensor_is_more_than_a_line(make: Any, tmp_path: Path) -> None:
    draw, file, told = random.Random(11), tmp_path / "x.pth", list[str]()
    whole, read_whole = make(), 0
    for _ in range(FILES):
        state = dict(whole)
        outer = [name for name in whole if ".fc." in name or "queue" in name or ".conv1" in name]
        names = outer if draw.random() < 0.6 else list(whole)
        for name in draw.sample(names or list(whole), draw.randrange(1, 4)):
            match draw.randrange(4):
                case 0:
                    del state[name]
                case 1:
                    state[name[: draw.randrange(len(name))]] = state.pop(name)
                case _:
                    state[name] = strange(state[name], draw)
        torch.save({"state_dict": state, "epoch": draw.choice([1, -1, "x", None])}, file)
        try:
            read_foreign(file)
            read_whole += 1
        except MocoError as error:
            told.append(str(error))
    assert len(told) > FILES / 2
    assert len(told) + read_whole == FILES
    assert all(line.startswith(f"weights {file}") and "\n" not in line for line in told)


def test_a_head_of_very_many_rows_without_numbers_is_refused(tmp_path: Path) -> None:
    state = {name: value for name, value in official().items() if ".fc." not in name}
    for part in ("encoder_q", "encoder_k"):
        for layer, rows in (("0", 2**40), ("3", 2**40), ("6", 8)):
            empty = torch.empty(rows, 0) if rows > 8 else torch.ones(rows, 4)
            state[f"module.{part}.fc.{layer}.weight"] = empty
    torch.save({"state_dict": state}, tmp_path / "x.pth")
    with pytest.raises(MocoError, match="not a whole head"):
        read_foreign(tmp_path / "x.pth")


def test_a_network_of_very_many_blocks_is_refused_soon(tmp_path: Path) -> None:
    state = official()
    for stage in (1, 2, 3, 4):
        state[f"module.encoder_q.layer{stage}.999.conv2.weight"] = torch.zeros(4, 4, 3, 3)
    torch.save({"state_dict": state}, tmp_path / "x.pth")
    began = time.monotonic()
    with pytest.raises(MocoError, match="lacks"):
        read_foreign(tmp_path / "x.pth")
    assert time.monotonic() - began < 20
