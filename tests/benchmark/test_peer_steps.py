"""Other libraries' steps: put together as their examples do, held to equal work, or left out."""

from __future__ import annotations

import importlib.util
import sys
from collections.abc import Callable
from types import ModuleType, SimpleNamespace
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from moco.benchmark.steps.equal_work import check_equal_work
from moco.benchmark.steps.peer_steps import LightlyStep, peer_rows
from moco.benchmark.steps.rows import Start, common_start, official_rows
from moco.benchmark.steps.solo_step import SoloStep
from moco.recipe_files import set_fields
from moco.recipes import RECIPES

CPU = torch.device("cpu")


@pytest.fixture
def start(tiny_settings: list[str]) -> Callable[..., Start]:
    def common(name: str, *more: str) -> Start:
        return common_start(set_fields(RECIPES[name], [*tiny_settings, *more]), CPU)

    return common


class BankLoss(nn.Module):
    """A fake of lightly's loss: gives the negatives that it had, then takes the keys in."""

    def __init__(self, *, temperature: float, memory_bank_size: tuple[int, int]) -> None:
        super().__init__()
        self.temperature, self.begin = temperature, 0
        self.memory_bank = nn.Module()
        self.memory_bank.register_buffer("bank", torch.zeros(memory_bank_size))

    def forward(self, queries: Tensor, keys: Tensor) -> Tensor:
        queries, keys = F.normalize(queries, dim=1), F.normalize(keys, dim=1)
        bank: Any = self.memory_bank.bank
        own = (queries * keys).sum(dim=1, keepdim=True)
        logits = torch.cat([own, queries @ bank.clone().T], dim=1) / self.temperature
        bank[self.begin : self.begin + len(keys)] = keys
        self.begin += len(keys)
        return F.cross_entropy(logits, torch.zeros(len(keys), dtype=torch.long))


def update_momentum(model: nn.Module, slow: nn.Module, m: float) -> None:
    for weight, kept in zip(model.parameters(), slow.parameters(), strict=True):
        kept.data.lerp_(weight.data, 1 - m)


def projection(features: int, hidden: int, dim: int) -> nn.Module:
    return nn.Sequential(nn.Linear(features, hidden), nn.ReLU(), nn.Linear(hidden, dim))


@pytest.fixture
def lightly(monkeypatch: pytest.MonkeyPatch) -> SimpleNamespace:
    parts: dict[str, Any] = {
        "loss": SimpleNamespace(NTXentLoss=BankLoss),
        "models": ModuleType("models"),
        "models.modules": SimpleNamespace(MoCoProjectionHead=projection),
        "models.utils": SimpleNamespace(
            update_momentum=update_momentum,
            deactivate_requires_grad=lambda module: module.requires_grad_(False),
        ),
    }
    monkeypatch.setitem(sys.modules, "solo", None)
    monkeypatch.setitem(sys.modules, "lightly", ModuleType("lightly"))
    for name, module in parts.items():
        monkeypatch.setitem(sys.modules, f"lightly.{name}", module)
    return parts["models.utils"]  # type: ignore[no-any-return]


@pytest.mark.parametrize("name", ["moco-v1", "moco-v2"])
def test_lightlys_parts_do_the_official_work(
    name: str, start: Callable[..., Start], lightly: SimpleNamespace
) -> None:
    begun = start(name)
    rows, _ = peer_rows(begun)
    row = next(row for row in rows if row.name == "lightly")
    official = official_rows(begun)[0]
    works = check_equal_work([official, row], begun)
    assert works["lightly"].losses == pytest.approx(works["official"].losses, rel=1e-5)


def test_a_crippled_library_is_refused(
    start: Callable[..., Start], lightly: SimpleNamespace
) -> None:
    lightly.update_momentum = lambda *_, **__: None
    begun = start("moco-v2")
    rows, _ = peer_rows(begun)
    with pytest.raises(ValueError, match=r"lightly.*way of the key weights"):
        check_equal_work([official_rows(begun)[0], rows[0]], begun)


def test_a_symmetric_recipe_is_not_for_lightly(
    start: Callable[..., Start], lightly: SimpleNamespace
) -> None:
    rows, left_out = peer_rows(start("cifar10-resnet18-symmetric"))
    assert "lightly" not in [row.name for row in rows]
    assert "a symmetric loss of its parts is another one" in left_out["lightly"]


def test_without_them_the_reason_is_told(
    start: Callable[..., Start], monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("lightly", "solo"):
        monkeypatch.setitem(sys.modules, name, None)
    rows, left_out = peer_rows(start("moco-v2"))
    assert rows == []
    assert set(left_out) == {"lightly", "solo_learn"}
    assert all("not installed" in reason for reason in left_out.values())


def test_another_release_without_its_parts_is_left_out(
    start: Callable[..., Start], lightly: SimpleNamespace, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "lightly.loss", SimpleNamespace())
    _, left_out = peer_rows(start("moco-v2"))
    assert left_out["lightly"].startswith("cannot be used: ")


@pytest.mark.skipif(importlib.util.find_spec("lightly") is None, reason="needs lightly")
@pytest.mark.filterwarnings("ignore")
def test_lightly_itself_does_the_official_work(start: Callable[..., Start]) -> None:
    begun = start("moco-v2")
    rows, left_out = peer_rows(begun)
    assert "lightly" not in left_out
    assert isinstance(rows[0].learner, LightlyStep)
    check_equal_work([official_rows(begun)[0], rows[0]], begun)


@pytest.mark.skipif(importlib.util.find_spec("solo") is None, reason="needs solo-learn")
@pytest.mark.filterwarnings("ignore")
def test_solo_learn_itself_does_the_official_work(start: Callable[..., Start]) -> None:
    for begun in (start("moco-v2", "symmetric=true"), start("cifar10-resnet18-symmetric")):
        rows, left_out = peer_rows(begun)
        assert "solo_learn" not in left_out
        assert isinstance(rows[-1].learner, SoloStep)
        works = check_equal_work([official_rows(begun)[0], rows[-1]], begun)
        assert works["solo_learn"].losses[0] == pytest.approx(works["official"].losses[0], rel=1e-5)
    assert "always symmetric" in peer_rows(start("moco-v2"))[1]["solo_learn"]
