"""Steps are only timed beside each other where they do the same work."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest
import torch
import torch.nn.functional as F

from moco.benchmark.steps import comparing, equal_work
from moco.benchmark.steps.comparing import compare_steps
from moco.benchmark.steps.equal_work import check_equal_work, compare_work, first_work
from moco.benchmark.steps.learner import StepRow
from moco.benchmark.steps.official_step import top_shares
from moco.benchmark.steps.residual import residual_backbone
from moco.benchmark.steps.rows import (
    common_start,
    official_in_our_groups,
    official_rows,
    official_step,
    our_rows,
    our_step,
)
from moco.encoders import build_backbone
from moco.errors import UsageError
from moco.recipe import Recipe
from moco.recipe_files import set_fields
from moco.recipes import RECIPES

CPU = torch.device("cpu")
NAMES = ["cifar10-resnet18", "cifar10-resnet18-symmetric", "moco-v2"]


@pytest.fixture
def tiny(tiny_settings: list[str]) -> Callable[..., Recipe]:
    def recipe(name: str = "cifar10-resnet18", *more: str) -> Recipe:
        return set_fields(RECIPES[name], [*tiny_settings, *more])

    return recipe


@pytest.mark.parametrize("name", NAMES)
def test_ours_and_the_official_do_the_same(name: str, tiny: Callable[..., Recipe]) -> None:
    start = common_start(tiny(name), CPU)
    (ours, *_), _ = our_rows(start)
    official = official_in_our_groups(start)
    theirs = first_work(StepRow("", "", "", 16, official, start.views, CPU))
    found = first_work(ours)
    assert found.losses == pytest.approx(theirs.losses, rel=1e-5)
    assert found.moved == pytest.approx(theirs.moved, rel=1e-5)
    assert found.keys_moved == pytest.approx(theirs.keys_moved, rel=1e-4)
    assert found.stored == pytest.approx(theirs.stored, rel=1e-5)
    assert found.parameters == theirs.parameters
    assert found.losses[0] != found.losses[1]
    assert found.keys_moved > 0
    pairs = zip(ours.learner.encoder.parameters(), official.encoder.parameters(), strict=True)
    assert all(torch.allclose(a, b, rtol=1e-3, atol=1e-5) for a, b in pairs)


def test_one_batch_norm_is_what_the_official_has(tiny: Callable[..., Recipe]) -> None:
    start = common_start(tiny("moco-v2", "batch_norm_groups=1"), CPU)
    works = check_equal_work([*our_rows(start)[0], *official_rows(start)], start)
    first = works["official"].losses
    assert works["ours"].losses == pytest.approx(first, rel=1e-5)
    assert works["official_tuned"].losses == pytest.approx(first, rel=1e-4)


def test_lower_precision_is_held_to_the_official_too(tiny: Callable[..., Recipe]) -> None:
    start = common_start(tiny(), CPU)
    ours = our_step(start, torch.bfloat16)
    tuned = official_step(start, precision=torch.bfloat16, layout=torch.channels_last)
    rows = [
        StepRow("ours", "", "", 16, ours, start.views, CPU, exact=False),
        StepRow("official_tuned", "", "", 16, tuned, start.views, CPU, exact=False),
        official_rows(start)[0],
    ]
    works = check_equal_work(rows, start)
    assert works["official_tuned"].losses != works["official"].losses


def idle(*_: Any, **__: Any) -> None:
    pass


@pytest.mark.parametrize(
    ("leaves_out", "told"),
    [
        ("_move_key_encoder", "way of the key weights"),
        ("_store", "change of the queue"),
        ("step", "way of the weights"),
    ],
)
def test_a_row_that_leaves_something_out_is_refused(
    leaves_out: str,
    told: str,
    tiny: Callable[..., Recipe],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    start = common_start(tiny(), CPU)
    whole, crippled = official_rows(start)
    learner: Any = crippled.learner
    monkeypatch.setattr(learner.optimizer if leaves_out == "step" else learner, leaves_out, idle)
    with pytest.raises(ValueError, match=told):
        check_equal_work([whole, crippled], start)


def test_another_loss_or_network_is_refused(tiny: Callable[..., Recipe]) -> None:
    start = common_start(tiny(), CPU)
    row = official_rows(start)[0]
    work = first_work(row)
    compare_work(row, work, work)
    for other, told in (
        (replace(work, losses=[work.losses[0] * 1.01, work.losses[1]]), "loss of the first step"),
        (replace(work, losses=[work.losses[0], float("nan")]), "loss of the last step"),
        (replace(work, parameters=work.parameters - 1), "weights"),
        (replace(work, operations=round(work.operations * 0.9)), "operations a step"),
    ):
        with pytest.raises(ValueError, match=told):
            compare_work(row, other, work)


def test_nothing_is_timed_where_work_differs(
    tiny: Callable[..., Recipe], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(equal_work, "EXACT", -1.0)
    monkeypatch.setattr(comparing, "rates_in_turn", lambda *_, **__: pytest.fail("timed"))
    with pytest.raises(ValueError, match="other work"):
        compare_steps(tiny(), rounds=1, seconds=1e-6, device=CPU)


def test_times_every_row_in_every_round(tiny: Callable[..., Recipe]) -> None:
    found = compare_steps(tiny(), rounds=2, seconds=1e-6, device=CPU)
    names = [result.row.name for result in found.results]
    assert {"ours", "official", "official_tuned"} <= set(names)
    assert ("ours_float32" in names) != ("ours_float32" in found.left_out)
    assert ("lightly" in names) != ("lightly" in found.left_out)
    for result in found.results:
        assert len(result.rates) == len(result.ratios) == 2
        assert result.row.images == 16
        assert min(result.rates) > 0
    official = next(each for each in found.results if each.row.name == "official")
    assert official.ratios == [1.0, 1.0]


@pytest.mark.parametrize(
    ("backbone", "more"),
    [
        ("resnet18", ["width=0.5", "stem=small"]),
        ("resnet34", []),
        ("resnet50", ["width=2"]),
        ("resnet50", ["stage_blocks=[1, 1, 2, 1]"]),
        ("resnet101", []),
        ("resnet152", []),
    ],
)
def test_torchvisions_network_is_ours(backbone: str, more: list[str]) -> None:
    recipe = set_fields(RECIPES["moco-v2"], [f"backbone={backbone}", *more])
    with torch.device("meta"):
        theirs = {
            name: value.shape for name, value in residual_backbone(recipe).state_dict().items()
        }
        ours = build_backbone(recipe.encoder).state_dict()
    assert theirs == {name: value.shape for name, value in ours.items()}


def test_both_networks_give_the_same_features(tiny: Callable[..., Recipe]) -> None:
    for more in (["stem=small"], ["stem=strided"], ["stem=imagenet", "backbone=resnet50"]):
        recipe = tiny("moco-v2", *more)
        ours, theirs = build_backbone(recipe.encoder, 16), residual_backbone(recipe)
        theirs.load_state_dict(ours.state_dict())
        view = torch.randn(4, 3, 32, 32)
        assert torch.allclose(ours.eval()(view), theirs.eval()(view), atol=1e-5)


@pytest.mark.parametrize(
    ("name", "more", "told"),
    [
        ("moco-v3-resnet50", [], "no mechanism in_batch"),
        ("moco-v2", ["backbone=resnext50_32x4d"], "no encoder.backbone resnext50_32x4d"),
        ("moco-v2", ["filled_only=true"], "no dictionary.filled_only"),
        ("moco-v2", ["algorithm=adamw"], "no optimizer.algorithm adamw"),
        ("moco-v2", ["dictionary.size=1000"], "a multiple of 256, not 1000"),
        ("moco-v2", ["symmetric=true", "dictionary.size=768"], "a multiple of 512, not 768"),
    ],
)
def test_recipes_that_the_official_step_is_not_for(name: str, more: list[str], told: str) -> None:
    with pytest.raises(UsageError, match=told):
        compare_steps(set_fields(RECIPES[name], more), rounds=1, seconds=1, device=CPU)


def test_the_official_accuracy_counts_places() -> None:
    logits = torch.zeros(4, 8)
    for row, better in enumerate((0, 2, 4, 5)):  # so many keys are nearer than the own one
        logits[row, 1 : 1 + better] = 1.0
        logits[row, 1 + better :] = -1.0
    top1, top5 = top_shares(logits, torch.zeros(4, dtype=torch.long))
    assert (top1.item(), top5.item()) == (25.0, 75.0)


def test_the_official_queue_takes_columns_in_turn(tiny: Callable[..., Recipe]) -> None:
    official = official_step(common_start(tiny(), CPU))
    before = official.queue.clone()
    keys = F.normalize(torch.randn(16, 16), dim=1)
    for begin in (0, 16, 0):
        official._store(keys + begin)
        assert torch.equal(official.queue[:, begin : begin + 16], (keys + begin).T)
    assert not torch.equal(before, official.queue)


def test_the_official_step_tries_convolutions_on_a_gpu_and_nowhere_else(
    tiny: Callable[..., Recipe], monkeypatch: pytest.MonkeyPatch
) -> None:
    official = official_step(common_start(tiny(), CPU))
    seen: list[bool] = []

    def see(*_: Any) -> torch.Tensor:
        seen.append(torch.backends.cudnn.benchmark)
        return torch.zeros(())

    monkeypatch.setattr(official, "_step", see)
    view = torch.zeros(2, 3, 16, 16)
    official.step(view, view)
    monkeypatch.setattr(official, "device", torch.device("cuda"))
    official.step(view, view)
    assert seen == [False, True]
    assert not torch.backends.cudnn.benchmark
