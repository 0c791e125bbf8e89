"""Ours to the official full checkpoint and back: the same bits, and the run goes on unchanged."""

from __future__ import annotations

import copy
import json
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
import torchvision
from torch import Tensor, nn

from moco.build import build_contrast, build_optimizer
from moco.checkpoint import Checkpoint, Identity, load_newest, save_checkpoint
from moco.checkpoint_reading import read_train_state
from moco.cli.main import main
from moco.contrast import Contrast
from moco.errors import CheckpointError, InterruptedRunError, UsageError
from moco.foreign.official_names import official_tensors, official_weights
from moco.foreign.official_state import EXTRA, from_official, read_official, to_official
from moco.plan import make_plan
from moco.pretraining import train
from moco.recipe import Recipe
from moco.recipe_files import set_fields, write_recipe
from moco.recipes import MOCO_V1, MOCO_V2, MOCO_V3_RESNET50, MOCO_V3_VIT_SMALL

LEFT_AT, STEPS = 10, 24
"""In the third of six epochs."""


@pytest.fixture(scope="module")
def recipe(tiny_settings: list[str]) -> Recipe:
    return set_fields(MOCO_V2, [*tiny_settings, "epochs=6", "exclude_same_image=true"])


@pytest.fixture(scope="module")
def left(photos: Path, recipe: Recipe, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a run that was stopped inside an epoch."""
    run = tmp_path_factory.mktemp("left") / "run"
    plan = make_plan(photos, recipe=recipe, run=run, device="cpu", workers=0)
    taken = iter(range(LEFT_AT))
    with pytest.raises(InterruptedRunError):
        train(plan, stop=lambda: 75 if next(taken) == LEFT_AT - 1 else None)
    return run


def newest(run: Path) -> Checkpoint:
    checkpoint = load_newest(run)
    assert checkpoint is not None
    return checkpoint


def through_a_file(content: Mapping[str, Any], at: Path) -> dict[str, Any]:
    torch.save(content, at)
    return read_train_state(at, of_modules=True)


def assert_same(one: Any, other: Any, where: str = "") -> None:
    assert type(one) is type(other), where
    if isinstance(one, Tensor):
        assert one.dtype == other.dtype, where
        assert torch.equal(one, other), where
    elif isinstance(one, dict):
        assert set(one) == set(other), where
        for name in one:
            assert_same(one[name], other[name], f"{where}/{name}")
    elif isinstance(one, list):
        assert len(one) == len(other), where
        for number, pair in enumerate(zip(one, other, strict=True)):
            assert_same(*pair, f"{where}/{number}")
    else:
        assert one == other, where


def test_there_and_back_is_the_same_bits(left: Path, tmp_path: Path) -> None:
    ours = newest(left)
    back = from_official(through_a_file(to_official(ours), tmp_path / "official.pth.tar"))
    del ours.train_state["step"]  # which the file's own writer puts there
    assert (back.step, back.identity) == (LEFT_AT, ours.identity)
    assert_same(back.model, ours.model)
    assert_same(back.train_state, ours.train_state)
    momenta = [of["momentum_buffer"] for of in back.train_state["optimizer"]["state"].values()]
    assert any(momentum.any() for momentum in momenta)


def losses(run: Path, start: int) -> list[float]:
    rows = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    return [row["loss"] for row in rows if row["step"] >= start]


@pytest.mark.slow
def test_the_command_goes_on_from_it_as_if_never_left(
    left: Path, recipe: Recipe, photos: Path, tmp_path: Path
) -> None:
    content = through_a_file(to_official(newest(left)), tmp_path / "official.pth.tar")
    stayed, moved = tmp_path / "stayed", tmp_path / "moved"
    moved.mkdir()
    save_checkpoint(moved, from_official(content))
    write_recipe(tmp_path / "recipe.yaml", recipe)
    for run in (stayed, moved):
        asked = ["pretrain", str(photos), "--recipe", str(tmp_path / "recipe.yaml")]
        assert main([*asked, "--run", str(run), "--device", "cpu", "--workers", "0"]) == 0
    assert len(losses(moved, LEFT_AT)) == STEPS - LEFT_AT >= 10
    assert losses(moved, LEFT_AT) == losses(stayed, LEFT_AT)
    assert_same(newest(moved).model, newest(stayed).model)


class OfficialModel(nn.Module):
    """What `main_moco.py` builds and saves, written anew: two networks and a queue."""

    def __init__(self, arch: str, dim: int, size: int, *, mlp: bool) -> None:
        super().__init__()
        self.encoder_q = torchvision.models.get_model(arch, num_classes=dim)
        self.encoder_k = torchvision.models.get_model(arch, num_classes=dim)
        for encoder in (self.encoder_q, self.encoder_k):
            if mlp:
                wide = encoder.fc.in_features
                encoder.fc = nn.Sequential(nn.Linear(wide, wide), nn.ReLU(), encoder.fc)
        self.encoder_k.requires_grad_(False)
        self.register_buffer("queue", torch.randn(dim, size))
        self.register_buffer("queue_ptr", torch.zeros(1, dtype=torch.long))


def made(recipe: Recipe, step: int = 7) -> tuple[Checkpoint, Contrast]:
    """Return a checkpoint in which no two numbers are alike, and its contrast."""
    contrast = build_contrast(recipe, images=64, seed=3)
    with torch.no_grad():
        for value in contrast.state_dict().values():
            value += 0.01 * torch.rand(value.shape) if value.is_floating_point() else 1
    optimizer = build_optimizer(recipe.optimizer, contrast)
    for weight in contrast.parameters():
        if weight.requires_grad:
            weight.grad = torch.randn_like(weight)
    optimizer.step()
    state = {"optimizer": optimizer.state_dict(), "left_out": {"total": 0, "in_a_row": 0}}
    identity = Identity(recipe, 5, 64, "f")
    return Checkpoint(step, contrast.state_dict(), state, identity), contrast


def tiny_official(base: Recipe) -> Recipe:
    return set_fields(
        base,
        ["encoder.backbone=resnet18", "dim=16", "batch_size=16", "batch_norm_groups=2", "size=32"],
    )


@pytest.mark.parametrize("base", [MOCO_V1, MOCO_V2], ids=["v1", "v2"])
def test_the_official_scripts_take_it(base: Recipe, tmp_path: Path) -> None:
    ours, contrast = made(tiny_official(base))
    content = through_a_file(to_official(ours), tmp_path / "x.pth.tar")
    assert (content["epoch"], content["arch"]) == (1, "resnet18")  # 4 steps an epoch, 7 done

    # main_moco.py --resume
    model = OfficialModel("resnet18", 16, 32, mlp=base is MOCO_V2)
    inner = {name.removeprefix("module."): value for name, value in content["state_dict"].items()}
    assert list(inner) == list(model.state_dict())
    model.load_state_dict(inner, strict=True)
    optimizer = torch.optim.SGD(model.parameters(), 0.03, momentum=0.9, weight_decay=1e-4)
    optimizer.load_state_dict(content["optimizer"])
    pictures = torch.randn(2, 3, 32, 32)
    contrast.eval()
    model.eval()
    for official, own in (
        (model.encoder_q, contrast.encoder),
        (model.encoder_k, contrast.key_encoder),
    ):
        torch.testing.assert_close(official(pictures), own(pictures))
    assert torch.equal(model.queue.T, contrast.dictionary.keys)
    assert int(model.queue_ptr) == 1

    # every weight's momentum is its own: the next official step is ours
    weights = [weight for weight in contrast.parameters() if weight.requires_grad]
    momenta = ours.train_state["optimizer"]["state"]
    for number, (weight, own) in enumerate(zip(model.encoder_q.parameters(), weights, strict=True)):
        assert torch.equal(weight, own)
        assert torch.equal(
            optimizer.state[weight]["momentum_buffer"], momenta[number]["momentum_buffer"]
        )
    assert not any(weight in optimizer.state for weight in model.encoder_k.parameters())

    # main_lincls.py --pretrained
    classifier = torchvision.models.resnet18()
    stripped = {
        name.removeprefix("module.encoder_q."): value
        for name, value in content["state_dict"].items()
        if name.startswith("module.encoder_q") and not name.startswith("module.encoder_q.fc")
    }
    report = classifier.load_state_dict(stripped, strict=False)
    assert set(report.missing_keys) == {"fc.weight", "fc.bias"}
    assert not report.unexpected_keys


@pytest.mark.parametrize("arch", ["resnet50", "resnext50_32x4d"])
def test_names_and_their_order_are_torchvisions(arch: str) -> None:
    recipe = replace(MOCO_V2, encoder=replace(MOCO_V2.encoder, backbone=arch))
    with torch.device("meta"):
        model = OfficialModel(arch, 128, 65536, mlp=True)
    names = [named.official for named in official_tensors(recipe)]
    assert names == [f"module.{name}" for name in model.state_dict() if "queue" not in name]
    weights = [named.official for named in official_weights(official_tensors(recipe))]
    assert weights == [f"module.{name}" for name, _ in model.named_parameters()]


@pytest.mark.parametrize("base", [MOCO_V3_RESNET50, MOCO_V3_VIT_SMALL], ids=["resnet", "vit"])
def test_v3_goes_there_and_back(base: Recipe, tmp_path: Path) -> None:
    fields = ["batch_size=16", "head_width=8", "dim=4", "image_size=32", "evaluation_size=32"]
    if base is MOCO_V3_RESNET50:
        fields += ["encoder.backbone=resnet18", "encoder.width=0.125"]
    ours, _ = made(set_fields(base, fields), step=8)
    content = through_a_file(to_official(ours), tmp_path / "x.pth.tar")
    back = from_official(content)
    assert_same(back.model, dict(ours.model))
    assert_same(back.train_state, ours.train_state)
    state = content["state_dict"]
    head = "fc" if base is MOCO_V3_RESNET50 else "head"
    layers = "0134" if base is MOCO_V3_RESNET50 else "013467"
    for encoder in ("base_encoder", "momentum_encoder"):
        of_head = {n.split(".")[3] for n in state if n.startswith(f"module.{encoder}.{head}.")}
        assert of_head == set(layers)
    assert {n.split(".")[2] for n in state if n.startswith("module.predictor.")} >= {"0", "1", "3"}
    assert content["scaler"]["scale"] == 65536.0
    values = next(iter(content["optimizer"]["state"].values()))
    assert ("mu" in values) == (base is MOCO_V3_RESNET50)
    (group,) = content["optimizer"]["param_groups"]
    count = sum(name.is_weight for name in official_tensors(ours.identity.recipe))
    assert group["params"] == list(range(count))
    assert max(content["optimizer"]["state"]) == count - 1  # of the predictor, after the key's
    assert content["arch"] == ("resnet18" if base is MOCO_V3_RESNET50 else "vit_small")


@pytest.fixture(scope="module")
def official(recipe: Recipe) -> dict[str, Any]:
    return to_official(made(recipe)[0])


def test_weights_may_be_numbered_by_address_as_old_torch_did(
    official: dict[str, Any], recipe: Recipe
) -> None:
    content = copy.deepcopy(official)
    expected = read_official(content, recipe).optimizer
    optimizer = content["optimizer"]
    old = {number: 140000 - 64 * number for number in optimizer["param_groups"][0]["params"]}
    optimizer["state"] = {old[number]: of for number, of in optimizer["state"].items()}
    optimizer["param_groups"][0]["params"] = list(old.values())
    assert_same(read_official(content, recipe).optimizer, expected)


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        (lambda c: c.pop("state_dict"), "it has no state_dict"),
        (
            lambda c: c["state_dict"].pop("module.encoder_k.bn1.running_var"),
            "has no module.encoder_k.bn1.running_var",
        ),
        (lambda c: c["state_dict"].update({"module.x": torch.zeros(1)}), "has also module.x"),
        (
            lambda c: c["state_dict"].update({"module.encoder_q.conv1.weight": torch.zeros(1)}),
            r"module.encoder_q.conv1.weight has shape \[1\]",
        ),
        (lambda c: c["state_dict"].update({"module.queue": torch.zeros(16, 8)}), "dictionary.size"),
        (lambda c: c["state_dict"].update({"module.queue_ptr": torch.tensor([32])}), "no slot"),
        (lambda c: c.update(epoch=-1), "epoch is -1"),
        (lambda c: c.update(epoch="1"), "epoch is '1'"),
        (lambda c: c.pop(EXTRA), "'moco'"),
        (lambda c: c.update({EXTRA: 3}), "'moco'"),
        (lambda c: c[EXTRA].update(format_version=2), "update moco"),
        (lambda c: c[EXTRA].update(step=-1), "step is -1"),
        (lambda c: c[EXTRA].update(recipe={}), "the recipe has no field"),
        (lambda c: c[EXTRA].update(queue_image_ids=torch.zeros(3)), "queue_image_ids"),
        (lambda c: c[EXTRA].update(train_state=[3]), "'moco'"),
    ],
)
def test_a_file_that_does_not_fit_is_refused_by_name(
    change: Any, reason: str, official: dict[str, Any]
) -> None:
    content = copy.deepcopy(official)
    change(content)
    with pytest.raises(CheckpointError, match=reason):
        from_official(content)


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        (lambda o: o["param_groups"][0]["params"].pop(), "lists"),
        (lambda o: o["state"].pop(4), "nothing on module.encoder_q"),
        (lambda o: o["state"].update({0: o["state"][3]}), "momentum_buffer of module.encoder_q"),
        (lambda o: o["state"].update({0: {"momentum_buffer": None}}), "no tensor for"),
        (lambda o: o.clear(), "laid out"),
    ],
)
def test_an_optimizer_of_other_weights_is_not_taken(
    change: Any, reason: str, official: dict[str, Any], recipe: Recipe
) -> None:
    content = copy.deepcopy(official)
    change(content["optimizer"])
    found = read_official(content, recipe)
    assert found.optimizer is None
    assert reason in found.without_optimizer


@pytest.mark.parametrize("settings", [["mechanism=memory_bank"], ["encoder.predictor=mlp"]])
def test_methods_without_an_official_layout_are_refused(settings: list[str]) -> None:
    recipe = set_fields(MOCO_V1, settings)
    with pytest.raises(UsageError, match="no official checkpoint layout"):
        to_official(Checkpoint(1, {}, {}, Identity(recipe, 0, 64, "f")))
